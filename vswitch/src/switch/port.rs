//! Adding, changing and removing ports.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowtable::key::PortNo;
use pmd::port::{DropCounters, LinkState, Offloads, PmdError, Port, QueueCounters};

use super::events::Changed;
use super::load::Recent;
use super::open::PortKind;
use super::{Inner, Switch, SwitchError};
use crate::bridge::{BridgePortConfig, VlanConfig};
use crate::datapath::{Command, RxqCounters};

/// A port to add.
#[derive(Clone, Debug)]
pub struct PortRequest {
    /// Name, unique in the switch.
    pub name: String,
    /// Bridge it joins.
    pub bridge: String,
    /// Driver and its options.
    pub kind: PortKind,
    /// OpenFlow port number wanted.
    pub ofport_request: Option<u16>,
    /// Whether it is the bridge's own port (OpenFlow `LOCAL`).
    pub local: bool,
    /// VLAN mode.
    pub vlan: VlanConfig,
    /// Largest payload of a frame; the driver's default if absent.
    pub mtu: Option<u16>,
    /// CPUs that shall poll receive queues, by queue (`other_config:pmd-rxq-affinity`).
    pub affinity: BTreeMap<u16, u32>,
    /// Whether frames may pass; see [`Port::set_admin`].
    pub admin_up: bool,
}

/// What the switch makes of the offloads of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortOffloads {
    /// What may be left to the far side.
    pub tx: Offloads,
    /// Whether frames that come in by the port may be merged to larger ones.
    pub gro: bool,
}

impl Default for PortOffloads {
    fn default() -> Self {
        PortOffloads { tx: Offloads::default(), gro: true }
    }
}

/// What can change about a port while it runs.
#[derive(Clone, Debug)]
pub struct PortChange {
    /// VLAN mode.
    pub vlan: VlanConfig,
    /// Largest payload of a frame, if it shall change.
    pub mtu: Option<u16>,
    /// CPUs that shall poll receive queues.
    pub affinity: BTreeMap<u16, u32>,
    /// Offloads.
    pub offloads: PortOffloads,
    /// Devices that are to run the rings of the guest, best first; see [`Port::set_vdpa`].
    pub vdpa: Vec<String>,
    /// Whether frames may pass; see [`Port::set_admin`].
    pub admin_up: bool,
}

/// A receive queue that a worker polls.
pub(super) struct RxqEntry {
    /// Worker that has it.
    pub(super) worker: u16,
    pub(super) counters: Arc<QueueCounters>,
    pub(super) load: Arc<RxqCounters>,
    /// Its load in the last minute.
    pub(super) recent: Recent,
}

impl RxqEntry {
    /// Ticks spent on it lately.
    pub(super) fn recent(&self) -> u64 {
        self.recent.growth(self.load.cycles())
    }
}

/// A transmit queue of one worker, and its drops of packets from this port.
pub(super) struct TxqEntry {
    pub(super) worker: u16,
    pub(super) counters: Arc<QueueCounters>,
    pub(super) drops: Arc<DropCounters>,
}

/// A port as the switch keeps it.
pub(super) struct PortEntry {
    pub(super) name: String,
    pub(super) bridge: String,
    pub(super) ofport: u16,
    pub(super) port: Arc<dyn Port>,
    pub(super) rxqs: BTreeMap<u16, RxqEntry>,
    /// Counters of receive queues that are polled no more, so that totals never go back.
    pub(super) retired_rx: Vec<Arc<QueueCounters>>,
    /// One per worker there is or was.
    pub(super) txqs: Vec<TxqEntry>,
    pub(super) affinity: BTreeMap<u16, u32>,
    pub(super) offloads: PortOffloads,
    /// Whether the operator has it up.
    pub(super) admin_up: bool,
    /// [`pmd::port::PortInfo::moves`] as last seen.
    pub(super) moves: u64,
}

impl Switch {
    /// Whether the driver of a request can be opened now, whatever ports there are. It is closed again.
    pub fn can_open(&self, request: &PortRequest) -> bool {
        super::open::open(request, &self.rundir, self.pool).is_ok()
    }

    /// Opens a port and joins it to its bridge. Returns its OpenFlow number.
    pub fn add_port(&self, request: PortRequest) -> Result<u16, SwitchError> {
        let mut inner = self.lock();
        if let Some(taken) = inner.names.get(&request.name).and_then(|no| inner.ports.get(no)) {
            return Err(SwitchError::Request(format!(
                "port {} is already on bridge {}: choose another name, or remove that port first",
                request.name, taken.bridge
            )));
        }
        let number = free_number(&inner);
        let port = super::open::open(&request, &self.rundir, self.pool)?;
        if let Some(mtu) = request.mtu {
            port.set_mtu(mtu)?;
        }
        if !request.admin_up {
            port.set_admin(false);
        }
        let ofport = self.bridges.add_port(
            &request.bridge,
            BridgePortConfig {
                name: request.name.clone(),
                dp: number,
                ofport_request: request.ofport_request,
                local: request.local,
                vlan: request.vlan,
            },
        )?;
        self.bridges.set_port_admin(&request.name, request.admin_up)?;
        let mut entry = PortEntry {
            name: request.name.clone(),
            bridge: request.bridge,
            ofport,
            port,
            rxqs: BTreeMap::new(),
            retired_rx: Vec::new(),
            txqs: Vec::new(),
            affinity: request.affinity,
            offloads: PortOffloads::default(),
            admin_up: request.admin_up,
            moves: 0,
        };
        if let Err(error) = inner.connect_tx(number, &mut entry) {
            self.bridges.remove_port(&entry.name)?;
            return Err(error);
        }
        entry.port.subscribe(Changed::new(self.maintenance.sender(), number));
        inner.names.insert(request.name, number);
        inner.ports.insert(number, entry);
        self.follow(&mut inner, number);
        Ok(ofport)
    }

    /// Has queues and bridge agree with what a port says now. Returns its name if frames take another way to its far side than when it was
    /// asked last. Under the lock, so that of two who ask the later one is told later.
    pub(super) fn follow(&self, inner: &mut Inner, number: PortNo) -> Option<String> {
        let info = inner.ports.get(&number)?.port.info();
        inner.place_queues(number, &info);
        let entry = inner.ports.get_mut(&number)?;
        if let Err(e) = self.bridges.set_port_link(&entry.name, info.link == LinkState::Up) {
            log::warn!("{}: {e}", entry.name);
        }
        let moved = std::mem::replace(&mut entry.moves, info.moves) != info.moves;
        moved.then(|| entry.name.clone())
    }

    /// Changes VLAN mode, MTU, affinity or offloads of a port, or takes it down or up.
    pub fn set_port(&self, name: &str, change: PortChange) -> Result<(), SwitchError> {
        let mut inner = self.lock();
        let number = inner.number(name)?;
        if let Some(entry) = inner.ports.get_mut(&number) {
            if let Some(mtu) = change.mtu {
                entry.port.set_mtu(mtu)?;
            }
            let moved = entry.affinity != change.affinity;
            entry.affinity = change.affinity;
            let port = Arc::clone(&entry.port);
            inner.set_admin(number, change.admin_up);
            self.bridges.set_port_admin(name, change.admin_up)?;
            let switched = inner.set_offloads(number, change.offloads);
            let handed = port.set_vdpa(&change.vdpa);
            self.bridges.set_port_vlan(name, change.vlan)?;
            if moved {
                inner.place_all_queues();
            }
            // Last, so that a port without offloads gets everything else.
            switched?;
            handed?;
        }
        Ok(())
    }

    /// Takes a port off its bridge and closes it.
    pub fn remove_port(&self, name: &str) -> Result<(), SwitchError> {
        let mut inner = self.lock();
        let number = inner.number(name)?;
        inner.names.remove(name);
        let Some(entry) = inner.ports.remove(&number) else { return Ok(()) };
        for (&index, rxq) in &entry.rxqs {
            if let Some(worker) = inner.worker(rxq.worker) {
                drop(worker.handle.take_rxq(number, index));
            }
        }
        self.bridges.remove_port(name)?;
        // No flow, and no packet that waits for a decision, may name the number when it is given to another port.
        self.slow.revalidate_now();
        for worker in &inner.workers {
            worker.handle.send(Command::RemovePort(number));
        }
        for worker in &inner.workers {
            worker.handle.barrier();
        }
        drop(entry);
        Ok(())
    }
}

/// Lowest number no port has. Zero is nobody's.
fn free_number(inner: &Inner) -> PortNo {
    let mut number = 1;
    for taken in inner.ports.keys() {
        if taken.0 != number {
            break;
        }
        number += 1;
    }
    PortNo(number)
}

impl Inner {
    pub(super) fn number(&self, name: &str) -> Result<PortNo, SwitchError> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| SwitchError::Request(format!("there is no port named {name}")))
    }

    /// Takes a port down, or up.
    fn set_admin(&mut self, number: PortNo, up: bool) {
        let Some(entry) = self.ports.get_mut(&number) else { return };
        if std::mem::replace(&mut entry.admin_up, up) == up {
            return;
        }
        log::info!("{}: taken {} by the operator", entry.name, if up { "up" } else { "down" });
        // The far side is the last to hear that frames pass, and the first that they do not.
        if !up {
            entry.port.set_admin(false);
        }
        for worker in &self.workers {
            worker.handle.send(Command::SetAdmin(number, up));
        }
        if up {
            entry.port.set_admin(true);
        }
    }

    /// Switches offloads of a port. Frames on their way are finished by either setting.
    fn set_offloads(&mut self, number: PortNo, offloads: PortOffloads) -> Result<(), PmdError> {
        let Some(entry) = self.ports.get_mut(&number) else { return Ok(()) };
        let before = std::mem::replace(&mut entry.offloads, offloads);
        if before.gro != offloads.gro {
            for worker in &self.workers {
                worker.handle.send(Command::SetGro(number, offloads.gro));
            }
        }
        if before.tx == offloads.tx {
            return Ok(());
        }
        // What was refused is asked for again by the next change, so that its complaint does not get lost.
        entry.port.set_offloads(offloads.tx).inspect_err(|_| entry.offloads.tx = before.tx)
    }

    /// Gives every worker a transmit queue of the port that does not have one yet.
    pub(super) fn connect_tx(&self, number: PortNo, entry: &mut PortEntry) -> Result<(), SwitchError> {
        for worker in &self.workers {
            let id = worker.handle.id();
            if entry.txqs.iter().any(|txq| txq.worker == id) {
                continue;
            }
            let queue = entry.port.tx_queue(id)?;
            let drops = Arc::new(DropCounters::default());
            entry.txqs.push(TxqEntry { worker: id, counters: queue.counters(), drops: drops.clone() });
            worker.handle.send(Command::AddPort { port: number, queue, drops });
            if !entry.offloads.gro {
                worker.handle.send(Command::SetGro(number, false));
            }
            if !entry.admin_up {
                worker.handle.send(Command::SetAdmin(number, false));
            }
        }
        Ok(())
    }
}
