//! What tests of drivers over played cards have in common.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::nic::NicConfig;
use crate::packet::{BURST, Offload};
use crate::pci::{FakeDma, FakeFn};
use crate::port::test_bursts::{receive_burst, send_burst};
use crate::port::{DropReason, LinkState, Port, PortInfo, RxQueue, TxQueue};

/// A frame that no other length or seed has.
pub(crate) fn frame(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed) as u8).collect()
}

/// Sends frames, burst by burst, and rings the doorbell after each. The watch looks at a ring now and then, and may lose its processor meanwhile: a burst
/// that was dropped for that is sent again.
pub(crate) fn send_with(tx: &mut dyn TxQueue, frames: &[Vec<u8>], offload: Offload) -> usize {
    let mut sent = 0;
    for burst in frames.chunks(BURST) {
        sent += loop {
            let busy = tx.counters().drops.get(DropReason::TxRingBusy);
            let sent = send_burst(tx, burst, offload);
            if sent > 0 || tx.counters().drops.get(DropReason::TxRingBusy) == busy {
                break sent;
            }
            std::thread::yield_now();
        };
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

/// What every played card has.
pub(crate) trait PlayedCard: Sized + Send + 'static {
    /// One that was just plugged in.
    fn plugged_in() -> Self;

    /// Brings a frame in by the first queue. False when the card has not enough buffers, or is not started.
    fn bring(&mut self, dma: &FakeDma, frame: &[u8]) -> bool;

    /// Has it take no more frames to send, or take them again.
    fn stick(&mut self, stuck: bool);

    /// The frame it sent last.
    fn last_sent(&self) -> Option<&[u8]>;
}

/// A card that a test and a function share.
pub(crate) struct Shared<C>(Arc<Mutex<C>>);

impl<C> Clone for Shared<C> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<C: PlayedCard> Shared<C> {
    pub(crate) fn new() -> Self {
        Shared(Arc::new(Mutex::new(C::plugged_in())))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, C> {
        self.0.lock().unwrap()
    }
}

/// Small rings, and a watch in a hurry.
pub(crate) fn config() -> NicConfig {
    NicConfig {
        name: "up0".into(),
        rx_descriptors: 128,
        tx_descriptors: 128,
        tick: Duration::from_millis(5),
        ..NicConfig::default()
    }
}

/// A port over a played card.
pub(crate) struct Bench<C> {
    pub(crate) chip: Shared<C>,
    pub(crate) function: Arc<FakeFn>,
    pub(crate) port: Arc<dyn Port>,
}

impl<C: PlayedCard> Bench<C> {
    pub(crate) fn deliver(&self, frame: &[u8]) -> bool {
        self.chip.lock().bring(self.function.dma_view(), frame)
    }

    pub(crate) fn until(&self, what: &str, good: impl Fn(&PortInfo) -> bool) -> PortInfo {
        until(&*self.port, what, good)
    }

    /// It sends no more, and then it is pulled and put back: each is seen, reported and mended.
    pub(crate) fn stuck_and_pulled(&self, rx: &mut dyn RxQueue, tx: &mut dyn TxQueue) {
        let before = restarts(&self.port.info());
        self.chip.lock().stick(true);
        assert_eq!(send(tx, &[frame(60, 0)]), 1);
        self.until("restart of a stuck card", |info| restarts(info) > before);
        self.chip.lock().stick(false);
        self.until("recovery", |info| info.error.is_none() && info.link == LinkState::Up);
        assert_eq!(send(tx, &[frame(98, 1)]), 1);
        assert_eq!(self.chip.lock().last_sent().unwrap(), frame(98, 1));

        self.function.pull();
        let info = self.until("error", |info| info.error.is_some());
        assert_eq!(info.link, LinkState::Down);
        assert_eq!((receive(rx).len(), send(tx, &[frame(60, 0)])), (0, 0));
        self.function.put_back();
        self.until("back in its slot", |info| info.error.is_none() && info.link == LinkState::Up);
        assert!(self.deliver(&frame(60, 3)));
        assert_eq!(receive(rx), [frame(60, 3)]);
    }
}
