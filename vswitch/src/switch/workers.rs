//! Starting and stopping workers while traffic runs.

use std::thread::JoinHandle;

use pmd::sys;

use super::{Balance, Inner, Switch, SwitchError};
use crate::datapath::worker::WorkerConfig;
use crate::datapath::{self, Command, IdlePolicy, WorkerHandle};
use crate::slowpath::Limits;

/// A worker thread.
pub(super) struct WorkerEntry {
    pub(super) handle: WorkerHandle,
    thread: Option<JoinHandle<()>>,
    /// Its CPU is not wanted any more: its queues move away.
    pub(super) leaving: bool,
}

impl Switch {
    /// Runs one worker on each CPU of `cpus`, or a single one on a CPU of our choice. Queues are spread over the workers there
    /// are, anew if one has come. CPUs that are not online are refused, and nothing changes.
    pub fn set_workers(&self, cpus: Option<&[u32]>) -> Result<(), SwitchError> {
        let online = sys::cpu::online();
        let wanted = match cpus {
            Some(cpus) if !cpus.is_empty() => cpus.to_vec(),
            // The last one: the first CPUs are where interrupts and housekeeping go.
            _ => vec![online.last().copied().unwrap_or(0)],
        };
        if let Some(absent) = wanted.iter().find(|cpu| !online.contains(cpu)) {
            return Err(SwitchError::Request(format!(
                "CPU {absent} of pmd-cpu-mask is not online or not allowed to this process (allowed: {online:?})"
            )));
        }
        let mut inner = self.lock();
        let before = inner.next_worker;
        for cpu in &wanted {
            if !inner.workers.iter().any(|w| w.handle.core() == *cpu) {
                self.start_worker(&mut inner, *cpu)?;
            }
        }
        for worker in &mut inner.workers {
            worker.leaving = !wanted.contains(&worker.handle.core());
        }
        inner.place_all_queues();
        if inner.next_worker != before {
            inner.spread();
        }
        self.stop_leaving(&mut inner);
        Ok(())
    }

    /// Changes how receive queues are spread over workers.
    pub fn set_balance(&self, balance: Balance) {
        self.lock().set_balance(balance);
    }

    /// Changes when workers sleep.
    pub fn set_idle(&self, idle: IdlePolicy) {
        let mut inner = self.lock();
        if inner.idle != idle {
            inner.idle = idle;
            for worker in &inner.workers {
                worker.handle.send(Command::SetIdle(idle));
            }
        }
    }

    /// Changes how many megaflows there may be and how long they stay.
    pub fn set_limits(&self, limits: Limits) {
        self.slow.set_limits(limits);
    }

    fn start_worker(&self, inner: &mut Inner, core: u32) -> Result<(), SwitchError> {
        let id = inner.next_worker;
        inner.next_worker = inner.next_worker.wrapping_add(1);
        let config =
            WorkerConfig { id, core, idle: inner.idle, upcalls: self.upcalls.clone(), pool: self.pool };
        let (handle, thread) = datapath::spawn(config)
            .map_err(|source| SwitchError::System { what: "starting a worker thread", source })?;
        self.sinks.add(std::sync::Arc::new(handle.clone()));
        inner.workers.push(WorkerEntry { handle, thread: Some(thread), leaving: false });
        let mut ports = std::mem::take(&mut inner.ports);
        for (&number, entry) in &mut ports {
            if let Err(error) = inner.connect_tx(number, entry) {
                log::error!("port {}: no transmit queue for the worker on CPU {core}: {error}", entry.name);
            }
        }
        inner.ports = ports;
        Ok(())
    }

    fn stop_leaving(&self, inner: &mut Inner) {
        let (leaving, staying): (Vec<_>, Vec<_>) = inner.workers.drain(..).partition(|w| w.leaving);
        inner.workers = staying;
        if !leaving.is_empty() {
            // They poll nothing any more. What they sent for a decision comes back to them before they are told to stop.
            self.slow.revalidate_now();
        }
        for mut worker in leaving {
            let id = worker.handle.id();
            self.sinks.remove(id);
            worker.stop();
            self.slow.forget_worker(id);
        }
    }
}

impl WorkerEntry {
    fn stop(&mut self) {
        self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the worker on CPU {} ended by a panic", self.handle.core());
        }
    }
}

/// Stops every worker: the switch ends.
pub(super) fn stop_all(inner: &mut Inner) {
    for worker in &mut inner.workers {
        worker.stop();
    }
    inner.workers.clear();
}
