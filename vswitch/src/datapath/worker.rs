//! A worker: one thread pinned to one CPU that owns receive queues and carries what they bring to the end.
//!
//! ```text
//!  loop { for each rx queue: burst → classify → execute → flush;  commands;  nothing to do long enough: sleep }
//! ```
//!
//! Invariants: nothing is staged and no batch is alive between two queues, so commands, which may take queues and
//! flows away, are carried out only there.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use flowtable::actions::ActionList;
use flowtable::key::{self, FlowKey, PortNo};
use pmd::packet::{BURST, Batch, BatchStorage, OwnedPacket, Pool, PoolCache, SlotId};
use pmd::port::{Armed, DropReason, Waker};
use pmd::sys;

use super::act::{Run, account, act};
use super::burst::Burst;
use super::classify::Classifier;
use super::command::{Command, Mailbox, RxAssignment, WorkerHandle};
use super::counters::{WorkerCounters, bump};
use super::execute::execute;
use super::idle::{EventSet, Events, IdlePolicy};
use super::transmit::Transmit;
use super::upcall::{Upcall, UpcallSender};

/// Commands carried out between two rounds of polling.
const COMMANDS_PER_ROUND: usize = 64;

/// Bursts after which receivers are woken, though the round goes on.
const BURSTS_PER_NOTICE: usize = 8;

/// A worker that has not slept for this part of a second is busy: see [`Worker::leave_events`]. One that sleeps more often, as with a packet now and
/// then, is spared two system calls for each.
const LEAVES_PER_SECOND: u64 = 1000;

/// What a new worker needs.
pub struct WorkerConfig {
    /// Number of the worker.
    pub id: u16,
    /// CPU to pin it to.
    pub core: u32,
    /// When it sleeps.
    pub idle: IdlePolicy,
    /// Where misses go.
    pub upcalls: UpcallSender,
    /// Where waiting packets are kept.
    pub pool: &'static Pool,
}

/// Starts a worker thread. It runs until [`Command::Stop`].
pub fn spawn(config: WorkerConfig) -> io::Result<(WorkerHandle, JoinHandle<()>)> {
    let (handle, worker) = Worker::new(config)?;
    let name = format!("pmd-c{:02}", handle.core); // tidy: once per worker
    let thread = thread::Builder::new().name(name).spawn(move || worker.run())?;
    Ok((handle, thread))
}

/// A worker without a thread, for `make instructions`: whoever holds it says when it goes round.
#[doc(hidden)]
pub struct Stepped {
    worker: Worker,
    ticks: Ticks,
}

impl Stepped {
    /// A worker that is not pinned, and sleeps only when a round finds nothing to do for as long as its policy says.
    pub fn new(config: WorkerConfig) -> io::Result<(WorkerHandle, Stepped)> {
        let (handle, worker) = Worker::new(config)?;
        Ok((handle, Stepped { worker, ticks: Ticks::now() }))
    }

    /// What a worker's thread does all day, once. False when a command has ended the worker.
    #[inline]
    pub fn round(&mut self) -> bool {
        self.worker.round(&mut self.ticks)
    }
}

struct RxSlot {
    assignment: RxAssignment,
    /// The descriptor of this queue in the epoll set.
    held: Option<Arc<OwnedFd>>,
    /// The operator has taken the port down: what comes is dropped.
    down: bool,
}

struct Injected {
    packet: OwnedPacket,
    in_port: PortNo,
    actions: ActionList,
    drop_reason: DropReason,
}

struct Worker {
    core: u32,
    mailbox: Arc<Mailbox>,
    rxqs: Vec<RxSlot>,
    storage: BatchStorage,
    events: EventSet,
    idle: IdlePolicy,
    /// Packets the slow path has decided on, until the next round.
    injected: Vec<Injected>,
    engine: Engine,
}

/// Everything of a worker but its queues and slots, which a batch borrows.
struct Engine {
    id: u16,
    classifier: Classifier,
    transmit: Transmit,
    burst: Box<Burst>,
    counters: Arc<WorkerCounters>,
    upcalls: UpcallSender,
    cache: PoolCache,
    now_ms: u64,
}

/// Points in time, in ticks of the time-stamp counter.
struct Ticks {
    /// Ticks in a second.
    second: u64,
    started: u64,
    last_packet: u64,
    next_chore: u64,
    /// When descriptors leave the epoll set, if no sleep comes before.
    leave: Option<u64>,
}

impl Ticks {
    fn now() -> Ticks {
        let (second, now) = (sys::clock::cycles_per_second(), sys::clock::cycles());
        Ticks { second, started: now, last_packet: now, next_chore: now, leave: None }
    }
}

impl Worker {
    fn new(config: WorkerConfig) -> io::Result<(WorkerHandle, Worker)> {
        let waker = Waker::new()?;
        let events = EventSet::new(&waker)?;
        let handle = WorkerHandle {
            id: config.id,
            core: config.core,
            mailbox: Arc::new(Mailbox::new(waker)),
            counters: Arc::new(WorkerCounters::default()),
        };
        let worker = Worker {
            core: config.core,
            mailbox: handle.mailbox.clone(),
            rxqs: Vec::new(),
            storage: BatchStorage::new(),
            events,
            idle: config.idle,
            injected: Vec::with_capacity(BURST),
            engine: Engine {
                id: config.id,
                classifier: Classifier::new(),
                transmit: Transmit::default(),
                burst: Burst::new(),
                counters: handle.counters.clone(),
                upcalls: config.upcalls,
                cache: config.pool.cache(),
                now_ms: sys::clock::coarse_ms(),
            },
        };
        Ok((handle, worker))
    }

    fn run(mut self) {
        if let Err(error) = sys::cpu::pin_current_thread(self.core) {
            log::warn!("worker on CPU {}: not pinned: {error}", self.core); // tidy: once per worker
        }
        // For the flow tables.
        sys::huge_alloc::wanted_here();
        let mut ticks = Ticks::now();
        while self.round(&mut ticks) {}
        self.mailbox.end();
    }

    /// Polls every queue once and does what else is due. False when a command ends the worker.
    #[inline]
    fn round(&mut self, ticks: &mut Ticks) -> bool {
        let mut now = sys::clock::cycles();
        let mut busy = false;
        self.engine.now_ms = sys::clock::coarse_ms();
        let mut bursts = 0;
        for slot in &mut self.rxqs {
            let packets = poll_queue(slot, &mut self.storage, &mut self.engine);
            if packets != 0 {
                bursts += 1;
                if bursts % BURSTS_PER_NOTICE == 0 {
                    self.engine.transmit.notify();
                }
                now = charge(slot, &self.engine, packets, now);
                busy = true;
            }
        }
        if !self.mailbox.commands.is_empty() {
            if self.carry_out_commands() {
                return false;
            }
            busy = true;
        }
        self.engine.transmit.notify();
        if now.wrapping_sub(ticks.next_chore) as i64 >= 0 {
            ticks.next_chore = now.wrapping_add(ticks.second);
            self.engine.classifier.rank();
        }
        self.engine.counters.total_cycles.store(now.wrapping_sub(ticks.started), Ordering::Relaxed);
        if busy {
            ticks.last_packet = now;
            if ticks.leave.is_some_and(|at| now.wrapping_sub(at) as i64 >= 0) {
                ticks.leave = None;
                self.leave_events();
            }
            return true;
        }
        let spin = u128::from(ticks.second) * self.idle.spin.as_nanos() / 1_000_000_000;
        if !self.idle.always_poll && u128::from(now.wrapping_sub(ticks.last_packet)) > spin {
            self.sleep();
            ticks.last_packet = sys::clock::cycles();
            ticks.leave = Some(ticks.last_packet.wrapping_add(ticks.second / LEAVES_PER_SECOND));
        }
        if self.engine.upcalls.waiting() {
            // Where there are not more CPUs than workers, the slow path may be waiting for this one.
            thread::yield_now();
        }
        std::hint::spin_loop();
        true
    }

    fn sleep(&mut self) {
        let mut registered = true;
        for (place, slot) in self.rxqs.iter_mut().enumerate() {
            let wanted = slot.assignment.queue.wait_fd();
            registered &= self.events.update(&mut slot.held, wanted, place).is_ok();
        }
        // Before the last look at the queues and commands: whoever adds work from here on sees it and wakes us.
        self.mailbox.asleep.store(true, Ordering::SeqCst);
        let mut nothing = registered;
        for slot in &mut self.rxqs {
            nothing &= slot.assignment.queue.arm() == Armed::Idle;
        }
        if nothing && self.mailbox.commands.is_empty() && !self.engine.transmit.owes() {
            self.wait_and_serve();
        }
        self.mailbox.asleep.store(false, Ordering::SeqCst);
        for slot in &mut self.rxqs {
            slot.assignment.queue.disarm();
        }
    }

    /// Waits, and carries what ended the waiting to the end at once. Everything else is a matter of the next round: caches are cold now, and to look
    /// at the other queues first would cost the first packet as much as its own way does.
    fn wait_and_serve(&mut self) {
        let mut events: Events = [MaybeUninit::uninit(); 8];
        self.engine.counters.sleeping.store(true, Ordering::Relaxed);
        let rung = self.events.wait(&mut events);
        self.engine.counters.sleeping.store(false, Ordering::Relaxed);
        bump(&self.engine.counters.sleeps, 1);
        let mut now = sys::clock::cycles();
        self.engine.now_ms = sys::clock::coarse_ms();
        for place in rung {
            let Some(slot) = self.rxqs.get_mut(place) else { continue };
            let packets = poll_queue(slot, &mut self.storage, &mut self.engine);
            if packets != 0 {
                now = charge(slot, &self.engine, packets, now);
            }
        }
        self.engine.transmit.notify();
    }

    /// Takes descriptors out of the epoll set through which the kernel would tell of every packet, though this worker looks all the time: the
    /// lock and the list of the set would cost its sender a tenth of a small frame, and us as much where we send by the same socket.
    #[cold]
    fn leave_events(&mut self) {
        for slot in &mut self.rxqs {
            if slot.assignment.queue.notifies_unasked() {
                self.events.leave(&mut slot.held);
            }
        }
    }

    /// Carries out waiting commands. True when one of them ends the worker.
    fn carry_out_commands(&mut self) -> bool {
        for _ in 0..COMMANDS_PER_ROUND {
            let Some(command) = self.mailbox.commands.pop() else { break };
            if let Command::Execute { packet, in_port, actions, drop_reason } = command {
                self.injected.push(Injected { packet, in_port, actions, drop_reason });
                if self.injected.len() == BURST {
                    self.execute_injected();
                }
                continue;
            }
            if let Command::InstallFor { flow, packet, in_port } = command {
                let (actions, drop_reason) = (flow.actions.clone(), flow.drop_reason);
                self.engine.classifier.install(flow, &self.engine.counters);
                self.injected.push(Injected { packet, in_port, actions, drop_reason });
                if self.injected.len() == BURST {
                    self.execute_injected();
                }
                continue;
            }
            self.execute_injected();
            if self.carry_out(command) {
                return true;
            }
        }
        self.execute_injected();
        false
    }

    fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::AddRxq(mut assignment) => {
                assignment.queue.set_waker(self.mailbox.waker.clone());
                let down = self.engine.transmit.is_down(assignment.port);
                self.rxqs.push(RxSlot { assignment, held: None, down });
            }
            Command::TakeRxq { port, index, reply } => {
                let found =
                    self.rxqs.iter().position(|s| s.assignment.port == port && s.assignment.index == index);
                if let Some(at) = found {
                    let mut slot = self.rxqs.swap_remove(at);
                    // Out of the set while the descriptor is still open; and the one that has its place now.
                    self.events.leave(&mut slot.held);
                    if let Some(moved) = self.rxqs.get_mut(at) {
                        self.events.leave(&mut moved.held);
                    }
                    let _ = reply.send(slot.assignment);
                }
            }
            Command::AddPort { port, queue, drops } => self.engine.transmit.add(port, queue, drops),
            Command::SetGro(port, gro) => self.engine.transmit.set_gro(port, gro),
            Command::SetAdmin(port, up) => {
                self.engine.transmit.set_admin(port, up);
                let theirs = self.rxqs.iter_mut().filter(|slot| slot.assignment.port == port);
                theirs.for_each(|slot| slot.down = !up);
            }
            Command::RemovePort(port) => self.engine.transmit.remove(port),
            Command::Install(flow) => self.engine.classifier.install(flow, &self.engine.counters),
            Command::Remove(flow) => self.engine.classifier.remove(&flow, &self.engine.counters),
            Command::Execute { .. } | Command::InstallFor { .. } => {}
            Command::SetIdle(idle) => self.idle = idle,
            Command::Barrier(done) => {
                let _ = done.send(());
            }
            Command::Stop => return true,
        }
        false
    }

    fn execute_injected(&mut self) {
        if self.injected.is_empty() {
            return;
        }
        let engine = &mut self.engine;
        let mut batch = self.storage.begin();
        let mut scratch = FlowKey::default();
        for injected in &self.injected {
            if injected.actions.is_drop() {
                engine.transmit.count_drop(injected.in_port, injected.drop_reason, 1);
                continue;
            }
            if !injected.packet.receive_into(&mut batch) {
                engine.transmit.count_drop(injected.in_port, DropReason::RxNoBuffer, 1);
                continue;
            }
            let slot = (batch.len() - 1) as SlotId;
            let packet = batch.packet(slot);
            let layers = key::extract(packet.head(), packet.len(), injected.in_port, &mut scratch);
            execute(&mut engine.transmit, &mut batch, slot, layers, injected.in_port, &injected.actions);
        }
        engine.transmit.flush(&batch);
        bump(&engine.counters.executed, self.injected.len() as u64);
        for injected in self.injected.drain(..) {
            injected.packet.free_into(&mut engine.cache);
        }
    }
}

/// Counts what a burst that began at `from` has cost its queue. Returns the time now.
#[inline]
fn charge(slot: &RxSlot, engine: &Engine, packets: usize, from: u64) -> u64 {
    let now = sys::clock::cycles();
    slot.assignment.load.add(packets as u64, now.wrapping_sub(from));
    bump(&engine.counters.busy_cycles, now.wrapping_sub(from));
    now
}

/// One burst of one queue, all the way. Returns the packets received.
#[inline]
fn poll_queue(slot: &mut RxSlot, storage: &mut BatchStorage, engine: &mut Engine) -> usize {
    let assignment = &mut slot.assignment;
    let packets = {
        let mut batch = storage.begin();
        let packets = assignment.queue.rx_burst(&mut batch);
        if packets != 0 {
            if slot.down {
                engine.transmit.count_drop(assignment.port, DropReason::RxAdminDown, packets as u64);
            } else {
                engine.process(&mut batch, assignment.port);
            }
        }
        packets
    };
    assignment.queue.rx_done();
    packets
}

impl Engine {
    fn process(&mut self, batch: &mut Batch<'_>, in_port: PortNo) {
        let packets = batch.len().min(BURST);
        bump(&self.counters.packets, packets as u64);
        bump(&self.counters.bursts, 1);
        let Engine { classifier, transmit, burst, .. } = self;
        let flows = classifier.classify(batch, in_port, burst, &self.counters);
        let mut missed = 0;
        match account(burst.trains(), &flows, self.now_ms) {
            Some(port) => Run::of(port, 0..packets as SlotId).end(transmit, batch, in_port),
            None => missed = act(transmit, batch, burst, &flows, in_port),
        }
        self.transmit.flush_burst(batch, in_port);
        if missed != 0 {
            self.upcalls(batch, in_port, missed);
        }
    }

    /// Sends the packets of some trains to the slow path.
    #[cold]
    fn upcalls(&mut self, batch: &Batch<'_>, in_port: PortNo, missed: u32) {
        let (mut start, mut sent) = (0, false);
        for train in 0..self.burst.trains().len() {
            let end = self.burst.trains()[train].end;
            if missed >> train & 1 != 0 {
                for slot in start..end {
                    sent |= self.upcall(batch, slot, in_port);
                }
            }
            start = end;
        }
        if sent {
            self.upcalls.notify();
        }
    }

    /// Sends a packet to the slow path, or drops it. True when it was sent.
    fn upcall(&mut self, batch: &Batch<'_>, slot: SlotId, in_port: PortNo) -> bool {
        let drop_reason = if !self.upcalls.has_room(in_port.0) {
            DropReason::UpcallQueueFull
        } else if let Some(packet) = OwnedPacket::copy_from_frame(&batch.frame(slot), &mut self.cache) {
            let (mut key, received) = (FlowKey::default(), batch.packet(slot));
            key::extract(received.head(), received.len(), in_port, &mut key);
            if self.upcalls.send(Upcall { worker: self.id, key, packet }) {
                return true;
            }
            DropReason::UpcallQueueFull
        } else {
            DropReason::UpcallNoBuffer
        };
        self.transmit.count_drop(in_port, drop_reason, 1);
        false
    }
}
