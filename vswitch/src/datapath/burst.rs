//! A burst as trains: packets that follow each other and look the same.
//!
//! Bulk traffic comes in trains, and what can be done once for a train is done once: hash, lookup, statistics, staging. How
//! much must look the same depends on how deep the megaflows of the port look. Where they compare the port and the
//! EtherType alone, all IPv4 packets of a burst are one train, whatever their addresses.

use flowtable::key::{self, Beside, Depth, FlowKey, Layers, PortNo, Shallow};
use pmd::packet::{BURST, Batch, SlotId};

/// Packets that follow each other and have the same key.
#[derive(Clone, Copy, Default)]
pub(super) struct Train {
    /// Slot behind its last packet. The first one is where the train before ends.
    pub(super) end: SlotId,
    /// TCP flags of all packets together.
    pub(super) tcp_flags: u16,
    /// Bytes of all packets together.
    pub(super) bytes: u32,
}

/// What is known of the packets of a burst. Made once and filled again and again.
pub(super) struct Burst {
    trains: [Train; BURST],
    count: usize,
    /// Which keys are filled: `full`, `connections`, or `limited`. With the first two `layers` are as well.
    depth: Depth,
    /// The key of each train. Of those that have no bit in `unusual` all words from [`key::PLAIN_WORDS`] on are zero.
    full: [FlowKey; BURST],
    unusual: u32,
    /// The key of each train at [`Depth::Connection`]. All words but [`key::CONNECTION_WORDS`] are zero.
    connections: [FlowKey; BURST],
    /// The key of each train at less depth. But for the first two words of a key all are zero where `stained` has no bit.
    limited: [FlowKey; BURST],
    stained: u32,
    /// Of each packet.
    layers: [Layers; BURST],
}

impl Burst {
    pub(super) fn new() -> Box<Burst> {
        Box::new(Burst {
            trains: [Train::default(); BURST],
            count: 0,
            depth: Depth::Port,
            full: [FlowKey::default(); BURST],
            unusual: 0,
            connections: [FlowKey::default(); BURST],
            limited: [FlowKey::default(); BURST],
            stained: 0,
            layers: [Layers::NONE; BURST],
        })
    }

    /// The trains in order.
    #[inline]
    pub(super) fn trains(&self) -> &[Train] {
        &self.trains[..self.count]
    }

    /// Their keys, as far as [`Burst::fill`] was told to look.
    #[inline]
    pub(super) fn keys(&self) -> &[FlowKey] {
        let keys = match self.depth {
            Depth::Full => &self.full,
            Depth::Connection => &self.connections,
            Depth::Link | Depth::Port => &self.limited,
        };
        &keys[..self.count]
    }

    /// Where the headers of a packet lie.
    pub(super) fn layers(&self, batch: &Batch<'_>, slot: SlotId, in_port: PortNo) -> Layers {
        if matches!(self.depth, Depth::Full | Depth::Connection) {
            return self.layers[usize::from(slot) % BURST];
        }
        let packet = batch.packet(slot);
        key::extract(packet.head(), packet.len(), in_port, &mut FlowKey::default())
    }

    /// Sorts the packets of a batch into trains, looking as deep as is said.
    #[inline]
    pub(super) fn fill(&mut self, batch: &Batch<'_>, in_port: PortNo, depth: Depth) {
        self.depth = depth;
        // Each in a function of its own: in one, the ways would fight for registers.
        match depth {
            Depth::Full => self.fill_deep(batch, in_port),
            Depth::Connection => self.fill_connections(batch),
            Depth::Link | Depth::Port => self.fill_shallow(batch, in_port, depth),
        }
    }

    #[inline(never)]
    fn fill_deep(&mut self, batch: &Batch<'_>, in_port: PortNo) {
        let mut count = 0;
        for i in 0..batch.len().min(BURST) {
            let packet = batch.packet(i as SlotId);
            let (before, rest) = self.full.split_at_mut(count);
            let Some(key) = rest.first_mut() else { break };
            let (head, len, here) = (packet.head(), packet.len(), 1 << count);
            self.layers[i] = match key::extract_usual(head, len, in_port, key) {
                Some(layers) if self.unusual & here == 0 => layers,
                Some(layers) => {
                    self.unusual &= !here;
                    key.words_mut()[key::PLAIN_WORDS..].fill(0);
                    layers
                }
                None => {
                    self.unusual |= here;
                    key::extract_unusual(head, len, in_port, key)
                }
            };
            if before.last().is_some_and(|before| key.equals(before)) {
                let train = &mut self.trains[count - 1];
                train.end = i as SlotId + 1;
                train.bytes += len as u32;
            } else {
                let (tcp_flags, bytes) = (key.tcp_flags.get(), len as u32);
                self.trains[count] = Train { end: i as SlotId + 1, tcp_flags, bytes };
                count += 1;
            }
        }
        self.count = count;
    }

    #[inline(never)]
    fn fill_connections(&mut self, batch: &Batch<'_>) {
        let mut count = 0;
        for i in 0..batch.len().min(BURST) {
            let packet = batch.packet(i as SlotId);
            let (before, rest) = self.connections.split_at_mut(count);
            let Some(key) = rest.first_mut() else { break };
            let (len, end) = (packet.len(), i as SlotId + 1);
            let Beside { layers, tcp_flags } = key::connection(packet.head(), len, key);
            self.layers[i] = layers;
            if before.last().is_some_and(|before| key::is_same_connection(key, before)) {
                let train = &mut self.trains[count - 1];
                train.end = end;
                train.bytes += len as u32;
                train.tcp_flags |= tcp_flags;
            } else {
                self.trains[count] = Train { end, tcp_flags, bytes: len as u32 };
                count += 1;
            }
        }
        self.count = count;
    }

    #[inline(never)]
    fn fill_shallow(&mut self, batch: &Batch<'_>, in_port: PortNo, depth: Depth) {
        self.clean();
        // No limited key is this: its last two bytes are zero.
        let mut words = [u64::MAX; 2];
        let (mut count, mut train) = (0, Train::default());
        for i in 0..batch.len().min(BURST) {
            let packet = batch.packet(i as SlotId);
            let (head, len) = (packet.head(), packet.len());
            let seen = key::shallow(head, len, depth);
            let same = seen.is_some_and(|seen| seen.words == words);
            if !same {
                if i != 0 {
                    self.trains[count] = train;
                    count += 1;
                }
                train = Train::default();
                match seen {
                    Some(Shallow { words: new, .. }) => {
                        words = new;
                        let key = self.limited[count].words_mut();
                        [key[0], key[1]] = words;
                    }
                    None => {
                        words = [u64::MAX; 2];
                        train.tcp_flags = self.look_closely(count, head, len, in_port, depth);
                    }
                }
            }
            train.end = i as SlotId + 1;
            train.bytes += len as u32;
            if seen.is_some_and(|seen| seen.may_be_tcp) {
                train.tcp_flags |= key::tcp_flags(head, len);
            }
        }
        self.trains[count] = train;
        self.count = count + 1;
    }

    /// The limited key of a frame that is not of the usual make. Returns the TCP flags.
    #[inline(never)]
    fn look_closely(&mut self, train: usize, head: &[u8], len: usize, in_port: PortNo, depth: Depth) -> u16 {
        let mut full = FlowKey::default();
        key::extract(head, len, in_port, &mut full);
        let mut limited = depth.mask().apply(&full);
        limited.in_port = 0;
        self.limited[train] = limited;
        self.stained |= 1 << train;
        full.tcp_flags.get()
    }

    fn clean(&mut self) {
        while self.stained != 0 {
            self.limited[self.stained.trailing_zeros() as usize] = FlowKey::default();
            self.stained &= self.stained - 1;
        }
    }
}

#[cfg(test)]
mod tests;
