//! The megaflows of one worker, apart by the port they are for.

use super::subtable::BURST;
use super::tuples::{Place, Tuples};
use crate::key::{Depth, FlowKey, FlowMask, PortNo};

/// Ports with a list of their own. Megaflows of a higher number share one; a switch has no such ports.
const PORTS: usize = 1 << 16;
/// Index of the key word that holds `in_port` and `recirc_id`, and nothing else.
const PORT_WORD: usize = 8;

/// What one subtable holds and how it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtableStats {
    /// The mask all its entries share.
    pub mask: FlowMask,
    /// Number of entries.
    pub entries: usize,
    /// Packets found in it, the older ones counting less: halved at each [`MegaflowTable::rank`].
    pub hits: u64,
}

/// A map from masked keys to values. One thread's own.
///
/// The values are handles to whatever a megaflow is (actions, counters). Of eight bytes or less they lie in the cache line
/// of the key, and so do the first eight bytes of any other.
pub struct MegaflowTable<V> {
    /// By port: the megaflows that compare all of `in_port` and `recirc_id`, the round being zero. Their masks here leave that
    /// word out, since it is the same for all.
    ports: Vec<Tuples<V>>,
    /// The others.
    any: Tuples<V>,
    len: usize,
    seed: u64,
}

impl<V: Send + 'static> Default for MegaflowTable<V> {
    fn default() -> MegaflowTable<V> {
        MegaflowTable::new()
    }
}

/// The port whose list an entry belongs to, or `None` for the list of the others.
fn home(key: &FlowKey, mask: &FlowMask) -> Option<usize> {
    let port = PortNo(key.in_port).index();
    (mask.words()[PORT_WORD] == u64::MAX && key.recirc_id == 0 && port < PORTS).then_some(port)
}

/// A mask without the word of the port.
fn without_port(mask: &FlowMask) -> FlowMask {
    let mut mask = *mask;
    mask.words_mut()[PORT_WORD] = 0;
    mask
}

fn with_port(port: usize, mut key: FlowKey, mut mask: FlowMask) -> (FlowKey, FlowMask) {
    key.in_port = port as u32;
    mask.words_mut()[PORT_WORD] = u64::MAX;
    (key, mask)
}

impl<V: Send + 'static> MegaflowTable<V> {
    /// An empty table with a fixed seed: for tests and tools. A switch uses [`MegaflowTable::with_seed`].
    pub fn new() -> MegaflowTable<V> {
        MegaflowTable::with_seed(0)
    }

    /// An empty table whose hashes start from `seed`, a random number that no peer can know, so that none can
    /// choose flows that collide.
    pub fn with_seed(seed: u64) -> MegaflowTable<V> {
        MegaflowTable { ports: Vec::new(), any: Tuples::default(), len: 0, seed }
    }

    /// Stores a value under `mask` applied to `key`; returns the value that was there.
    ///
    /// The caller sees to it that two entries that can match the same packet give it the same fate.
    pub fn insert(&mut self, key: &FlowKey, mask: &FlowMask, value: V) -> Option<V> {
        let old = match home(key, mask) {
            Some(port) => {
                if self.ports.len() <= port {
                    self.ports.resize_with(port + 1, Tuples::default);
                }
                self.ports[port].insert(key, &without_port(mask), self.seed, value)
            }
            None => self.any.insert(key, mask, self.seed, value),
        };
        self.len += usize::from(old.is_none());
        old
    }

    /// The value of the entry with exactly this mask and masked key, whether or not another one would be found
    /// first by a packet. Counts no hit.
    pub fn get(&self, key: &FlowKey, mask: &FlowMask) -> Option<&V> {
        match home(key, mask) {
            Some(port) => self.ports.get(port)?.get(key, &without_port(mask)),
            None => self.any.get(key, mask),
        }
    }

    /// Removes an entry; returns its value.
    pub fn remove(&mut self, key: &FlowKey, mask: &FlowMask) -> Option<V> {
        let value = match home(key, mask) {
            Some(port) => self.ports.get_mut(port)?.remove(key, &without_port(mask)),
            None => self.any.remove(key, mask),
        }?;
        self.len -= 1;
        Some(value)
    }

    /// The value of the first entry found that matches a packet.
    pub fn lookup(&self, key: &FlowKey) -> Option<&V> {
        let own = self.ports.get(PortNo(key.in_port).index()).filter(|_| key.recirc_id == 0);
        own.and_then(|own| own.lookup(key)).or_else(|| self.any.lookup(key))
    }

    /// What packets in their first round that come in by a port can match.
    #[inline]
    pub fn port(&self, in_port: PortNo) -> PortFlows<'_, V> {
        PortFlows { own: self.ports.get(in_port.index()), any: &self.any }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries: masked key, mask, value.
    pub fn iter(&self) -> impl Iterator<Item = (FlowKey, FlowMask, &V)> + '_ {
        let own = self.ports.iter().enumerate().flat_map(|(port, tuples)| {
            tuples.iter().flat_map(move |subtable| {
                let mask = subtable.mask();
                (0..subtable.len()).map(move |slot| {
                    let (key, value) = subtable.entry(slot);
                    let (key, mask) = with_port(port, key, mask);
                    (key, mask, value)
                })
            })
        });
        let any = self.any.iter().flat_map(|subtable| {
            let mask = subtable.mask();
            (0..subtable.len()).map(move |slot| {
                let (key, value) = subtable.entry(slot);
                (key, mask, value)
            })
        });
        own.chain(any)
    }

    /// The subtables, port by port, in the order they are tried.
    pub fn subtables(&self) -> impl Iterator<Item = SubtableStats> + '_ {
        let ports = self.ports.iter().enumerate().flat_map(|(port, tuples)| {
            tuples.iter().map(move |s| (with_port(port, FlowKey::default(), s.mask()).1, s))
        });
        let any = self.any.iter().map(|s| (s.mask(), s));
        ports.chain(any).map(|(mask, s)| SubtableStats { mask, entries: s.len(), hits: s.hits().get() })
    }

    /// For each port, puts the subtables with the most hits first, then halves the counts, so that old hits fade. Called
    /// about once a second by the table's owner.
    pub fn rank(&mut self) {
        self.ports.iter_mut().chain([&mut self.any]).for_each(Tuples::rank);
    }
}

/// What the packets of one port can match: a part of a [`MegaflowTable`].
pub struct PortFlows<'t, V> {
    own: Option<&'t Tuples<V>>,
    any: &'t Tuples<V>,
}

impl<V> Clone for PortFlows<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for PortFlows<'_, V> {}

impl<'t, V: Send + 'static> PortFlows<'t, V> {
    /// How deep these megaflows look. What lies deeper in a packet does not matter to the lookups here, and neither does
    /// `in_port` unless this is [`Depth::Full`].
    #[inline]
    pub fn depth(&self) -> Depth {
        if self.any.masks() != 0 { Depth::Full } else { self.own.map_or(Depth::Port, Tuples::depth) }
    }

    /// Number of masks: subtables a packet that matches nothing is looked up in.
    #[inline]
    pub fn masks(&self) -> usize {
        self.own.map_or(0, Tuples::masks) + self.any.masks()
    }

    /// The value in a place that [`PortFlows::lookup_burst`] named, maybe long ago, if it matches a packet. Whatever the place, a
    /// value that is returned is right for the packet.
    #[inline]
    pub fn get_at(&self, place: Place, key: &FlowKey) -> Option<&'t V> {
        self.own?.get_at(place, key)
    }

    /// Looks up those of the first 32 `keys` whose bit is set in `wanted`; writes each value found to the same
    /// place in `values` and, when it has one, its place to `places`; returns the bitmap of hits. Other elements stay as they
    /// are, and bits beyond the end of `keys` count as not set.
    #[inline]
    pub fn lookup_burst(
        &self,
        keys: &[FlowKey],
        wanted: u32,
        values: &mut [Option<&'t V>; BURST],
        places: &mut [Place; BURST],
    ) -> u32 {
        let count = keys.len().min(BURST);
        let wanted = wanted & ((1u64 << count) - 1) as u32;
        let mut hits = self.own.map_or(0, |own| own.lookup_burst(keys, wanted, values, places));
        if self.any.masks() != 0 && hits != wanted {
            // Their places would be taken for those of the port's own.
            let mut nowhere = [Place::default(); BURST];
            hits |= self.any.lookup_burst(keys, wanted & !hits, values, &mut nowhere);
        }
        hits
    }
}

#[cfg(test)]
mod tests;
