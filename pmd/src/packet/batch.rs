//! A burst of packets on its way through a worker.
#![expect(unsafe_code, reason = "one lifetime is stretched while a span lies in reusable storage")]

use super::frame::Frame;
use super::slot::{HEAD_CAPACITY, HEAD_SPLIT, Packet};
use super::span::Span;

/// Most packets received at once.
pub const BURST: usize = 32;

/// Slots beside the received ones, for copies that differ from their original (output, push tag, output).
pub const CLONES: usize = 32;

/// Spans the packets of one burst may have together. A queue that runs out ends its burst early.
pub(super) const SPANS: usize = 2048;

/// Index of a packet in a batch.
pub type SlotId = u16;

/// The slots of one worker, made once and used for every burst.
pub struct BatchStorage {
    pub(super) slots: Box<[Packet; BURST + CLONES]>,
    /// Really `Span<'q>` of the batch that filled it; only [`Batch::frame`] and [`Batch::with_joined`] read it, and
    /// shorten the lifetime again.
    pub(super) spans: Vec<Span<'static>>,
}

impl Default for BatchStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchStorage {
    /// Allocates the slots.
    pub fn new() -> BatchStorage {
        let slots = Box::new([const { Packet::EMPTY }; BURST + CLONES]);
        BatchStorage { slots, spans: Vec::with_capacity(SPANS) }
    }

    /// Starts an empty batch. Whatever is received into it is borrowed for `'q`.
    pub fn begin<'q>(&'q mut self) -> Batch<'q> {
        self.spans.clear();
        Batch { storage: self, len: 0, clones: 0 }
    }
}

/// Packets received together, and what became of them.
///
/// Slots `0..len()` are the packets of the burst in order of arrival; clones follow from slot [`BURST`] on.
/// `'q` is the borrow of the receive queue: while the batch lives, the queue keeps every payload in place.
pub struct Batch<'q> {
    pub(super) storage: &'q mut BatchStorage,
    len: u16,
    pub(super) clones: u16,
}

impl<'q> Batch<'q> {
    /// Packets received.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether nothing was received.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether another packet can be received: a slot is free, and `spans` more spans fit.
    pub fn has_room(&self, spans: usize) -> bool {
        usize::from(self.len) < BURST && self.storage.spans.len() + spans <= SPANS
    }

    /// Spans in use: one at least for each packet that is not wholly in its head.
    #[inline]
    pub fn spans(&self) -> usize {
        self.storage.spans.len()
    }

    /// Starts the next packet, empty. `None` when the burst is full.
    ///
    /// A driver fills the head ([`Packet::receive_head`]), the offload state, and adds spans with
    /// [`Batch::add_span`] before it starts another.
    #[inline]
    pub fn start_packet(&mut self) -> Option<&mut Packet> {
        if usize::from(self.len) >= BURST {
            return None;
        }
        let first_span = self.storage.spans.len() as u16;
        let slot = &mut self.storage.slots[usize::from(self.len)];
        slot.reset(first_span);
        self.len += 1;
        Some(slot)
    }

    /// Takes back the packet started last: the driver found it bad.
    pub fn cancel_packet(&mut self) {
        if let Some(last) = self.len.checked_sub(1) {
            self.len = last;
            let first_span = usize::from(self.storage.slots[usize::from(last)].first_span);
            self.storage.spans.truncate(first_span);
        }
    }

    /// Appends payload to the packet started last. False when the burst's span list is full; the caller then
    /// cancels the packet or ends the burst before it.
    pub fn add_span(&mut self, span: Span<'q>) -> bool {
        if span.is_empty() {
            return true;
        }
        let Some(last) = self.len.checked_sub(1) else { return false };
        if self.storage.spans.len() >= SPANS {
            return false;
        }
        let len = span.len();
        // SAFETY: only the lifetime changes. The list is read through `Batch<'q>` alone, which hands spans out
        // in frames that borrow the batch, and `BatchStorage::begin` empties it before the next batch.
        self.storage.spans.push(unsafe { core::mem::transmute::<Span<'q>, Span<'static>>(span) });
        let slot = &mut self.storage.slots[usize::from(last)];
        slot.span_count += 1;
        slot.add_payload(len);
        true
    }

    /// Receives a frame that is one run of bytes: copies the head, and all of a small frame, and borrows the rest.
    /// False when the burst is full.
    #[inline]
    pub fn receive(&mut self, frame: Span<'q>) -> bool {
        if frame.len() > HEAD_CAPACITY {
            return self.receive_split(frame);
        }
        let Some(packet) = self.start_packet() else { return false };
        frame.copy_to(0, packet.receive_head(frame.len()));
        true
    }

    /// Apart, so that a short frame is received in registers.
    #[inline(never)]
    fn receive_split(&mut self, frame: Span<'q>) -> bool {
        if !self.has_room(1) {
            return false;
        }
        let Some(packet) = self.start_packet() else { return false };
        frame.copy_to(0, packet.receive_head(HEAD_SPLIT));
        self.add_span(frame.slice(HEAD_SPLIT, usize::MAX))
    }

    /// The same for a frame that lies in pieces, in order. False, and nothing received, when the burst or its span list has no room.
    pub fn receive_pieces(&mut self, pieces: impl Iterator<Item = Span<'q>> + Clone) -> bool {
        let (count, len) = pieces.clone().fold((0, 0), |(count, len), piece| (count + 1, len + piece.len()));
        if !self.has_room(count) {
            return false;
        }
        let Some(packet) = self.start_packet() else { return false };
        let in_head = if len <= HEAD_CAPACITY { len } else { HEAD_SPLIT };
        let mut head = packet.receive_head(in_head);
        for piece in pieces.clone() {
            let copied = piece.copy_to(0, head);
            head = &mut head[copied..];
        }
        let mut skip = in_head;
        for piece in pieces {
            let copied = skip.min(piece.len());
            skip -= copied;
            // There is room: looked at above.
            self.add_span(piece.slice(copied, usize::MAX));
        }
        true
    }

    /// A packet of the batch. Panics on a slot this batch never gave out.
    #[inline]
    pub fn packet(&self, slot: SlotId) -> &Packet {
        &self.storage.slots[usize::from(slot)]
    }

    /// A packet of the batch, to rewrite.
    #[inline]
    pub fn packet_mut(&mut self, slot: SlotId) -> &mut Packet {
        &mut self.storage.slots[usize::from(slot)]
    }

    /// A packet as a frame to send.
    #[inline]
    pub fn frame(&self, slot: SlotId) -> Frame<'_> {
        let packet = self.packet(slot);
        let first = usize::from(packet.first_span);
        let spans = &self.storage.spans[first..first + usize::from(packet.span_count)];
        let mut frame = Frame::new(packet.head(), packet.offload, spans, packet.payload_len());
        frame.hash = packet.hash;
        frame
    }

    /// A second packet with the same frame: its head is its own, its payload the same memory.
    /// `None` when all [`CLONES`] are in use.
    pub fn clone_packet(&mut self, slot: SlotId) -> Option<SlotId> {
        if usize::from(self.clones) >= CLONES {
            return None;
        }
        let (received, clones) = self.storage.slots.split_at_mut(BURST);
        let to = usize::from(self.clones);
        match usize::from(slot).checked_sub(BURST) {
            None => clones[to].copy_from(&received[usize::from(slot)]),
            Some(from) => {
                let (before, after) = clones.split_at_mut(to);
                after[0].copy_from(&before[from]);
            }
        }
        self.clones += 1;
        Some((BURST + to) as SlotId)
    }

    /// Gives all clones back. Nothing may be staged with them any more.
    pub fn release_clones(&mut self) {
        self.clones = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage_with(frame: &[u8], check: impl FnOnce(Batch<'_>)) {
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert!(batch.receive(Span::from_slice(frame)));
        check(batch);
    }

    #[test]
    fn small_frame_is_private() {
        storage_with(&[7; 60], |batch| {
            assert_eq!(batch.packet(0).head(), &[7; 60]);
            assert_eq!(batch.frame(0).payload_len(), 0);
        });
    }

    #[test]
    fn large_frame_is_split_and_whole_again() {
        let frame: Vec<u8> = (0..1500u32).map(|i| i as u8).collect();
        storage_with(&frame, |batch| {
            assert_eq!(batch.packet(0).head().len(), HEAD_SPLIT);
            assert_eq!(batch.packet(0).len(), 1500);
            let mut out = vec![0; 2000];
            assert_eq!(batch.frame(0).copy_to(&mut out), 1500);
            assert_eq!(&out[..1500], &frame[..]);
        });
    }

    #[test]
    fn clone_differs_in_head_only() {
        let frame = vec![1; 600];
        storage_with(&frame, |mut batch| {
            let copy = batch.clone_packet(0).unwrap();
            batch.packet_mut(copy).push_front(4).unwrap().fill(9);
            let copy2 = batch.clone_packet(copy).unwrap();
            assert_eq!(batch.packet(0).len(), 600);
            assert_eq!(batch.packet(copy).len(), 604);
            assert_eq!(batch.packet(copy2).head()[..5], [9, 9, 9, 9, 1]);
        });
    }

    #[test]
    fn truncated_frame_stops_in_the_payload() {
        storage_with(&[3; 1000], |mut batch| {
            batch.packet_mut(0).truncate(300);
            let mut out = [0; 1000];
            assert_eq!(batch.frame(0).copy_to(&mut out), 300);
            batch.packet_mut(0).truncate(10);
            assert_eq!(batch.frame(0).copy_to(&mut out), 10);
        });
    }

    #[test]
    fn burst_ends_when_full() {
        let frame = [0; 60];
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        for _ in 0..BURST {
            assert!(batch.receive(Span::from_slice(&frame)));
        }
        assert!(!batch.receive(Span::from_slice(&frame)));
        batch.cancel_packet();
        assert_eq!(batch.len(), BURST - 1);
    }
}
