//! What tests of drivers over played cards have in common.

use std::time::{Duration, Instant};

use crate::packet::{BURST, Offload};
use crate::port::test_bursts::{receive_burst, send_burst};
use crate::port::{Port, PortInfo, RxQueue, TxQueue};

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
