//! The driver over a card that is played.

use super::model::Played82574;
use super::registers::*;
use super::*;
use crate::nic::intel::Context;
use crate::nic::intel::suite::{bench, config, intel_suite};
use crate::nic::test_cards::{frame, receive, send, send_with};
use crate::packet::Offload;

intel_suite!(Played82574);
intel_suite!(Played82574: counters_that_reading_clears_are_added_up a_card_that_stays_in_reset_is_refused);

#[test]
fn the_card_is_told_where_a_checksum_goes() {
    let bench = bench::<Played82574>(config());
    for start in [34, 34, 54, 239] {
        assert_eq!(bench.sum(300, start, 16).checksum, Some(Context::Sum { start, offset: 16 }));
    }
    // Beyond what the card can name: done in software, wherever the field is in the head.
    assert_eq!(bench.sum(250, 230, 16).checksum, Some(Context::Sum { start: 230, offset: 16 }));
    let far = Offload { needs_csum: true, csum_start: 230, csum_offset: 26, ..Offload::default() };
    let mut tx = bench.port.tx_queue(0).unwrap();
    assert_eq!(send_with(&mut *tx, &[frame(258, 0)], far), 0);
    assert_eq!(
        tx.counters().drops.nonzero().map(|(_, n)| n).sum::<u64>(),
        1,
        "an odd place, dropped with a reason"
    );
}

#[test]
fn queues_share_what_comes() {
    let bench = bench::<Played82574>(NicConfig { queues: 2, ..config() });
    let chip = bench.chip.lock();
    assert_eq!(chip.registers[&MRQC], MRQC_RSS | MRQC_FIELDS);
    assert_eq!(chip.registers[&IVAR], 0x0008_00a9, "other on 0, queue 0 on 1, queue 1 on 2");
    drop(chip);
    let mut rx = bench.port.rx_queue(1).unwrap();
    let mut tx = bench.port.tx_queue(1).unwrap();
    assert!(bench.chip.lock().deliver(bench.function.dma_view(), 1, &frame(100, 1)));
    assert_eq!(receive(&mut *rx), [frame(100, 1)]);
    assert_eq!(send(&mut *tx, &[frame(99, 1)]), 1);
    assert_eq!(bench.function.writes_at(0, TX_TAIL + QUEUE), 2, "zero at the start, then the frame");
}
