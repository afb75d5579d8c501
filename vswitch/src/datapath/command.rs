//! The way into a worker: commands, in order, through a bounded queue.
//!
//! The worker looks at the queue between bursts. Whoever sends may wait for room; the worker never waits for
//! the sender.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use flowtable::actions::ActionList;
use flowtable::key::PortNo;
use pmd::packet::OwnedPacket;
use pmd::port::{DropCounters, DropReason, RxQueue, TxQueue, Waker};

use super::counters::{RxqCounters, WorkerCounters};
use super::flow::{FlowSink, Megaflow};
use super::idle::IdlePolicy;

/// Commands a worker may have waiting.
const QUEUE_LEN: usize = 4096;

/// A receive queue on its way to, or from, a worker.
pub struct RxAssignment {
    /// Port the queue belongs to.
    pub port: PortNo,
    /// Index of the queue at its port.
    pub index: u16,
    /// The queue itself.
    pub queue: Box<dyn RxQueue>,
    /// Load this queue causes, whoever polls it.
    pub load: Arc<RxqCounters>,
}

/// What a worker can be told.
pub enum Command {
    /// Poll this queue from now on.
    AddRxq(RxAssignment),
    /// Stop polling a queue and send it back.
    TakeRxq {
        /// Port of the queue.
        port: PortNo,
        /// Index of the queue at its port.
        index: u16,
        /// Where the queue goes; nothing is sent if the worker does not have it.
        reply: mpsc::Sender<RxAssignment>,
    },
    /// Send to this port through this queue from now on, and count drops of packets from the port here.
    AddPort {
        /// Number of the port.
        port: PortNo,
        /// Transmit queue of this worker.
        queue: Box<dyn TxQueue>,
        /// Drops of packets that came in by this port, decided on this worker.
        drops: Arc<DropCounters>,
    },
    /// Merge what comes in by this port to larger frames, or do not. At first it is done.
    SetGro(PortNo, bool),
    /// The operator has a port up, or down: then what comes in by it and what is sent to it is dropped. At first it is up.
    SetAdmin(PortNo, bool),
    /// Forget a port's transmit queue.
    RemovePort(PortNo),
    /// Install a megaflow.
    Install(Arc<Megaflow>),
    /// Remove a megaflow if that very one is installed.
    Remove(Arc<Megaflow>),
    /// Install a megaflow, then carry out the packet it was made for.
    InstallFor {
        /// The megaflow.
        flow: Arc<Megaflow>,
        /// The packet.
        packet: OwnedPacket,
        /// Port it came in by.
        in_port: PortNo,
    },
    /// Carry out a packet the slow path has decided on.
    Execute {
        /// The packet.
        packet: OwnedPacket,
        /// Port it came in by.
        in_port: PortNo,
        /// What to do with it.
        actions: ActionList,
        /// Reason counted when `actions` is empty.
        drop_reason: DropReason,
    },
    /// Change when the worker sleeps.
    SetIdle(IdlePolicy),
    /// Answer once everything before has been done.
    Barrier(mpsc::Sender<()>),
    /// End the worker; its queues are dropped.
    Stop,
}

/// What a worker and its handles share.
pub(super) struct Mailbox {
    pub(super) commands: ArrayQueue<Command>,
    pub(super) waker: Waker,
    /// Set by the worker before it looks at the queue for the last time and sleeps.
    pub(super) asleep: AtomicBool,
    /// Set when the worker has ended: nobody will take commands any more.
    pub(super) ended: AtomicBool,
}

impl Mailbox {
    pub(super) fn new(waker: Waker) -> Mailbox {
        Mailbox {
            commands: ArrayQueue::new(QUEUE_LEN),
            waker,
            asleep: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// The worker's last act: nobody takes commands any more, and those that wait are dropped.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.drop_commands();
    }

    fn drop_commands(&self) {
        while self.commands.pop().is_some() {}
    }
}

/// A handle to a worker, for control threads.
#[derive(Clone)]
pub struct WorkerHandle {
    pub(super) id: u16,
    pub(super) core: u32,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Arc<WorkerCounters>,
}

impl WorkerHandle {
    /// Number of the worker; unique while the switch runs.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// CPU the worker is pinned to.
    pub fn core(&self) -> u32 {
        self.core
    }

    /// What the worker counts.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// A waker for the queues this worker is given.
    pub fn waker(&self) -> Waker {
        self.mailbox.waker.clone()
    }

    /// Sends a command. Waits while the worker's queue is full; a worker that has ended drops it.
    pub fn send(&self, command: Command) {
        let mut command = command;
        loop {
            if self.mailbox.ended.load(Ordering::Acquire) {
                return;
            }
            match self.mailbox.commands.push(command) {
                Ok(()) => break,
                Err(back) => command = back,
            }
            self.mailbox.waker.wake();
            std::thread::sleep(Duration::from_micros(20));
        }
        // The worker says that it has ended and then empties its queue; we do it the other way round. With a full fence on both
        // sides one of us sees the other, so no command, nor whoever waits for its answer, is left behind.
        fence(Ordering::SeqCst);
        if self.mailbox.ended.load(Ordering::Acquire) {
            self.mailbox.drop_commands();
        } else if self.mailbox.asleep.load(Ordering::SeqCst)
            && self.mailbox.asleep.swap(false, Ordering::SeqCst)
        {
            self.mailbox.waker.wake();
        }
    }

    /// Returns once the worker has done every command sent before, or has ended.
    pub fn barrier(&self) {
        let (done, wait) = mpsc::channel();
        self.send(Command::Barrier(done));
        // An error means that the worker ended and dropped the command.
        let _ = wait.recv();
    }

    /// Takes a receive queue back from the worker. `None` when it does not poll it.
    pub fn take_rxq(&self, port: PortNo, index: u16) -> Option<RxAssignment> {
        let (reply, wait) = mpsc::channel();
        self.send(Command::TakeRxq { port, index, reply });
        wait.recv().ok()
    }
}

impl FlowSink for WorkerHandle {
    fn worker(&self) -> u16 {
        self.id
    }

    fn install(&self, flow: Arc<Megaflow>) {
        self.send(Command::Install(flow));
    }

    fn install_for(&self, flow: Arc<Megaflow>, packet: OwnedPacket, in_port: PortNo) {
        self.send(Command::InstallFor { flow, packet, in_port });
    }

    fn remove(&self, flow: &Arc<Megaflow>) {
        self.send(Command::Remove(flow.clone()));
    }

    fn execute(&self, packet: OwnedPacket, in_port: PortNo, actions: ActionList, drop_reason: DropReason) {
        self.send(Command::Execute { packet, in_port, actions, drop_reason });
    }
}
