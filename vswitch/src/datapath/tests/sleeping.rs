//! What a worker waits on, and for how long that stays in its epoll set.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Instant;

use pmd::packet::Batch;
use pmd::port::{Armed, QueueCounters, RxQueue, Waker};
use rustix::event::{EventfdFlags, eventfd};

use super::*;

/// A queue without packets, whose descriptor has always something to say to one who comes to wait.
struct Quiet {
    fd: Arc<OwnedFd>,
    unasked: bool,
}

impl RxQueue for Quiet {
    fn rx_burst<'q>(&'q mut self, _batch: &mut Batch<'q>) -> usize {
        0
    }

    fn rx_done(&mut self) {}

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        Some(self.fd.clone())
    }

    fn notifies_unasked(&self) -> bool {
        self.unasked
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        Arc::default()
    }
}

#[test]
fn a_busy_worker_takes_what_notifies_unasked_out_of_its_set() {
    let (sender, _upcalls) = upcall_queue().unwrap();
    let idle = IdlePolicy { spin: Duration::ZERO, always_poll: false };
    let config = WorkerConfig { id: 0, core: 0, idle, upcalls: sender, pool: Pool::create(64).unwrap() };
    let (handle, mut worker) = worker::Stepped::new(config).unwrap();
    let descriptors = [false, true].map(|unasked| {
        let fd = Arc::new(eventfd(1, EventfdFlags::CLOEXEC).unwrap());
        let queue = Box::new(Quiet { fd: fd.clone(), unasked });
        let port = PortNo(1 + u32::from(unasked));
        handle.send(Command::AddRxq(RxAssignment { port, index: 0, queue, load: Arc::default() }));
        fd
    });
    // Held by the test, by the queue, and by the worker as long as it is in the set.
    let held = || descriptors.each_ref().map(Arc::strong_count);
    assert!(worker.round());
    assert_eq!(held(), [2, 2]);
    // It comes to wait, is told at once, and has them still.
    assert!(worker.round());
    assert_eq!(held(), [3, 3]);
    let deadline = Instant::now() + WAIT;
    while held() != [3, 2] {
        assert!(Instant::now() < deadline, "{:?}", held());
        let (done, _) = mpsc::channel();
        handle.send(Command::Barrier(done));
        assert!(worker.round());
    }
    // The next time it waits, it is told of what has come meanwhile. The other said that long ago.
    assert!(worker.round());
    assert_eq!(held(), [3, 3]);
}

#[test]
fn time_goes_by_for_a_worker_that_always_has_something_to_do() {
    let (sender, _upcalls) = upcall_queue().unwrap();
    let config = WorkerConfig {
        id: 0,
        core: 0,
        idle: IdlePolicy::default(),
        upcalls: sender,
        pool: Pool::create(64).unwrap(),
    };
    let (handle, mut worker) = worker::Stepped::new(config).unwrap();
    let mut before = 0;
    for _ in 0..3 {
        let (done, _) = mpsc::channel();
        handle.send(Command::Barrier(done));
        assert!(worker.round());
        let total = handle.counters.total_cycles.load(std::sync::atomic::Ordering::Relaxed);
        assert!(total > before);
        before = total;
    }
}

/// A queue that writes down when it is looked at, and how often it was.
struct Recording {
    fd: Arc<OwnedFd>,
    name: u32,
    looks: mpsc::Sender<u32>,
}

impl RxQueue for Recording {
    fn rx_burst<'q>(&'q mut self, _batch: &mut Batch<'q>) -> usize {
        let _ = self.looks.send(self.name);
        0
    }

    fn rx_done(&mut self) {}

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        Some(self.fd.clone())
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        Arc::default()
    }
}

#[test]
fn who_ends_a_sleep_is_served_before_anybody_else() {
    let (sender, _upcalls) = upcall_queue().unwrap();
    let idle = IdlePolicy { spin: Duration::ZERO, always_poll: false };
    let config = WorkerConfig { id: 0, core: 0, idle, upcalls: sender, pool: Pool::create(64).unwrap() };
    let (handle, mut worker) = worker::Stepped::new(config).unwrap();
    let (looks, looked) = mpsc::channel();
    let kicks = [1, 2, 3].map(|name| {
        let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let queue = Box::new(Recording { fd: fd.clone(), name, looks: looks.clone() });
        handle.send(Command::AddRxq(RxAssignment {
            port: PortNo(name),
            index: 0,
            queue,
            load: Arc::default(),
        }));
        fd
    });
    let kick = |name: usize| assert_eq!(rustix::io::write(&*kicks[name - 1], &1_u64.to_ne_bytes()), Ok(8));
    let round = |worker: &mut worker::Stepped| {
        assert!(worker.round());
        looked.try_iter().collect::<Vec<_>>()
    };
    // The commands.
    assert_eq!(round(&mut worker), [0; 0]);
    // It finds nothing, and waits; the third has rung.
    kick(3);
    assert_eq!(round(&mut worker), [1, 2, 3, 3]);
    kick(1);
    kick(2);
    assert_eq!(round(&mut worker), [1, 2, 3, 1, 2]);
    // The third takes the place of the first.
    let (reply, taken) = mpsc::channel();
    handle.send(Command::TakeRxq { port: PortNo(1), index: 0, reply });
    assert_eq!(round(&mut worker), [1, 2, 3]);
    assert!(taken.try_recv().is_ok());
    kick(3);
    assert_eq!(round(&mut worker), [3, 2, 3]);
    kick(2);
    assert_eq!(round(&mut worker), [3, 2, 2]);
}
