//! TCP segmentation by the gigabit cards of Intel: what the played card cuts must be what software cuts.

use etherparse::PacketBuilder;

use super::model::Played;
use super::suite::{Bench, bench, config};
use crate::nic::NicConfig;
use crate::nic::test_cards::frame;
use crate::offload::Finisher;
use crate::packet::{BatchStorage, Frame, Gso, HEAD_SPLIT, Offload, OffloadCaps, Span};
use crate::port::{DropReason, Offloads, TxQueue};

/// A TCP frame of so much payload behind so many tags, and what is asked for it.
fn tcp(v6: bool, tags: u16, options: &[u8], payload: usize, gso_size: u16) -> (Vec<u8>, Offload) {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder =
        if v6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
    let step = builder.tcp(1000, 80, 0xffff_ff00, 1024).psh().fin().ack(7).options_raw(options).unwrap();
    let mut bytes = Vec::new();
    step.write(&mut bytes, &frame(payload, gso_size.into())).unwrap();
    for tag in 0..tags {
        bytes.splice(12..12, [0x81, 0, 0, tag as u8 + 7]);
    }
    let offload = Offload {
        needs_csum: true,
        gso: if v6 { Gso::TcpV6 } else { Gso::TcpV4 },
        gso_size,
        csum_start: 4 * tags + if v6 { 54 } else { 34 },
        csum_offset: 16,
        ..Offload::default()
    };
    (bytes, offload)
}

/// Sends a frame whose payload lies in chunks of 1000 bytes behind the private head. Says whether it was taken.
fn give(tx: &mut dyn TxQueue, bytes: &[u8], offload: Offload) -> bool {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    let (head, payload) = bytes.split_at(HEAD_SPLIT.min(bytes.len()));
    let packet = batch.start_packet().unwrap();
    packet.receive_head(head.len()).copy_from_slice(head);
    packet.offload = offload;
    payload.chunks(1000).for_each(|chunk| assert!(batch.add_span(Span::from_slice(chunk))));
    let taken = tx.tx_burst(&batch, &[0]) == 1;
    while !tx.notify() {
        std::thread::yield_now();
    }
    taken
}

/// What software makes of it.
fn in_software(bytes: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let (head, payload) = bytes.split_at(HEAD_SPLIT.min(bytes.len()));
    let spans = [Span::from_slice(payload)];
    let mut all = Vec::new();
    let frame = Frame::new(head, offload, &spans, payload.len());
    let each = |piece: Frame<'_>| {
        let mut bytes = vec![0; piece.len()];
        piece.copy_to(&mut bytes);
        all.push(bytes);
    };
    Finisher::new().finish(frame, OffloadCaps::default(), 70_000, each).unwrap();
    all
}

impl<P: Played> Bench<P> {
    /// Sends a frame, which goes out as software would cut it, and says whether the card has cut it.
    fn cut(&self, tx: &mut dyn TxQueue, (bytes, offload): &(Vec<u8>, Offload)) -> bool {
        let taken = give(tx, bytes, *offload);
        assert!(taken, "{offload:?}, {} bytes: {:?}", bytes.len(), tx.counters().drops);
        let mut chip = self.chip.lock();
        let sent = std::mem::take(&mut chip.sent).into_iter().map(|frame| frame.bytes);
        assert!(sent.eq(in_software(bytes, *offload)), "{offload:?}, {} bytes", bytes.len());
        std::mem::take(&mut chip.cut) == 1
    }
}

/// Kinds of frame, every length about the borders of segments and buffers, and the longest there are.
pub(crate) fn tcp_is_cut_by_the_card<P: Played>() {
    let bench = bench::<P>(config());
    let mut tx = bench.port.tx_queue(0).unwrap();
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    for (v6, tags, options) in
        [(false, 0, &[][..]), (false, 2, &timestamps[..]), (true, 0, &[]), (true, 1, &timestamps)]
    {
        let headers = 4 * usize::from(tags) + if v6 { 74 } else { 54 } + options.len();
        let longest_packet = 65_535 + if v6 { 40 } else { 0 } + 4 * usize::from(tags) + 14 - headers;
        for (size, payload) in [
            (1400, 1),
            (1400, 1399),
            (1400, 1400),
            (1400, 1401),
            (1400, 2048 - headers),
            (1400, 2049 - headers),
            (536, 4096 - headers),
            (1400, 20 * 1400),
            (64, 64 * 64),
            (1400, longest_packet.min(65_535 + 22 - headers)),
        ] {
            let whole = tcp(v6, tags, options, payload, size);
            assert!(bench.cut(&mut *tx, &whole), "IPv6 {v6}, {tags} tags, {payload} by {size}");
        }
    }
    assert_eq!(bench.function.dma_view().faults(), 0);
    assert_eq!(tx.counters().drops.nonzero().count(), 0);
}

pub(crate) fn a_context_is_told_once_where_it_stays<P: Played>() {
    let bench = bench::<P>(config());
    let mut tx = bench.port.tx_queue(0).unwrap();
    let mut contexts = |frames: &[&(Vec<u8>, Offload)]| {
        let before = bench.chip.lock().contexts;
        for (bytes, offload) in frames {
            assert!(give(&mut *tx, bytes, *offload));
        }
        bench.chip.lock().contexts - before
    };
    let (a, shorter, other) =
        (tcp(false, 0, &[], 9000, 1400), tcp(false, 0, &[], 8000, 1400), tcp(false, 0, &[], 9000, 1300));
    let sum = (frame(300, 0), Offload { gso: Gso::None, gso_size: 0, ..a.1 });
    assert_eq!(contexts(&[&a]), 1);
    // The played card forgets a context that has the length of one frame in it.
    let stays = bench.chip.lock().context.is_some();
    assert_eq!(contexts(&[&a, &shorter, &a]), if stays { 0 } else { 3 });
    assert_eq!(contexts(&[&other, &sum, &sum, &other, &sum]), 4);
}

/// What the card must not cut goes out right all the same, or not at all.
pub(crate) fn what_the_card_does_not_cut_software_does<P: Played>() {
    let bench = bench::<P>(config());
    let mut tx = bench.port.tx_queue(0).unwrap();
    let plain = tcp(false, 0, &[], 9000, 1400);
    let ecn = (plain.0.clone(), Offload { ecn: true, ..plain.1 });
    let mut extended = tcp(true, 0, &[], 9000, 1400);
    // Destination options, eight bytes that say nothing.
    extended.0.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    extended.0[20] = 60;
    extended.1.csum_start += 8;
    for (why, whole) in
        [("ECN", ecn), ("IPv6 with options", extended), ("small segments", tcp(false, 0, &[], 900, 63))]
    {
        assert!(!bench.cut(&mut *tx, &whole), "{why}");
    }
    let (bytes, offload) = tcp(false, 0, &[], 9000, 1469);
    assert!(!give(&mut *tx, &bytes, offload), "a segment of 1523 bytes");
    assert_eq!(tx.counters().drops.get(DropReason::TxTooLong), 1);
    assert!(bench.cut(&mut *tx, &tcp(false, 0, &[], 9000, 1468)), "one of 1522");
    let lies = Offload { csum_start: 38, ..plain.1 };
    assert!(!give(&mut *tx, &plain.0, lies));
    assert_eq!(tx.counters().drops.get(DropReason::RxBadOffload), 1);
    bench.port.set_offloads(Offloads { tso: false, ..Offloads::default() }).unwrap();
    assert!(!bench.cut(&mut *tx, &plain), "the operator does not want it");
    assert_eq!(tx.counters().snapshot().segmented, 4);
}

pub(crate) fn a_ring_that_is_nearly_full_takes_what_fits<P: Played>() {
    let bench = bench::<P>(NicConfig { tick: std::time::Duration::from_secs(3600), ..config() });
    let mut tx = bench.port.tx_queue(0).unwrap();
    let (large, offload) = tcp(false, 0, &[], 65_000, 1400);
    let small = tcp(true, 0, &[], 2000, 1400);
    for round in 0..20 {
        bench.chip.lock().stuck = true;
        // 32 descriptors each and a context perhaps, of 127.
        let taken: Vec<bool> = (0..5).map(|_| give(&mut *tx, &large, offload)).collect();
        assert_eq!(taken, [true, true, true, false, false], "{round}");
        let mut more = 0;
        while give(&mut *tx, &small.0, small.1) {
            more += 1;
        }
        assert!((5..=30).contains(&more), "{more}");
        let mut chip = bench.chip.lock();
        chip.stuck = false;
        chip.transmit(bench.function.dma_view(), 0);
        let sent = std::mem::take(&mut chip.sent).into_iter().map(|frame| frame.bytes);
        let of =
            |whole: &[u8], offload, count| std::iter::repeat_n(in_software(whole, offload), count).flatten();
        assert!(sent.eq(of(&large, offload, 3).chain(of(&small.0, small.1, more))), "{round}");
    }
    assert_eq!(tx.counters().drops.get(DropReason::TxRingFull), 60);
}
