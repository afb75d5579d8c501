//! What tests of drivers over played cards have in common.

use std::time::{Duration, Instant};

use crate::packet::{BURST, Offload};
use crate::pci::FakeFn;
use crate::port::test_bursts::{receive_burst, send_burst};
use crate::port::{LinkState, Port, PortInfo, RxQueue, TxQueue};

/// A frame that no other length or seed has.
pub(crate) fn frame(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed) as u8).collect()
}

/// Sends frames, burst by burst, and rings the doorbell after each.
pub(crate) fn send_with(tx: &mut dyn TxQueue, frames: &[Vec<u8>], offload: Offload) -> usize {
    let mut sent = 0;
    for burst in frames.chunks(BURST) {
        sent += send_burst(tx, burst, offload);
        // Somebody else may have the ring just now.
        while !tx.notify() {
            std::thread::yield_now();
        }
    }
    sent
}

/// The same for frames that ask for nothing.
pub(crate) fn send(tx: &mut dyn TxQueue, frames: &[Vec<u8>]) -> usize {
    send_with(tx, frames, Offload::default())
}

/// The frames of one burst.
pub(crate) fn receive(rx: &mut dyn RxQueue) -> Vec<Vec<u8>> {
    receive_burst(rx).into_iter().map(|(bytes, _)| bytes).collect()
}

/// Waits until a port says what is good.
pub(crate) fn until(port: &dyn Port, what: &str, good: impl Fn(&PortInfo) -> bool) -> PortInfo {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let info = port.info();
        if good(&info) {
            return info;
        }
        assert!(Instant::now() < deadline, "{what}: {info:?}");
        std::thread::yield_now();
    }
}

/// How often the watch has restarted the card.
pub(crate) fn restarts(info: &PortInfo) -> u64 {
    info.status.iter().find(|(name, _)| name == "restarts").unwrap().1.parse().unwrap()
}

/// A played card of any kind, for what every driver must do about it.
pub(crate) struct AnyCard<'a> {
    pub(crate) port: &'a dyn Port,
    pub(crate) function: &'a FakeFn,
    /// Has it take no more frames to send, or take them again.
    pub(crate) stick: &'a dyn Fn(bool),
    /// The frame it sent last.
    pub(crate) last: &'a dyn Fn() -> Vec<u8>,
    /// Brings a frame in.
    pub(crate) deliver: &'a dyn Fn(&[u8]) -> bool,
}

/// It sends no more, and then it is pulled and put back: each is seen, reported and mended.
pub(crate) fn stuck_and_pulled(card: &AnyCard<'_>, rx: &mut dyn RxQueue, tx: &mut dyn TxQueue) {
    let AnyCard { port, function, stick, last, deliver } = card;
    let before = restarts(&port.info());
    stick(true);
    assert_eq!(send(tx, &[frame(60, 0)]), 1);
    until(*port, "restart of a stuck card", |info| restarts(info) > before);
    stick(false);
    until(*port, "recovery", |info| info.error.is_none() && info.link == LinkState::Up);
    assert_eq!(send(tx, &[frame(98, 1)]), 1);
    assert_eq!(last(), frame(98, 1));

    function.pull();
    let info = until(*port, "error", |info| info.error.is_some());
    assert_eq!(info.link, LinkState::Down);
    assert_eq!((receive(rx).len(), send(tx, &[frame(60, 0)])), (0, 0));
    function.put_back();
    until(*port, "back in its slot", |info| info.error.is_none() && info.link == LinkState::Up);
    assert!(deliver(&frame(60, 3)));
    assert_eq!(receive(rx), [frame(60, 3)]);
}
