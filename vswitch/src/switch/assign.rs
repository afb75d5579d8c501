//! Which worker polls which receive queue.
//!
//! A queue with an affinity goes to the worker on that CPU. Every other queue goes to the worker with the least
//! measured load, then the fewest queues. Queues move by message: the old worker hands the box back between two
//! bursts, the new one takes it; no other queue waits.

use std::sync::Arc;

use flowtable::key::PortNo;

use super::Inner;
use super::port::RxqEntry;
use super::workers::WorkerEntry;
use crate::datapath::Command;
use crate::datapath::command::RxAssignment;

impl Inner {
    pub(super) fn worker(&self, id: u16) -> Option<&WorkerEntry> {
        self.workers.iter().find(|w| w.handle.id() == id)
    }

    /// Makes the polled queues of a port agree with what the port offers now and with its affinities.
    pub(super) fn place_queues(&mut self, number: PortNo) {
        let Some(entry) = self.ports.get(&number) else { return };
        let wanted = entry.port.info().rx_queues;
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
        let numbers: Vec<PortNo> = self.ports.keys().copied().collect();
        for number in numbers {
            self.place_queues(number);
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
        let rxq = RxqEntry { worker: handle.id(), counters, load };
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
        let Some(target) = self.choose(number, index).map(|w| w.handle.clone()) else { return };
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
            (Some(_), None) => false,
        }
    }

    fn choose(&self, number: PortNo, index: u16) -> Option<&WorkerEntry> {
        let pinned = self.ports.get(&number).and_then(|e| e.affinity.get(&index));
        let staying = || self.workers.iter().filter(|w| !w.leaving);
        if let Some(worker) = pinned.and_then(|&core| staying().find(|w| w.handle.core() == core)) {
            return Some(worker);
        }
        staying().min_by_key(|worker| {
            let id = worker.handle.id();
            let mine = || self.ports.values().flat_map(|p| p.rxqs.values()).filter(|r| r.worker == id);
            (mine().count(), mine().map(|r| r.load.cycles()).sum::<u64>(), id)
        })
    }
}
