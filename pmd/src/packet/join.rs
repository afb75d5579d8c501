//! Packets of a burst that are sent as one.
//!
//! A joined packet is a further slot with the first one's head and a list of spans, which name the payload of all where it lies,
//! the part in the private heads included. So no payload is copied, and the packets stay what they were for other ports.
#![expect(unsafe_code, reason = "the lifetime of spans into heads is stretched while the batch is lent out")]

use super::batch::{BURST, Batch, BatchStorage, CLONES, SPANS, SlotId};
use super::slot::Packet;
use super::span::Span;

/// Most packets there can be in a batch, and therefore in a plan.
const MOST: usize = BURST + CLONES;

/// A list of packets in the order in which they are to be sent, some of them joined to one frame. Made once and filled again and
/// again; see [`super::Batch::with_joined`].
pub struct Joins {
    members: [SlotId; MOST],
    count: usize,
    runs: [Run; MOST],
    run_count: usize,
}

/// Packets to be sent as one frame; a packet by itself is a run of one.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Index behind its last member. It begins where the run before ends.
    end: u16,
    /// Bytes at the front of each member but the first that are left out.
    header_len: u16,
}

/// A run, as [`Joins::runs`] shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Join<'a> {
    /// The packets, in order; at least one.
    pub members: &'a [SlotId],
    /// Bytes at the front of each but the first that the frame does not repeat.
    pub header_len: usize,
}

impl Default for Joins {
    fn default() -> Self {
        Joins { members: [0; MOST], count: 0, runs: [Run::default(); MOST], run_count: 0 }
    }
}

impl Joins {
    /// An empty list.
    pub fn new() -> Joins {
        Joins::default()
    }

    /// Makes the list empty.
    pub fn clear(&mut self) {
        (self.count, self.run_count) = (0, 0);
    }

    /// Adds packets to be sent as one frame, or one packet as it is. `header_len` bytes of each but the first are left out.
    /// Packets beyond what a batch can hold are not taken.
    pub fn push(&mut self, members: impl IntoIterator<Item = SlotId>, header_len: usize) {
        let before = self.count;
        for (place, member) in self.members[before..].iter_mut().zip(members) {
            *place = member;
            self.count += 1;
        }
        if self.count != before {
            self.runs[self.run_count] = Run { end: self.count as u16, header_len: header_len as u16 };
            self.run_count += 1;
        }
    }

    /// The runs in order.
    pub fn runs(&self) -> impl Iterator<Item = Join<'_>> {
        let mut start = 0;
        self.runs[..self.run_count].iter().map(move |run| {
            let members = &self.members[start..usize::from(run.end)];
            start = usize::from(run.end);
            Join { members, header_len: usize::from(run.header_len) }
        })
    }
}

impl<'q> Batch<'q> {
    /// Hands `send` the packets of a plan, those to be joined as one packet each: its head is the first member's, followed by the
    /// payload of all where it lies. `head` gets the number of the run and the new packet, to put right what its headers say.
    /// When `send` returns, the joined packets are gone and the others are as they were.
    ///
    /// Where there is no room for more, runs are sent packet by packet. Slots must be of this batch.
    pub fn with_joined<R>(
        &mut self,
        joins: &Joins,
        mut head: impl FnMut(usize, &mut Packet),
        send: impl FnOnce(&Batch<'q>, &[SlotId]) -> R,
    ) -> R {
        let (clones, spans) = (self.clones, self.storage.spans.len());
        let mut out = [0; MOST];
        let (mut count, mut joined, mut has_room, mut end) = (0, 0, true, spans);
        // First all that is written: the spans made afterwards point into heads.
        for (index, join) in joins.runs().enumerate() {
            let wanted = has_room && join.members.len() > 1;
            if let Some(slot) = wanted.then(|| self.start_joined(&join, &mut end)).flatten() {
                head(index, self.packet_mut(slot));
                (out[count], joined) = (slot, joined + 1);
                count += 1;
            } else {
                has_room &= !wanted;
                out[count..count + join.members.len()].copy_from_slice(join.members);
                count += join.members.len();
            }
        }
        let BatchStorage { slots, spans: list } = &mut *self.storage;
        for join in joins.runs().filter(|join| join.members.len() > 1).take(joined) {
            push_payloads(slots, list, &join);
        }
        debug_assert_eq!(list.len(), end);
        let result = send(self, &out[..count]);
        self.clones = clones;
        self.storage.spans.truncate(spans);
        result
    }

    /// Makes the packet of a run, whose spans will be those from `end` on, and moves `end` behind them.
    fn start_joined(&mut self, join: &Join<'_>, end: &mut usize) -> Option<SlotId> {
        let (mut spans, mut payload) = (0, 0);
        for (index, &member) in join.members.iter().enumerate() {
            let packet = self.packet(member);
            spans += usize::from(packet.span_count);
            payload += packet.payload_len();
            if index != 0 {
                spans += 1;
                payload += packet.head().len().saturating_sub(join.header_len);
            }
        }
        if *end + spans > SPANS {
            return None;
        }
        let slot = self.clone_packet(*join.members.first()?)?;
        self.packet_mut(slot).set_payload(*end as u16, spans as u16, payload as u32);
        *end += spans;
        Some(slot)
    }
}

/// Appends the payload of a run: for each member what follows the headers in its head, but for the first, and its spans.
fn push_payloads(slots: &[Packet; MOST], list: &mut Vec<Span<'static>>, join: &Join<'_>) {
    for (index, &member) in join.members.iter().enumerate() {
        let Some(packet) = slots.get(usize::from(member)) else { continue };
        if index != 0 {
            let tail = Span::from_slice(packet.head().get(join.header_len..).unwrap_or_default());
            // SAFETY: only the lifetime changes. The list is read through the batch alone, which is lent out unchangeable
            // until these spans are cut off the list again, so the head stays what and where it is.
            list.push(unsafe { core::mem::transmute::<Span<'_>, Span<'static>>(tail) });
        }
        let first = usize::from(packet.first_span);
        let mut left = packet.payload_len();
        for at in first..first + usize::from(packet.span_count) {
            let Some(span) = list.get(at).map(|span| span.slice(0, left)) else { continue };
            left -= span.len();
            list.push(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::HEAD_SPLIT;

    fn bytes(batch: &Batch<'_>, slot: SlotId) -> Vec<u8> {
        let mut out = vec![0; batch.packet(slot).len() + 1];
        let len = batch.frame(slot).copy_to(&mut out);
        out.truncate(len);
        out
    }

    #[test]
    fn joined_packets_carry_the_payload_of_all_and_leave_no_trace() {
        let frames: Vec<Vec<u8>> =
            (0..6u32).map(|i| (0..700 + i * 150).map(|b| (b * 7 + i) as u8).collect()).collect();
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert!(frames.iter().all(|frame| batch.receive(Span::from_slice(frame))));
        let small = [9; 100];
        assert!(batch.receive(Span::from_slice(&small)));
        batch.packet_mut(4).truncate(300);
        let (spans, before) = (batch.storage.spans.len(), bytes(&batch, 3));

        let mut joins = Joins::new();
        joins.push([0], 0);
        joins.push([1, 3, 4, 6], 54);
        joins.push([], 54);
        joins.push([5, 2], HEAD_SPLIT);
        let renamed = |index: usize, packet: &mut Packet| packet.head_mut()[0] = index as u8;
        batch.with_joined(&joins, renamed, |batch, slots| {
            assert_eq!(slots, [0, BURST as SlotId, BURST as SlotId + 1]);
            assert_eq!(bytes(batch, slots[0]), frames[0]);
            let mut wanted = [&frames[1][..], &frames[3][54..], &frames[4][54..300], &small[54..]].concat();
            wanted[0] = 1;
            assert_eq!(bytes(batch, slots[1]), wanted);
            let mut wanted = [&frames[5][..], &frames[2][HEAD_SPLIT..]].concat();
            wanted[0] = 2;
            assert_eq!(bytes(batch, slots[2]), wanted);
        });
        assert_eq!((batch.storage.spans.len(), batch.clones), (spans, 0));
        assert_eq!(bytes(&batch, 3), before);
    }

    #[test]
    fn without_room_packets_go_one_by_one() {
        let frame = vec![5; 600];
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        (0..4).for_each(|_| assert!(batch.receive(Span::from_slice(&frame))));
        (0..CLONES - 1).for_each(|_| assert!(batch.clone_packet(0).is_some()));
        let mut joins = Joins::new();
        joins.push([0, 1], 54);
        joins.push([2, 3], 54);
        let last = (BURST + CLONES - 1) as SlotId;
        batch.with_joined(&joins, |_, _| {}, |_, slots| assert_eq!(slots, [last, 2, 3]));
    }
}
