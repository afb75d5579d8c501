//! Merging frames that arrived small into large ones: generic receive offload (GRO).
//!
//! Who takes large TCP frames handles one of 64 KiB for little more than the price of a small one, and so do the rings
//! on the way. So frames of a burst that a sender could have sent as one are made one. Only frames of one burst: nothing waits, no
//! timer is needed, and what is alone is handed on untouched.
//!
//! **Invariant.** Cutting a merged frame ([`super::Finisher`]) gives, byte for byte, the frames that went in, those with a partial
//! checksum completed. So frames are merged when they differ in nothing but what cutting makes anew: consecutive sequence
//! numbers and IPv4 identifications, PSH or FIN on the last alone, payload of equal length but for a shorter
//! last. A checksum that nobody vouches for is verified first, for a merged frame would hide that it was wrong.
//!
//! Order within a connection is kept: what of it cannot be merged ends the frame it came after.
//!
//! Cost: a look at the head of each packet, and at the payload only of those that will be merged and nobody vouches for. No
//! payload is copied, see [`Batch::with_joined`].

use super::finisher::{pseudo_header, rewrite_ip};
use super::headers::{Headers, TCP, be16, locate, put16};
use super::sum::Sum;
use crate::packet::{BURST, Batch, CLONES, Gso, Joins, Offload, OffloadCaps, Packet, SlotId};

/// Connections that can be open at once; a further one ends the oldest.
const OPEN: usize = 8;
/// Packets there can be to send.
const MOST: usize = BURST + CLONES;
/// Longest IP packet, and longest payload of an IPv6 packet.
const MAX_IP: usize = 65_535;
/// No packet.
const NONE: u8 = u8::MAX;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// What a transmit queue's far side takes, as far as merging asks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Takes {
    /// Offloads that are not done in software.
    pub caps: OffloadCaps,
    /// Longest frame that asks for no segmentation. Longer ones are not merged, so that they get what they would have got.
    pub max_frame: usize,
}

impl Takes {
    /// Whether there is a large frame that would be handed on as it is.
    #[inline]
    fn large_tcp(&self) -> bool {
        self.caps.csum && (self.caps.tso4 || self.caps.tso6)
    }
}

/// Finds what can be merged. One per worker; holds the plan for one burst to one port.
pub struct Merger {
    open: [Option<Group>; OPEN],
    /// Place in `open` that is taken next when none is free.
    oldest: usize,
    /// Of each packet: which one follows it in its group.
    next: [u8; MOST],
    /// Of each packet: whether it follows another one.
    follows: [bool; MOST],
    /// Of the first packet of each group that has ended with two members or more.
    ended: [Option<Group>; MOST],
    joins: Joins,
    /// Of each run of `joins`.
    merged: [Option<Group>; MOST],
}

/// Packets of one connection that will be one frame.
#[derive(Clone, Copy)]
struct Group {
    first: SlotId,
    /// Indexes of the first and last packet among those to send.
    first_index: u8,
    last_index: u8,
    headers: Headers,
    count: u16,
    /// Payload of each packet but the last.
    segment: usize,
    /// Payload so far.
    payload: usize,
    /// PSH and FIN of the last packet.
    last_flags: u8,
    /// The first packet's checksums are right.
    sound: bool,
}

impl Default for Merger {
    fn default() -> Self {
        Merger::new()
    }
}

impl Merger {
    /// Makes one.
    pub fn new() -> Merger {
        Merger {
            open: [None; OPEN],
            oldest: 0,
            next: [NONE; MOST],
            follows: [false; MOST],
            ended: [None; MOST],
            joins: Joins::new(),
            merged: [None; MOST],
        }
    }

    /// Plans how `slots` are best sent to a far side that takes `takes`. False when there is nothing to merge.
    #[inline]
    pub fn plan(&mut self, batch: &Batch<'_>, slots: &[SlotId], takes: Takes) -> bool {
        // Most bursts end here. One that takes segments and no checksums takes none of ours, whose checksums are left to it.
        takes.large_tcp()
            && slots.len() > 1
            && slots.iter().any(|&slot| is_long_tcp(batch.packet(slot)))
            && self.plan_tcp(batch, slots, takes)
    }

    fn plan_tcp(&mut self, batch: &Batch<'_>, slots: &[SlotId], takes: Takes) -> bool {
        let mut found = false;
        self.open = [None; OPEN];
        for (index, &slot) in slots.iter().enumerate().take(MOST) {
            self.next[index] = NONE;
            self.follows[index] = false;
            self.ended[index] = None;
            let packet = batch.packet(slot);
            if let Some(seen) = Seen::of(packet) {
                found |= self.add(batch, slot, index as u8, &seen, takes);
            }
        }
        if found {
            self.open.into_iter().flatten().for_each(|group| end(&mut self.ended, group));
            self.list(slots);
        }
        found
    }

    /// Calls `send` with the packets of the last plan. Slots and batch must be those it was made for. Returns how many frames were
    /// made, and of how many packets.
    pub fn send(&self, batch: &mut Batch<'_>, send: impl FnOnce(&Batch<'_>, &[SlotId])) -> (u64, u64) {
        let (mut frames, mut packets) = (0, 0);
        let head = |run: usize, packet: &mut Packet| {
            if let Some(group) = &self.merged[run] {
                group.write_head(packet);
                frames += 1;
                packets += u64::from(group.count);
            }
        };
        batch.with_joined(&self.joins, head, send);
        (frames, packets)
    }

    /// Adds a TCP packet. True when it was merged to one before it.
    fn add(&mut self, batch: &Batch<'_>, slot: SlotId, index: u8, seen: &Seen<'_>, takes: Takes) -> bool {
        let place = self.open.iter().position(|group| {
            group.as_ref().is_some_and(|group| group.view(batch).connection() == seen.view.connection())
        });
        if let Some(place) = place
            && let Some(mut group) = self.open[place].take()
        {
            if group.take(batch, slot, seen, takes.max_frame) {
                self.next[usize::from(group.last_index)] = index;
                self.follows[usize::from(index)] = true;
                group.last_index = index;
                // A short packet, or one with a flag, is the last.
                if seen.data == group.segment && group.last_flags == 0 {
                    self.open[place] = Some(group);
                } else {
                    end(&mut self.ended, group);
                }
                return true;
            }
            end(&mut self.ended, group);
        }
        if seen.begins(takes) {
            let free = place.or_else(|| self.open.iter().position(Option::is_none));
            let at = free.unwrap_or_else(|| {
                self.oldest = (self.oldest + 1) % OPEN;
                self.oldest
            });
            if let Some(group) = self.open[at].replace(Group::new(slot, index, seen)) {
                end(&mut self.ended, group);
            }
        }
        false
    }

    /// Writes the plan: each group where its first packet was.
    fn list(&mut self, slots: &[SlotId]) {
        self.joins.clear();
        let mut run = 0;
        for (index, &slot) in slots.iter().enumerate().take(MOST) {
            if self.follows[index] {
                continue;
            }
            self.merged[run] = self.ended[index];
            match self.ended[index] {
                None => self.joins.push([slot], 0),
                Some(group) => {
                    let mut at = usize::from(group.first_index);
                    let members = std::iter::from_fn(|| {
                        let slot = slots.get(at).copied();
                        at = self.next.get(at).copied().map_or(usize::MAX, usize::from);
                        slot
                    });
                    self.joins.push(members, group.headers.payload);
                }
            }
            run += 1;
        }
    }
}

/// Whether a packet may be the first of a group, at the cost of two lines that receiving it has brought.
#[inline(always)]
fn is_long_tcp(packet: &Packet) -> bool {
    packet.payload_len() != 0 && packet.offload.gso == Gso::None && may_be_tcp(packet.head())
}

/// Whether a frame is TCP, as far as that shows at fixed places; one with tags may be.
#[inline(always)]
fn may_be_tcp(head: &[u8]) -> bool {
    match head.get(12..24) {
        Some(&[0x08, 0x00, .., protocol]) => protocol == TCP,
        Some(&[0x86, 0xdd, _, _, _, _, _, _, next, ..]) => next == TCP || next == 0 || next == 60,
        Some(&[0x81, 0x00, ..] | &[0x88, 0xa8, ..]) => true,
        _ => false,
    }
}

/// Notes a group that gets no more packets, if it is one.
fn end(ended: &mut [Option<Group>; MOST], group: Group) {
    if group.count > 1 {
        ended[usize::from(group.first_index)] = Some(group);
    }
}

impl Group {
    fn new(slot: SlotId, index: u8, seen: &Seen<'_>) -> Group {
        Group {
            first: slot,
            first_index: index,
            last_index: index,
            headers: seen.view.headers,
            count: 1,
            segment: seen.data,
            payload: seen.data,
            last_flags: 0,
            sound: false,
        }
    }

    fn view<'a>(&self, batch: &'a Batch<'_>) -> View<'a> {
        View { head: batch.packet(self.first).head(), headers: self.headers }
    }

    /// Takes a packet of the same connection in, if it is what cutting would make of the frame's next segment.
    fn take(&mut self, batch: &Batch<'_>, slot: SlotId, seen: &Seen<'_>, max_frame: usize) -> bool {
        let (first, view) = (self.view(batch), &seen.view);
        let ip_from = self.headers.l3 + if self.headers.is_v6 { 40 } else { 0 };
        let continues = seen.is_plain()
            && seen.data <= self.segment
            && seen.packet.len() <= max_frame
            && self.headers.payload - ip_from + self.payload + seen.data <= MAX_IP
            && (seen.flags ^ first.flags()) & !(PSH | FIN) == 0
            && view.sequence() == first.sequence().wrapping_add(self.payload as u32)
            && view.identification() == first.identification().map(|id| id.wrapping_add(self.count))
            && view.is_like(&first);
        if !continues {
            return false;
        }
        self.sound = self.sound || first.is_sound(batch, self.first);
        if !self.sound || !view.is_sound(batch, slot) {
            return false;
        }
        self.count += 1;
        self.payload += seen.data;
        self.last_flags = seen.flags & (PSH | FIN);
        true
    }

    /// Makes the head of the first packet that of the merged frame.
    fn write_head(&self, packet: &mut Packet) {
        let Headers { l3, l4, payload, is_v6, .. } = self.headers;
        let head = packet.head_mut();
        let ip_len = payload - l3 + self.payload;
        rewrite_ip(head, self.headers, ip_len, 0);
        if let Some(flags) = head.get_mut(l4 + 13) {
            *flags |= self.last_flags;
        }
        // The partial checksum: the sum of the pseudo-header, which whoever completes it goes on from.
        let sum = pseudo_header(head, self.headers, payload - l4 + self.payload);
        put16(head, l4 + 16, !sum.finish());
        packet.offload = Offload {
            needs_csum: true,
            gso: if is_v6 { Gso::TcpV6 } else { Gso::TcpV4 },
            gso_size: self.segment as u16,
            hdr_len: payload as u16,
            csum_start: l4 as u16,
            csum_offset: 16,
            ..Offload::default()
        };
    }
}

/// A TCP packet among those to send.
struct Seen<'a> {
    packet: &'a Packet,
    view: View<'a>,
    flags: u8,
    /// Bytes of payload.
    data: usize,
}

impl<'a> Seen<'a> {
    /// `None` for what is no TCP packet, or none whose headers make sense.
    #[inline]
    fn of(packet: &'a Packet) -> Option<Seen<'a>> {
        let head = packet.head();
        if !may_be_tcp(head) {
            return None;
        }
        match head.get(12..14)? {
            [0x08, 0x00] => Seen::look(packet, Gso::TcpV4),
            [0x86, 0xdd] => Seen::look(packet, Gso::TcpV6),
            _ => Seen::look(packet, Gso::TcpV4).or_else(|| Seen::look(packet, Gso::TcpV6)),
        }
    }

    fn look(packet: &'a Packet, gso: Gso) -> Option<Seen<'a>> {
        let head = packet.head();
        let headers = locate(head, packet.len(), &Offload { gso, ..Offload::default() }).ok()?;
        let view = View { head, headers };
        Some(Seen { packet, view, flags: view.flags(), data: packet.len() - headers.payload })
    }

    /// Whether others can follow this one in a frame.
    fn begins(&self, takes: Takes) -> bool {
        let caps = takes.caps;
        (if self.view.headers.is_v6 { caps.tso6 } else { caps.tso4 })
            && self.flags & !ECE == ACK
            // What is short enough for the head alone is not worth it.
            && self.packet.payload_len() != 0
            && self.packet.len() <= takes.max_frame
            && self.is_plain()
    }

    /// Whether the packet is one frame with payload and without padding.
    fn is_plain(&self) -> bool {
        let Headers { l3, is_v6, .. } = self.view.headers;
        let (field, header) = if is_v6 { (l3 + 4, l3 + 40) } else { (l3 + 2, l3) };
        let said = be16(self.view.head, field).map_or(0, usize::from);
        self.packet.offload.gso == Gso::None && self.data != 0 && header + said == self.packet.len()
    }
}

/// The headers of a TCP packet. All of them are in the head, which is what [`locate`] has checked.
#[derive(Clone, Copy)]
struct View<'a> {
    head: &'a [u8],
    headers: Headers,
}

impl<'a> View<'a> {
    fn part(&self, from: usize, len: usize) -> &'a [u8] {
        self.head.get(from..from + len).unwrap_or_default()
    }

    /// Addresses and ports.
    fn connection(&self) -> (&'a [u8], &'a [u8]) {
        let Headers { l3, l4, is_v6, .. } = self.headers;
        let addresses = if is_v6 { self.part(l3 + 8, 32) } else { self.part(l3 + 12, 8) };
        (addresses, self.part(l4, 4))
    }

    fn flags(&self) -> u8 {
        self.head.get(self.headers.l4 + 13).copied().unwrap_or_default()
    }

    fn sequence(&self) -> u32 {
        self.part(self.headers.l4 + 4, 4).try_into().map_or(0, u32::from_be_bytes)
    }

    /// `None` for IPv6, which has none.
    fn identification(&self) -> Option<u16> {
        if self.headers.is_v6 { None } else { be16(self.head, self.headers.l3 + 4) }
    }

    /// Whether all that cutting repeats is the same.
    fn is_like(&self, other: &View<'_>) -> bool {
        let Headers { l3, l4, payload, is_v6, .. } = self.headers;
        // Around IP length, identification and header checksum; sequence number, flags and checksum.
        let ip: &[_] = if is_v6 {
            &[(0, l3 + 4), (l3 + 6, l4)]
        } else {
            &[(0, l3 + 2), (l3 + 6, l3 + 10), (l3 + 12, l4)]
        };
        let tcp = [(l4, l4 + 4), (l4 + 8, l4 + 13), (l4 + 14, l4 + 16), (l4 + 18, payload)];
        let same = |&(from, to): &(usize, usize)| self.head.get(from..to) == other.head.get(from..to);
        self.headers == other.headers && ip.iter().chain(&tcp).all(same)
    }

    /// Whether the checksums are as cutting would make them. All ones is never the result of a sum that has other bits, though
    /// to a receiver it is the same as zero.
    fn is_sound(&self, batch: &Batch<'_>, slot: SlotId) -> bool {
        const ALL_ONES: Option<u16> = Some(0xffff);
        let Headers { l3, l4, is_v6, .. } = self.headers;
        let frame = batch.frame(slot);
        let mut header = Sum::default();
        header.add(self.part(l3, l4 - l3));
        if !is_v6 && (header.finish() != 0 || be16(self.head, l3 + 10) == ALL_ONES) {
            return false;
        }
        let offload = &frame.offload;
        if offload.needs_csum {
            return (usize::from(offload.csum_start), offload.csum_offset) == (l4, 16);
        }
        if be16(self.head, l4 + 16) == ALL_ONES {
            return false;
        }
        let mut sum = pseudo_header(self.head, self.headers, frame.len() - l4);
        if offload.csum_valid {
            return true;
        }
        sum.add(self.head.get(l4..).unwrap_or_default());
        frame.for_each_payload(|piece| sum.add_span(piece));
        sum.finish() == 0
    }
}

#[cfg(test)]
mod tests;
