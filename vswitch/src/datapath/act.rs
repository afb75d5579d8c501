//! Doing with the packets of a burst what their flows say, by trains and, where trains that follow each other go to one port, by runs.

use std::ops::Range;

use flowtable::key::PortNo;
use pmd::packet::{Batch, SlotId};
use pmd::port::DropReason;

use super::burst::{Burst, Train};
use super::classify::Flows;
use super::execute::execute;
use super::transmit::Transmit;

/// Packets that follow each other and go to one port, of whatever flows: most of what one guest sends leaves by one uplink, and is
/// staged by one move.
pub(super) struct Run {
    port: PortNo,
    slots: Range<SlotId>,
}

impl Run {
    const NONE: Run = Run { port: PortNo::NONE, slots: 0..0 };

    /// These packets.
    #[inline(always)]
    pub(super) fn of(port: PortNo, slots: Range<SlotId>) -> Run {
        Run { port, slots }
    }

    /// Takes more packets, if they are for the same port and come next.
    #[inline(always)]
    fn goes_on_with(&mut self, port: PortNo, slots: &Range<SlotId>) -> bool {
        let fits = self.port == port && self.slots.end == slots.start;
        if fits {
            self.slots.end = slots.end;
        }
        fits
    }

    /// Stages them.
    #[inline(always)]
    pub(super) fn end(self, transmit: &mut Transmit, batch: &Batch<'_>, in_port: PortNo) {
        let count = self.slots.len();
        if count != 0 && !transmit.stage_train(batch, self.port, self.slots) {
            transmit.count_drop(in_port, DropReason::TxPortGone, count as u64);
        }
    }
}

/// Counts the packets of every train for its flow. Returns the port, if there is one that all packets go to and nothing else
/// happens to any.
#[inline(always)]
pub(super) fn account(trains: &[Train], flows: &Flows<'_>, now_ms: u64) -> Option<PortNo> {
    let common = flows.first().copied().flatten().map_or(PortNo::NONE, |flow| flow.stats().output());
    let (mut all, mut start) = (true, 0);
    for (train, flow) in trains.iter().zip(flows) {
        let count = train.end - start;
        start = train.end;
        let Some(flow) = flow else {
            all = false;
            continue;
        };
        flow.stats().hit_by_train(usize::from(count), train.bytes as usize, train.tcp_flags, now_ms);
        all &= flow.stats().output() == common;
    }
    (all && common != PortNo::NONE).then_some(common)
}

/// Does with each train what its flow says. Returns the bitmap of those without one.
pub(super) fn act(
    transmit: &mut Transmit,
    batch: &mut Batch<'_>,
    burst: &Burst,
    flows: &Flows<'_>,
    in_port: PortNo,
) -> u32 {
    // Flows that do more than output need their actions, which lie elsewhere: asked for together.
    let doing_more = flows.iter().flatten().filter(|flow| flow.stats().output() == PortNo::NONE);
    doing_more.for_each(|flow| flow.prefetch_flow());
    let (mut missed, mut start) = (0, 0);
    let mut run = Run::NONE;
    for (i, (train, flow)) in burst.trains().iter().zip(flows).enumerate() {
        let slots = start..train.end;
        start = train.end;
        let Some(flow) = flow else {
            missed |= 1 << i;
            continue;
        };
        let port = flow.stats().output();
        if port != PortNo::NONE {
            if !run.goes_on_with(port, &slots) {
                std::mem::replace(&mut run, Run { port, slots }).end(transmit, batch, in_port);
            }
        } else if flow.flow().actions.is_drop() {
            transmit.count_drop(in_port, flow.flow().drop_reason, slots.len() as u64);
        } else {
            // What came before goes before.
            std::mem::replace(&mut run, Run::NONE).end(transmit, batch, in_port);
            for slot in slots {
                let layers = burst.layers(batch, slot, in_port);
                execute(transmit, batch, slot, layers, in_port, &flow.flow().actions);
            }
        }
    }
    run.end(transmit, batch, in_port);
    missed
}
