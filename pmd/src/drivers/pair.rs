//! Two ports in one process: what is sent to one is received by the other.
//!
//! Packets are made whole in pool memory on the way, so sender and receiver need not meet in time. Each receive queue is a bounded
//! queue that any number of senders may fill; the sender with number `w` uses queue `w` modulo their count. A
//! sleeping receiver is woken by its waker.
//!
//! When a port and the receive queues taken from it are gone, the other's link goes down and what it sends is dropped with a
//! reason: nobody would take it out of the queue again.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;

use super::queue_slots::{QueueSlots, Subscriber, Taken};
use crate::packet::{BURST, Batch, BatchStorage, Offload, OwnedPacket, Pool, PoolCache, SlotId};
use crate::port::{
    Armed, DropReason, LinkState, PmdError, Port, PortEvents, PortInfo, QueueCounters, RxQueue, TxQueue,
    Waker,
};

/// Packets a receive queue holds.
const QUEUE_LEN: usize = 1024;

/// What to open.
#[derive(Clone)]
pub struct PairConfig {
    /// Names of the two ports.
    pub names: [String; 2],
    /// Receive queues of each.
    pub queues: u16,
    /// Where packets on the way are kept.
    pub pool: &'static Pool,
}

/// One receive queue and whoever sleeps on it.
struct Lane {
    packets: ArrayQueue<OwnedPacket>,
    /// The receiver has looked in vain and sleeps, or is about to.
    armed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// What the two ports know of each other.
#[derive(Default)]
struct Link {
    /// One side is gone, for good.
    cut: AtomicBool,
    subscribers: [Subscriber; 2],
}

/// One side of the link: a port and the receive queues taken from it hold it together.
struct Side {
    link: Arc<Link>,
    index: usize,
}

impl Drop for Side {
    fn drop(&mut self) {
        self.link.cut.store(true, Ordering::Release);
        self.link.subscribers[1 - self.index].notify();
    }
}

struct PairPort {
    name: String,
    side: Arc<Side>,
    pool: &'static Pool,
    incoming: Arc<[Lane]>,
    outgoing: Arc<[Lane]>,
    slots: QueueSlots,
    mtu: AtomicU16,
}

/// The two ends.
pub type Ends = (Arc<dyn Port>, Arc<dyn Port>);

/// Opens both ports.
pub fn open(config: PairConfig) -> Result<Ends, PmdError> {
    if config.queues == 0 {
        return Err(PmdError::Config(format!("pair {}: at least one queue is needed", config.names[0])));
    }
    let lanes = || -> Arc<[Lane]> {
        let lane = |_| Lane {
            packets: ArrayQueue::new(QUEUE_LEN),
            armed: AtomicBool::new(false),
            waker: Mutex::default(),
        };
        (0..config.queues).map(lane).collect()
    };
    let (there, back) = (lanes(), lanes());
    let [a, b] = config.names;
    let link = Arc::new(Link::default());
    let port = |name, index, incoming: &Arc<[Lane]>, outgoing: &Arc<[Lane]>| PairPort {
        name,
        side: Arc::new(Side { link: link.clone(), index }),
        pool: config.pool,
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        slots: QueueSlots::new(config.queues),
        mtu: AtomicU16::new(1500),
    };
    Ok((Arc::new(port(a, 0, &there, &back)), Arc::new(port(b, 1, &back, &there))))
}

impl Port for PairPort {
    fn driver(&self) -> &'static str {
        "pair"
    }

    fn info(&self) -> PortInfo {
        PortInfo {
            link: if self.side.link.cut.load(Ordering::Acquire) { LinkState::Down } else { LinkState::Up },
            mtu: self.mtu.load(Ordering::Relaxed),
            rx_queues: self.incoming.len() as u16,
            ..PortInfo::default()
        }
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let taken = self.slots.take(&self.name, index)?;
        Ok(Box::new(PairRx {
            lanes: self.incoming.clone(),
            index: usize::from(index),
            held: Vec::with_capacity(BURST),
            _side: self.side.clone(),
            cache: self.pool.cache(),
            counters: Arc::default(),
            _taken: taken,
        }))
    }

    fn tx_queue(&self, worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        Ok(Box::new(PairTx {
            index: usize::from(worker) % self.outgoing.len(),
            lanes: self.outgoing.clone(),
            link: self.side.link.clone(),
            cache: self.pool.cache(),
            counters: Arc::default(),
        }))
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        self.mtu.store(mtu, Ordering::Relaxed);
        self.side.link.subscribers[self.side.index].notify();
        Ok(())
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.side.link.subscribers[self.side.index].set(events);
    }
}

struct PairRx {
    lanes: Arc<[Lane]>,
    index: usize,
    /// Packets of the burst under way.
    held: Vec<OwnedPacket>,
    /// The far side may send as long as somebody can receive.
    _side: Arc<Side>,
    cache: PoolCache,
    counters: Arc<QueueCounters>,
    _taken: Taken,
}

impl RxQueue for PairRx {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        let lane = &self.lanes[self.index];
        while self.held.len() < BURST
            && let Some(packet) = lane.packets.pop()
        {
            self.held.push(packet);
        }
        let mut bytes = 0;
        for packet in &self.held {
            if packet.receive_into(batch) {
                bytes += packet.len() as u64;
            } else {
                self.counters.drops.add(DropReason::RxNoBuffer, 1);
            }
        }
        if !batch.is_empty() {
            self.counters.add_burst(batch.len() as u64, bytes);
        }
        batch.len()
    }

    fn rx_done(&mut self) {
        for packet in self.held.drain(..) {
            packet.free_into(&mut self.cache);
        }
    }

    fn arm(&mut self) -> Armed {
        let lane = &self.lanes[self.index];
        lane.armed.store(true, Ordering::SeqCst);
        if lane.packets.is_empty() { Armed::Idle } else { Armed::Work }
    }

    fn disarm(&mut self) {
        self.lanes[self.index].armed.store(false, Ordering::Relaxed);
    }

    fn set_waker(&mut self, waker: Waker) {
        *self.lanes[self.index].waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

struct PairTx {
    lanes: Arc<[Lane]>,
    link: Arc<Link>,
    index: usize,
    cache: PoolCache,
    counters: Arc<QueueCounters>,
}

impl TxQueue for PairTx {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        if self.link.cut.load(Ordering::Relaxed) {
            self.counters.drops.add(DropReason::TxLinkDown, slots.len() as u64);
            return 0;
        }
        let lane = &self.lanes[self.index];
        let (mut sent, mut bytes) = (0, 0);
        for &slot in slots {
            let frame = batch.frame(slot);
            let Some(packet) = OwnedPacket::copy_from_frame(&frame, &mut self.cache) else {
                self.counters.drops.add(DropReason::TxRingFull, 1);
                continue;
            };
            match lane.packets.push(packet) {
                Ok(()) => {
                    sent += 1;
                    bytes += frame.len() as u64;
                }
                Err(packet) => {
                    packet.free_into(&mut self.cache);
                    self.counters.drops.add(DropReason::TxRingFull, 1);
                }
            }
        }
        if sent != 0 {
            self.counters.add_burst(sent as u64, bytes);
            let wake = lane.armed.swap(false, Ordering::SeqCst);
            self.counters.add_notification(wake);
            if wake {
                // Taken only when the receiver sleeps; nobody holds it longer than a store.
                if let Some(waker) = &*lane.waker.lock().unwrap_or_else(PoisonError::into_inner) {
                    waker.wake();
                }
            }
        }
        sent
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

/// The test's end of a port: sends and receives plain bytes on the caller's thread.
pub struct Tester {
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    storage: BatchStorage,
    waker: Waker,
    cache: PoolCache,
    received: std::collections::VecDeque<Vec<u8>>,
}

impl Tester {
    /// Takes queue 0 of a port, usually one end of a pair whose other end is under test.
    pub fn new(port: &dyn Port, pool: &'static Pool) -> Result<Tester, PmdError> {
        let waker = Waker::new().map_err(|e| PmdError::system("making an eventfd", "", e))?;
        let mut rx = port.rx_queue(0)?;
        rx.set_waker(waker.clone());
        let tx = port.tx_queue(0)?;
        let storage = BatchStorage::new();
        Ok(Tester { rx, tx, storage, waker, cache: pool.cache(), received: Default::default() })
    }

    /// Sends a frame. False when it was dropped.
    pub fn send(&mut self, frame: &[u8], offload: Offload) -> bool {
        let Some(mut packet) = OwnedPacket::from_bytes(frame, &mut self.cache) else { return false };
        packet.set_offload(offload);
        let mut batch = self.storage.begin();
        packet.receive_into(&mut batch) && self.tx.tx_burst(&batch, &[0]) == 1
    }

    /// The next frame, waiting for it at most `timeout`.
    pub fn receive(&mut self, timeout: std::time::Duration) -> Option<Vec<u8>> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            self.poll();
            if let Some(frame) = self.received.pop_front() {
                return Some(frame);
            }
            self.waker.clear();
            if self.rx.arm() == Armed::Work {
                continue;
            }
            let left = deadline.checked_duration_since(std::time::Instant::now())?;
            let left = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut fds = [rustix::event::PollFd::new(&self.waker, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, Some(&left));
        }
    }

    fn poll(&mut self) {
        let mut batch = self.storage.begin();
        let n = self.rx.rx_burst(&mut batch);
        for slot in 0..n {
            let frame = batch.frame(slot as SlotId);
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            self.received.push_back(bytes);
        }
        self.rx.rx_done();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::port::test_events::Told;

    fn testers() -> (Tester, Tester) {
        let pool = Pool::create(4096).unwrap();
        let names = ["a".into(), "b".into()];
        let (a, b) = open(PairConfig { names, queues: 1, pool }).unwrap();
        (Tester::new(&*a, pool).unwrap(), Tester::new(&*b, pool).unwrap())
    }

    #[test]
    fn frames_cross_both_ways() {
        let (mut a, mut b) = testers();
        assert!(a.send(&[1; 60], Offload::default()));
        assert!(b.send(&[2; 3000], Offload::default()));
        assert_eq!(b.receive(Duration::from_secs(10)).unwrap(), [1; 60]);
        assert_eq!(a.receive(Duration::from_secs(10)).unwrap(), [2; 3000]);
    }

    #[test]
    fn a_sleeping_receiver_is_woken() {
        let (mut a, mut b) = testers();
        let receiver = std::thread::spawn(move || b.receive(Duration::from_secs(30)));
        assert!(a.send(&[5; 64], Offload::default()));
        assert_eq!(receiver.join().unwrap().unwrap(), [5; 64]);
    }

    #[test]
    fn no_wake_up_is_lost() {
        let (mut a, mut b) = testers();
        const FRAMES: u32 = 20_000;
        let sender = std::thread::spawn(move || {
            for n in 0..FRAMES {
                // The queue may be full for a while: the receiver is behind.
                while !a.send(&n.to_be_bytes(), Offload::default()) {
                    std::thread::yield_now();
                }
                // Lets the receiver fall asleep now and then.
                if n % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            a
        });
        for n in 0..FRAMES {
            assert_eq!(
                b.receive(Duration::from_secs(30)).expect("a frame, or a lost wake-up"),
                n.to_be_bytes()
            );
        }
        sender.join().unwrap();
    }

    proptest::proptest! {
        /// Against two plain queues: what goes in comes out, in order, on the other side only, and no more than fits.
        #[test]
        fn behaves_like_two_queues(steps in proptest::collection::vec((0u8..4, 1usize..5000), 0..200)) {
            static POOL: std::sync::OnceLock<&'static Pool> = std::sync::OnceLock::new();
            let pool = *POOL.get_or_init(|| Pool::create(4096).unwrap());
            let names = ["a".into(), "b".into()];
            let (a, b) = open(PairConfig { names, queues: 1, pool }).unwrap();
            let mut sides = [Tester::new(&*a, pool).unwrap(), Tester::new(&*b, pool).unwrap()];
            let mut model = [std::collections::VecDeque::new(), std::collections::VecDeque::new()];
            for (n, (what, len)) in steps.into_iter().enumerate() {
                let side = usize::from(what % 2);
                if what < 2 {
                    let frame = vec![n as u8; len];
                    proptest::prop_assert!(sides[side].send(&frame, Offload::default()));
                    model[1 - side].push_back(frame);
                } else {
                    proptest::prop_assert_eq!(sides[side].receive(Duration::ZERO), model[side].pop_front());
                }
            }
        }
    }

    #[test]
    fn a_side_that_is_gone_takes_the_link_down() {
        let pool = Pool::create(64).unwrap();
        let names = ["a".into(), "b".into()];
        let (a, b) = open(PairConfig { names, queues: 2, pool }).unwrap();
        let (sender, told) = std::sync::mpsc::channel();
        a.subscribe(Arc::new(Told(sender)));
        let rx = b.rx_queue(1).unwrap();
        let mut tester = Tester::new(&*a, pool).unwrap();
        drop(b);
        assert_eq!(a.info().link, LinkState::Up);
        assert!(tester.send(&[1; 60], Offload::default()));
        drop(rx);
        told.recv().unwrap();
        assert_eq!(a.info().link, LinkState::Down);
        assert!(!tester.send(&[1; 60], Offload::default()));
        assert_eq!(tester.tx.counters().drops.get(DropReason::TxLinkDown), 1);
        // The frame that nobody fetched went with the far side's queues, and its chunk came back.
        drop((a, tester));
        assert_eq!(pool.free_chunks(), 64);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (mut a, _b) = testers();
        let sent = (0..QUEUE_LEN + 10).filter(|_| a.send(&[0; 60], Offload::default())).count();
        assert_eq!(sent, QUEUE_LEN);
        assert_eq!(a.tx.counters().drops.get(DropReason::TxRingFull), 10);
    }
}
