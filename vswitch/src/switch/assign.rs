//! Which worker polls which receive queue.
//!
//! A queue with an affinity goes to the worker on that CPU, which, unless told otherwise, then gets no others ([`Balance::isolate`]). A
//! new queue without one goes to the worker with the fewest queues, then the least load; when workers come, and as often as `pmd-auto-lb` says,
//! all of them are spread anew by what they cost in the last minute ([`super::balance`]). Queues move by message: the old worker hands the
//! box back between two bursts, the new one takes it; no other queue waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtable::key::PortNo;
use pmd::port::PortInfo;
use pmd::sys;

use super::Inner;
use super::balance::{Balance, Item, improvement, plan};
use super::load::Recent;
use super::port::RxqEntry;
use super::workers::WorkerEntry;
use crate::datapath::Command;
use crate::datapath::command::RxAssignment;

impl Inner {
    pub(super) fn worker(&self, id: u16) -> Option<&WorkerEntry> {
        self.workers.iter().find(|w| w.handle.id() == id)
    }

    /// Makes the polled queues of a port agree with what the port says it offers and with its affinities.
    pub(super) fn place_queues(&mut self, number: PortNo, info: &PortInfo) {
        let Some(entry) = self.ports.get(&number) else { return };
        let wanted = info.rx_queues;
        let polled: Vec<u16> = entry.rxqs.keys().copied().collect();
        for index in polled {
            if index >= wanted {
                self.withdraw(number, index);
            } else if self.misplaced(number, index) {
                self.move_queue(number, index);
            }
        }
        for index in 0..wanted {
            if !self.ports.get(&number).is_some_and(|e| e.rxqs.contains_key(&index)) {
                self.start_queue(number, index);
            }
        }
    }

    /// [`Inner::place_queues`] for all ports.
    pub(super) fn place_all_queues(&mut self) {
        let infos: Vec<_> = self.ports.iter().map(|(&number, entry)| (number, entry.port.info())).collect();
        for (number, info) in infos {
            self.place_queues(number, &info);
        }
    }

    fn start_queue(&mut self, number: PortNo, index: u16) {
        let Some(worker) = self.choose(number, index) else { return };
        let handle = worker.handle.clone();
        let Some(entry) = self.ports.get_mut(&number) else { return };
        let queue = match entry.port.rx_queue(index) {
            Ok(queue) => queue,
            Err(error) => {
                log::error!("port {}: receive queue {index} is not polled: {error}", entry.name);
                return;
            }
        };
        let load = Arc::default();
        let counters = queue.counters();
        // The port may hand out the same counters again: they must not count twice.
        entry.retired_rx.retain(|retired| !Arc::ptr_eq(retired, &counters));
        let rxq = RxqEntry { worker: handle.id(), counters, load, recent: Recent::default() };
        handle.send(Command::AddRxq(RxAssignment { port: number, index, queue, load: rxq.load.clone() }));
        entry.rxqs.insert(index, rxq);
    }

    fn withdraw(&mut self, number: PortNo, index: u16) {
        let Some(rxq) = self.ports.get_mut(&number).and_then(|e| e.rxqs.remove(&index)) else { return };
        if let Some(worker) = self.worker(rxq.worker) {
            drop(worker.handle.take_rxq(number, index));
        }
        if let Some(entry) = self.ports.get_mut(&number) {
            entry.retired_rx.push(rxq.counters);
        }
    }

    /// Moves a queue to the worker it should be on.
    fn move_queue(&mut self, number: PortNo, index: u16) {
        let Some(from) = self.ports.get(&number).and_then(|e| e.rxqs.get(&index)).map(|r| r.worker) else {
            return;
        };
        let Some(target) = self.choose(number, index).map(|w| w.handle.id()) else { return };
        self.move_to(number, index, from, target);
    }

    pub(super) fn move_to(&mut self, number: PortNo, index: u16, from: u16, to: u16) {
        let Some(target) = self.worker(to).map(|w| w.handle.clone()) else { return };
        if from == to {
            return;
        }
        let Some(assignment) = self.worker(from).and_then(|w| w.handle.take_rxq(number, index)) else {
            return;
        };
        if let Some(rxq) = self.ports.get_mut(&number).and_then(|e| e.rxqs.get_mut(&index)) {
            rxq.worker = target.id();
        }
        target.send(Command::AddRxq(assignment));
    }

    fn misplaced(&self, number: PortNo, index: u16) -> bool {
        let Some(entry) = self.ports.get(&number) else { return false };
        let Some(rxq) = entry.rxqs.get(&index) else { return false };
        match (self.worker(rxq.worker), entry.affinity.get(&index)) {
            (None, _) => true,
            (Some(worker), _) if worker.leaving => true,
            (Some(worker), Some(&core)) => {
                worker.handle.core() != core && self.workers.iter().any(|w| w.handle.core() == core)
            }
            (Some(worker), None) => self.is_isolated(worker) && !self.open_workers().contains(&rxq.worker),
        }
    }

    /// The worker a queue is pinned to, if there is one on that CPU.
    fn pinned(&self, number: PortNo, index: u16) -> Option<&WorkerEntry> {
        let core = *self.ports.get(&number)?.affinity.get(&index)?;
        self.workers.iter().find(|w| !w.leaving && w.handle.core() == core)
    }

    /// Whether a worker is kept for the queues pinned to it.
    pub(super) fn is_isolated(&self, worker: &WorkerEntry) -> bool {
        let core = worker.handle.core();
        let pins = |port: &super::port::PortEntry| {
            port.rxqs.keys().any(|index| port.affinity.get(index) == Some(&core))
        };
        self.balance.isolate && self.ports.values().any(pins)
    }

    /// Workers for queues without an affinity. Where all are isolated, all are: a queue that nobody polls would help nobody.
    fn open_workers(&self) -> Vec<u16> {
        let staying = || self.workers.iter().filter(|w| !w.leaving);
        let open: Vec<u16> = staying().filter(|w| !self.is_isolated(w)).map(|w| w.handle.id()).collect();
        if open.is_empty() { staying().map(|w| w.handle.id()).collect() } else { open }
    }

    fn choose(&self, number: PortNo, index: u16) -> Option<&WorkerEntry> {
        if let Some(worker) = self.pinned(number, index) {
            return Some(worker);
        }
        let open = self.open_workers();
        self.workers.iter().filter(|worker| open.contains(&worker.handle.id())).min_by_key(|worker| {
            let id = worker.handle.id();
            let mine = || self.ports.values().flat_map(|p| p.rxqs.values()).filter(|r| r.worker == id);
            (mine().count(), mine().map(RxqEntry::recent).sum::<u64>(), id)
        })
    }

    /// Queues without an affinity, and what they cost lately.
    fn items(&self) -> Vec<Item> {
        let of_port = |(&port, entry): (&PortNo, &super::port::PortEntry)| {
            let item = |(&queue, rxq): (&u16, &RxqEntry)| Item {
                port,
                queue,
                load: rxq.recent(),
                worker: rxq.worker,
            };
            let free = |(queue, _): &(&u16, &RxqEntry)| self.pinned(port, **queue).is_none();
            entry.rxqs.iter().filter(free).map(item).collect::<Vec<_>>()
        };
        self.ports.iter().flat_map(of_port).collect()
    }

    /// Spreads all queues without an affinity anew, while they run.
    pub(super) fn spread(&mut self) {
        let items = self.items();
        let planned = plan(self.balance.assign, &items, &self.open_workers());
        for (item, worker) in items.iter().zip(planned) {
            self.move_to(item.port, item.queue, item.worker, worker);
        }
        self.spread_at = Some(Instant::now());
    }

    /// Changes how queues are spread, from now on.
    pub(super) fn set_balance(&mut self, balance: Balance) {
        let changed = (self.balance.assign, self.balance.isolate) != (balance.assign, balance.isolate);
        self.balance = balance;
        if changed {
            self.place_all_queues();
            self.spread();
        }
    }

    /// An interval of measuring ends. Spreads queues anew where that is wished, and worth it.
    pub(super) fn tick(&mut self) {
        for rxq in self.ports.values_mut().flat_map(|port| port.rxqs.values_mut()) {
            rxq.recent.tick(rxq.load.cycles());
        }
        self.clock.tick(sys::clock::cycles());
        let Some(auto) = self.balance.auto else { return };
        if self.spread_at.is_some_and(|at| at.elapsed() < auto.interval) {
            return;
        }
        let (items, workers) = (self.items(), self.open_workers());
        let theirs = |worker: u16| items.iter().filter(move |item| item.worker == worker);
        let window = u128::from(self.window());
        let busy = |worker: u16| theirs(worker).map(|item| u128::from(item.load)).sum::<u128>() * 100;
        let loaded = workers.iter().any(|&w| busy(w) >= window * u128::from(auto.load_pct));
        let movable = workers.len() > 1 && workers.iter().any(|&worker| theirs(worker).count() > 1);
        if !loaded || !movable {
            return;
        }
        let planned = plan(self.balance.assign, &items, &workers);
        let gain = improvement(&items, &planned, &workers);
        if gain >= u64::from(auto.improvement_pct) {
            log::info!("receive queues are spread anew: the variance of load falls by {gain} %");
            self.spread();
        }
    }

    /// Ticks of the time that recent loads refer to.
    pub(super) fn window(&self) -> u64 {
        self.clock.growth(sys::clock::cycles()).max(1)
    }
}

/// How often loads are looked at: twelve times a minute, as in Open vSwitch.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
