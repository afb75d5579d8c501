//! What the switch tells about itself: plain data, gathered on the caller's thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowtable::key::PortNo;
use pmd::pci::{PciAddress, VfState};
use pmd::port::{DropReason, LinkState, PortInfo, QueueCounters, QueueSnapshot};
use pmd::sys;

use super::Switch;
use super::port::{PortEntry, PortOffloads};
use crate::datapath::{Megaflow, WorkerHandle, WorkerSnapshot};

/// A queue and what it has done.
#[derive(Clone, Debug)]
pub struct QueueReport {
    /// Receive queue, or transmit queue of one worker.
    pub is_rx: bool,
    /// Index at the port; for a transmit queue the number of its worker.
    pub index: u16,
    /// CPU of the worker that has it; `None` for one that is gone.
    pub core: Option<u32>,
    /// What it has done.
    pub counters: QueueSnapshot,
}

/// A port and what it has done.
#[derive(Clone, Debug)]
pub struct PortReport {
    /// Name.
    pub name: String,
    /// Bridge it is on.
    pub bridge: String,
    /// OpenFlow number.
    pub ofport: u16,
    /// Driver, as in `Interface.type`.
    pub driver: &'static str,
    /// What the driver says.
    pub info: PortInfo,
    /// How its offloads are set.
    pub offloads: PortOffloads,
    /// Whether the operator has it up. If not, its link is down.
    pub admin_up: bool,
    /// Received, all queues together.
    pub rx: QueueSnapshot,
    /// Sent, all workers together.
    pub tx: QueueSnapshot,
    /// Packets lost while receiving or after they came in by this port, by reason.
    pub rx_drops: BTreeMap<&'static str, u64>,
    /// Packets lost while sending to this port, by reason.
    pub tx_drops: BTreeMap<&'static str, u64>,
    /// Every queue.
    pub queues: Vec<QueueReport>,
}

impl PortReport {
    /// Offload work that software did on the way to the port, by the names of its counters.
    pub fn software(&self) -> [(&'static str, u64); 5] {
        [
            ("tx_sw_csum_packets", self.tx.checksummed),
            ("tx_sw_gso_packets", self.tx.segmented),
            ("tx_sw_gso_segments", self.tx.segments),
            ("tx_sw_gro_packets", self.tx.merged),
            ("tx_sw_gro_frames", self.tx.merged_into),
        ]
    }
}

/// A receive queue in the report of its worker.
#[derive(Clone, Debug)]
pub struct RxqReport {
    /// Port.
    pub port: String,
    /// Queue at the port.
    pub queue: u16,
    /// Packets carried.
    pub packets: u64,
    /// Time-stamp counter ticks spent on them.
    pub cycles: u64,
    /// Share of its worker's time in the last minute, in percent.
    pub usage_pct: f64,
    /// Whether it is pinned to its worker.
    pub pinned: bool,
}

/// A worker and its load.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// CPU.
    pub core: u32,
    /// NUMA node of the CPU.
    pub numa: u32,
    /// Whether it is kept for queues pinned to it.
    pub isolated: bool,
    /// Its counters.
    pub counters: WorkerSnapshot,
    /// Its receive queues.
    pub rxqs: Vec<RxqReport>,
}

/// A megaflow on the worker that has it.
#[derive(Clone, Debug)]
pub struct DpFlow {
    /// CPU of the worker.
    pub core: u32,
    /// The flow.
    pub flow: Arc<Megaflow>,
}

impl Switch {
    /// Reports of all ports, or of the one named, ordered by number.
    pub fn port_reports(&self, name: Option<&str>) -> Vec<PortReport> {
        let inner = self.lock();
        let core = |id: u16| inner.worker(id).map(|w| w.handle.core());
        let wanted = inner.ports.values().filter(|p| name.is_none_or(|n| n == p.name));
        wanted.map(|entry| report(entry, core)).collect()
    }

    /// Counters of a port that somebody else has. May wait for the kernel.
    pub fn counters_elsewhere(&self, name: &str) -> Vec<(&'static str, u64)> {
        let named = |entry: &&PortEntry| entry.name == name;
        // Asked without the lock.
        let port = self.lock().ports.values().find(named).map(|entry| Arc::clone(&entry.port));
        port.map(|port| port.counters_elsewhere()).unwrap_or_default()
    }

    /// What holds for the virtual functions of a card whose physical function is a port, by number. May wait for the card.
    pub fn virtual_functions(&self, card: PciAddress) -> Vec<VfState> {
        let is_card = |entry: &&PortEntry| entry.port.driver() == "pmd";
        // Asked without the lock.
        let ports: Vec<_> = self.lock().ports.values().filter(is_card).map(|e| Arc::clone(&e.port)).collect();
        ports
            .iter()
            .map(|port| port.virtual_functions(card))
            .find(|states| !states.is_empty())
            .unwrap_or_default()
    }

    /// Reports of all workers, ordered by CPU.
    pub fn worker_reports(&self) -> Vec<WorkerReport> {
        let inner = self.lock();
        let window = inner.window();
        let mut reports: Vec<_> = inner
            .workers
            .iter()
            .map(|worker| WorkerReport {
                core: worker.handle.core(),
                numa: sys::cpu::numa_node(worker.handle.core()).unwrap_or(0),
                isolated: inner.is_isolated(worker),
                counters: worker.handle.counters().snapshot(),
                rxqs: inner.ports.values().flat_map(|port| rxqs_of(port, &worker.handle, window)).collect(),
            })
            .collect();
        reports.sort_by_key(|report| report.core);
        reports
    }

    /// Every installed megaflow.
    pub fn dp_flows(&self) -> Vec<DpFlow> {
        let flows = self.slow.dump();
        let inner = self.lock();
        let core = |id: u16| inner.worker(id).map(|w| w.handle.core());
        flows.into_iter().filter_map(|(worker, flow)| Some(DpFlow { core: core(worker)?, flow })).collect()
    }

    /// Datapath numbers and names of all ports.
    pub fn port_numbers(&self) -> Vec<(PortNo, String)> {
        self.lock().ports.iter().map(|(&number, entry)| (number, entry.name.clone())).collect()
    }

    /// Milliseconds of the clock that flow and rule times refer to.
    pub fn now_ms(&self) -> u64 {
        sys::clock::coarse_ms()
    }
}

fn rxqs_of<'a>(
    port: &'a PortEntry,
    worker: &'a WorkerHandle,
    window: u64,
) -> impl Iterator<Item = RxqReport> + 'a {
    let theirs = port.rxqs.iter().filter(|(_, rxq)| rxq.worker == worker.id());
    theirs.map(move |(&queue, rxq)| RxqReport {
        port: port.name.clone(),
        queue,
        packets: rxq.load.packets(),
        cycles: rxq.load.cycles(),
        usage_pct: 100.0 * rxq.recent() as f64 / window as f64,
        pinned: port.affinity.get(&queue) == Some(&worker.core()),
    })
}

fn report(entry: &PortEntry, core: impl Fn(u16) -> Option<u32>) -> PortReport {
    let mut report = PortReport {
        name: entry.name.clone(),
        bridge: entry.bridge.clone(),
        ofport: entry.ofport,
        driver: entry.port.driver(),
        info: entry.port.info(),
        offloads: entry.offloads,
        admin_up: entry.admin_up,
        rx: QueueSnapshot::default(),
        tx: QueueSnapshot::default(),
        rx_drops: BTreeMap::new(),
        tx_drops: BTreeMap::new(),
        queues: Vec::new(),
    };
    if !entry.admin_up {
        report.info.link = LinkState::Down;
    }
    report.info.status.push(("rx_gro".into(), entry.offloads.gro.to_string()));
    for (&index, rxq) in &entry.rxqs {
        let counters = rxq.counters.snapshot();
        report.queues.push(QueueReport { is_rx: true, index, core: core(rxq.worker), counters });
        add(&mut report.rx, &mut report.rx_drops, &rxq.counters);
    }
    for counters in &entry.retired_rx {
        add(&mut report.rx, &mut report.rx_drops, counters);
    }
    for txq in &entry.txqs {
        let counters = txq.counters.snapshot();
        let core = core(txq.worker);
        report.queues.push(QueueReport { is_rx: false, index: txq.worker, core, counters });
        add(&mut report.tx, &mut report.tx_drops, &txq.counters);
        add_drops(&mut report.rx_drops, txq.drops.nonzero());
    }
    if let Some(late) = entry.port.late_tx() {
        add(&mut report.tx, &mut report.tx_drops, &late);
    }
    report
}

fn add(total: &mut QueueSnapshot, drops: &mut BTreeMap<&'static str, u64>, counters: &QueueCounters) {
    let one = counters.snapshot();
    total.packets += one.packets;
    total.bytes += one.bytes;
    total.bursts += one.bursts;
    total.notified += one.notified;
    total.suppressed += one.suppressed;
    total.checksummed += one.checksummed;
    total.segmented += one.segmented;
    total.segments += one.segments;
    total.merged += one.merged;
    total.merged_into += one.merged_into;
    add_drops(drops, counters.drops.nonzero());
}

fn add_drops(drops: &mut BTreeMap<&'static str, u64>, more: impl Iterator<Item = (DropReason, u64)>) {
    for (reason, n) in more {
        *drops.entry(reason.name()).or_default() += n;
    }
}
