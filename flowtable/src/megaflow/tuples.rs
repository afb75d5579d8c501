//! Tuple-space search: one subtable per mask, tried in the order of recent hits.

use super::subtable::{BURST, Found, Subtable, subtable};
use crate::key::{Depth, FlowKey, FlowMask};

/// Where a lookup found a megaflow: a hint where to look first for the next packet like it. Entries move, so what stands
/// there is believed only once it matches ([`PortFlows::get_at`](super::PortFlows::get_at)).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Place {
    /// Number of the entry in its subtable.
    pub(crate) slot: u32,
    /// Number of the subtable among those of the port.
    pub(crate) subtable: u16,
}

/// Megaflows that are looked through together.
pub(super) struct Tuples<V> {
    /// By number; none is empty.
    subtables: Vec<Box<dyn Subtable<V> + Send>>,
    /// Their numbers in the order they are tried.
    order: Vec<u16>,
    /// How deep their masks together look.
    depth: Depth,
}

impl<V> Default for Tuples<V> {
    fn default() -> Tuples<V> {
        Tuples { subtables: Vec::new(), order: Vec::new(), depth: Depth::default() }
    }
}

impl<V: Send + 'static> Tuples<V> {
    /// The subtables in the order they are tried.
    pub(super) fn iter(&self) -> impl Iterator<Item = &dyn Subtable<V>> {
        self.order.iter().map(|number| &*self.subtables[usize::from(*number)] as &dyn Subtable<V>)
    }

    /// Number of masks.
    #[inline]
    pub(super) fn masks(&self) -> usize {
        self.order.len()
    }

    #[inline]
    pub(super) fn depth(&self) -> Depth {
        self.depth
    }

    /// Stores a value; returns the one that was there. With more masks than there are numbers, which no rule set comes near,
    /// the value is not stored.
    pub(super) fn insert(&mut self, key: &FlowKey, mask: &FlowMask, seed: u64, value: V) -> Option<V> {
        let at = match self.position(mask) {
            Some(at) => at,
            None => {
                let Ok(number) = u16::try_from(self.subtables.len()) else { return Some(value) };
                self.subtables.push(subtable(mask, seed));
                self.order.push(number);
                self.depth = self.depth.join(Depth::of(mask));
                usize::from(number)
            }
        };
        self.subtables[at].insert(key, value)
    }

    pub(super) fn get(&self, key: &FlowKey, mask: &FlowMask) -> Option<&V> {
        self.subtables[self.position(mask)?].get(key)
    }

    pub(super) fn remove(&mut self, key: &FlowKey, mask: &FlowMask) -> Option<V> {
        let at = self.position(mask)?;
        let value = self.subtables[at].remove(key)?;
        if self.subtables[at].len() == 0 {
            // The last one takes its number.
            self.subtables.swap_remove(at);
            let (gone, last) = (at as u16, self.subtables.len() as u16);
            self.order.retain(|number| *number != gone);
            self.order.iter_mut().filter(|number| **number == last).for_each(|number| *number = gone);
            self.depth = self.iter().map(|s| Depth::of(&s.mask())).fold(Depth::default(), Depth::join);
        }
        Some(value)
    }

    /// The first value found that matches a packet.
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<&V> {
        self.iter().find_map(|subtable| {
            let value = subtable.get(key)?;
            count(subtable, 1);
            Some(value)
        })
    }

    /// The value in a place, if it matches a packet.
    #[inline]
    pub(super) fn get_at(&self, place: Place, key: &FlowKey) -> Option<&V> {
        let subtable = self.subtables.get(usize::from(place.subtable))?;
        let value = subtable.get_at(place.slot, key)?;
        count(&**subtable, 1);
        Some(value)
    }

    /// Looks up those of the first 32 `keys` whose bit is set in `wanted`; returns the bitmap of hits.
    #[inline]
    pub(super) fn lookup_burst<'t>(
        &'t self,
        keys: &[FlowKey],
        wanted: u32,
        values: &mut [Option<&'t V>; BURST],
        places: &mut [Place; BURST],
    ) -> u32 {
        let mut left = wanted;
        for number in &self.order {
            if left == 0 {
                break;
            }
            let subtable = &*self.subtables[usize::from(*number)];
            let mut out = Found { values: &mut *values, places: &mut *places, number: *number };
            let found = subtable.lookup_burst(keys, left, &mut out);
            count(subtable, found.count_ones());
            left &= !found;
        }
        wanted & !left
    }

    /// Puts the subtables with the most hits first, then halves the counts.
    pub(super) fn rank(&mut self) {
        let hits = |number: &u16| self.subtables[usize::from(*number)].hits().get();
        self.order.sort_by_key(|number| core::cmp::Reverse(hits(number)));
        for subtable in &self.subtables {
            subtable.hits().set(subtable.hits().get() / 2);
        }
    }

    fn position(&self, mask: &FlowMask) -> Option<usize> {
        self.subtables.iter().position(|subtable| subtable.mask() == *mask)
    }
}

/// Counts packets found in a subtable.
#[inline(always)]
fn count<V>(subtable: &dyn Subtable<V>, packets: u32) {
    let hits = subtable.hits();
    hits.set(hits.get() + u64::from(packets));
}
