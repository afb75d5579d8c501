//! The driver over a card that is played.

use super::model::Played82576;
use super::registers::*;
use super::*;
use crate::nic::intel::Context;
use crate::nic::intel::suite::{bench, config, intel_suite};
use crate::nic::test_cards::{frame, receive, send};

intel_suite!(Played82576);
intel_suite!(Played82576: counters_that_reading_clears_are_added_up a_card_that_stays_in_reset_is_refused);

#[test]
fn the_card_is_told_where_a_checksum_goes() {
    let bench = bench::<Played82576>(config());
    for (start, offset) in [(34, 16), (34, 16), (54, 6), (200, 16)] {
        assert_eq!(bench.sum(300, start, offset).checksum, Some(Context::Sum { start, offset }));
    }
    // Neither TCP nor UDP: done in software.
    let sent = bench.sum(200, 34, 2);
    assert_eq!(sent.checksum, None);
    assert_ne!(sent.bytes, frame(200, 0));
}

#[test]
fn queues_share_what_comes() {
    let bench = bench::<Played82576>(NicConfig { queues: 2, ..config() });
    let chip = bench.chip.lock();
    assert_eq!(chip.registers[&MRQC], MRQC_RSS | MRQC_FIELDS);
    assert_eq!((chip.registers[&IVAR], chip.registers[&(IVAR + 4)]), (0x81, 0x82));
    assert_eq!(chip.registers[&RETA], 0x0100_0100);
    drop(chip);
    let mut rx = bench.port.rx_queue(1).unwrap();
    let mut tx = bench.port.tx_queue(1).unwrap();
    assert!(bench.chip.lock().deliver(bench.function.dma_view(), 1, &frame(100, 1)));
    assert_eq!(receive(&mut *rx), [frame(100, 1)]);
    assert_eq!(send(&mut *tx, &[frame(99, 1)]), 1);
    assert_eq!(bench.function.writes_at(0, TX_TAIL + QUEUE), 2, "zero at the start, then the frame");
}
