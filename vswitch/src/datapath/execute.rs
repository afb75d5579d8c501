//! Carrying out an action list on one packet of a batch.
//!
//! A packet is staged, not sent, by an output; so an output that is followed by a change stages a clone (own
//! head, same payload) and the original goes on. When the clones run out, what is staged is sent first.

use flowtable::actions::rewrite::{self, HeadMut};
use flowtable::actions::{Action, ActionList, SetField};
use flowtable::key::{Layers, PortNo};
use pmd::packet::{Batch, Packet, SlotId};
use pmd::port::DropReason;

use super::transmit::Transmit;

/// A packet's head, for the rewriting functions.
struct Head<'a>(&'a mut Packet);

impl HeadMut for Head<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.head_mut()
    }

    fn grow_front(&mut self, n: usize) -> bool {
        self.0.push_front(n).is_some()
    }

    fn shrink_front(&mut self, n: usize) -> bool {
        self.0.pull_front(n)
    }
}

/// Carries out `actions` on the packet in `slot`, which came in by `in_port`. An action that cannot be done drops what is
/// left of the packet's way, with a reason.
pub(super) fn execute(
    transmit: &mut Transmit,
    batch: &mut Batch<'_>,
    slot: SlotId,
    layers: Layers,
    in_port: PortNo,
    actions: &ActionList,
) {
    let mut layers = layers;
    let mut truncate = None;
    for (i, action) in actions.iter().enumerate() {
        let result = match action {
            Action::Output(port) => {
                let own_head = truncate.is_some() || changes_head(&actions[i + 1..]);
                output(transmit, batch, slot, *port, own_head, truncate.take())
            }
            Action::Truncate(len) => {
                truncate = Some(*len);
                Ok(())
            }
            Action::PushVlan { tpid, tci } => push_vlan(batch.packet_mut(slot), &mut layers, *tpid, *tci),
            Action::PopVlan => pop_vlan(batch.packet_mut(slot), &mut layers),
            Action::Set(set) => set_field(batch.packet_mut(slot), &layers, set),
        };
        if let Err(reason) = result {
            transmit.count_drop(in_port, reason, 1);
            if reason != DropReason::TxPortGone {
                return;
            }
        }
    }
}

fn changes_head(rest: &[Action]) -> bool {
    rest.iter().any(|action| !matches!(action, Action::Output(_) | Action::Truncate(_)))
}

fn output(
    transmit: &mut Transmit,
    batch: &mut Batch<'_>,
    slot: SlotId,
    port: PortNo,
    own_head: bool,
    truncate: Option<u32>,
) -> Result<(), DropReason> {
    let staged = if own_head { clone(transmit, batch, slot).ok_or(DropReason::ActionNoRoom)? } else { slot };
    if let Some(len) = truncate {
        batch.packet_mut(staged).truncate(len as usize);
    }
    if transmit.stage(batch, port, staged) { Ok(()) } else { Err(DropReason::TxPortGone) }
}

fn clone(transmit: &mut Transmit, batch: &mut Batch<'_>, slot: SlotId) -> Option<SlotId> {
    batch.clone_packet(slot).or_else(|| {
        transmit.flush(batch);
        batch.release_clones();
        batch.clone_packet(slot)
    })
}

fn push_vlan(packet: &mut Packet, layers: &mut Layers, tpid: u16, tci: u16) -> Result<(), DropReason> {
    rewrite::push_vlan(&mut Head(packet), layers, tpid, tci).map_err(|_| DropReason::ActionNoRoom)?;
    Ok(())
}

fn pop_vlan(packet: &mut Packet, layers: &mut Layers) -> Result<(), DropReason> {
    rewrite::pop_vlan(&mut Head(packet), layers).map_err(|_| DropReason::ActionNoRoom)?;
    Ok(())
}

fn set_field(packet: &mut Packet, layers: &Layers, set: &SetField) -> Result<(), DropReason> {
    let partial = packet.offload.needs_csum;
    rewrite::apply_set(packet.head_mut(), layers, set, partial).map_err(|_| DropReason::ActionNoRoom)
}
