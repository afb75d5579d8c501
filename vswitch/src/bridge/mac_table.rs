//! The forwarding database of one bridge: which port a MAC was last heard from, per VLAN.
//!
//! Entries sit in a slab and hang in two lists by slab index: all of them in order of refresh (for ageing),
//! and those of each port in order of refresh (for eviction). A hash map finds them. So learning, lookup,
//! refresh and removal are O(1), but for an ordered set of port populations that is touched when an entry
//! comes, goes or moves (logarithmic in the number of ports).
//!
//! When the table is full, the port with most entries loses the one it has not heard of for longest: a guest
//! that invents addresses evicts its own, not its neighbours'.
//!
//! Time is a parameter, in milliseconds. [`MacTable::lookup`] does not look at it: an entry is there until
//! [`MacTable::expire`] takes it away, so that what a translation saw changes only with a [`MacChange`].

use std::collections::BTreeSet;

use flowtable::seeded::SeededMap;

/// What an entry is found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MacKey {
    /// VLAN the address was heard in; zero for none.
    pub vlan: u16,
    /// The address.
    pub mac: [u8; 6],
}

/// An entry, for display.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacEntry {
    /// VLAN and address.
    pub key: MacKey,
    /// OpenFlow number of the port.
    pub port: u16,
    /// Milliseconds since it was last heard of.
    pub age_ms: u64,
}

/// The answer to a lookup changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacChange {
    /// The entry that came, moved or went.
    pub key: MacKey,
    /// Where it is now; `None` when it has gone.
    pub port: Option<u16>,
    /// It moved, and had moved less than [`FLAP_MS`] before: two ports claim the address.
    pub flapping: bool,
}

/// Two moves of one address within this time are flapping.
pub const FLAP_MS: u64 = 1000;

/// What learning did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// The address was there, on this port: refreshed.
    Refreshed,
    /// The address is new.
    New,
    /// The address was on the port given.
    Moved(u16),
    /// A group address, which cannot be a source, or zero.
    Refused,
}

/// Counts since the table was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MacStats {
    /// Entries added.
    pub learned: u64,
    /// Entries removed because their time was up.
    pub expired: u64,
    /// Entries removed to make room.
    pub evicted: u64,
    /// Entries that changed port.
    pub moved: u64,
}

/// No entry.
const NIL: u32 = u32::MAX;

/// Neighbours of an entry in one list.
#[derive(Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

impl Link {
    const LOOSE: Link = Link { older: NIL, newer: NIL };
}

/// Ends of a list.
#[derive(Clone, Copy)]
struct Ends {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Ends {
    const EMPTY: Ends = Ends { oldest: NIL, newest: NIL, len: 0 };
}

#[derive(Clone, Copy)]
struct Slot {
    key: MacKey,
    port: u16,
    refreshed_ms: u64,
    moved_ms: Option<u64>,
    all: Link,
    of_port: Link,
}

/// The two lists an entry hangs in.
#[derive(Clone, Copy)]
enum List {
    All,
    OfPort,
}

impl Slot {
    fn link(&mut self, list: List) -> &mut Link {
        match list {
            List::All => &mut self.all,
            List::OfPort => &mut self.of_port,
        }
    }
}

/// Learned addresses of one bridge. Not shared between threads without a lock around it.
pub struct MacTable {
    limit: usize,
    ageing_ms: u64,
    index: SeededMap<MacKey, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    all: Ends,
    ports: SeededMap<u16, Ends>,
    /// (entries, port) for every port with entries.
    populations: BTreeSet<(usize, u16)>,
    changes: Vec<MacChange>,
    stats: MacStats,
}

impl MacTable {
    /// An empty table for at most `limit` entries (at least one) that live `ageing_ms` without refresh.
    pub fn new(limit: usize, ageing_ms: u64) -> MacTable {
        MacTable {
            limit: limit.max(1),
            ageing_ms,
            index: SeededMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            all: Ends::EMPTY,
            ports: SeededMap::default(),
            populations: BTreeSet::new(),
            changes: Vec::new(),
            stats: MacStats::default(),
        }
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether the table has no entries.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Counts since the table was made.
    pub fn stats(&self) -> MacStats {
        self.stats
    }

    /// Port of an address, if known.
    pub fn lookup(&self, key: MacKey) -> Option<u16> {
        self.slot(*self.index.get(&key)?).map(|slot| slot.port)
    }

    /// Notes that `port` sent a frame from an address at `now_ms`.
    pub fn learn(&mut self, key: MacKey, port: u16, now_ms: u64) -> Learned {
        if key.mac[0] & 1 == 1 || key.mac == [0; 6] {
            return Learned::Refused;
        }
        let Some(&at) = self.index.get(&key) else {
            if self.len() >= self.limit {
                self.evict_one();
            }
            self.insert(key, port, now_ms);
            self.stats.learned += 1;
            self.changes.push(MacChange { key, port: Some(port), flapping: false });
            return Learned::New;
        };
        let Some(&slot) = self.slot(at) else { return Learned::Refused };
        self.unhang(at);
        let moved = slot.port != port;
        if let Some(entry) = self.slots.get_mut(at as usize) {
            entry.port = port;
            entry.refreshed_ms = now_ms.max(slot.refreshed_ms);
            entry.moved_ms = if moved { Some(now_ms) } else { slot.moved_ms };
        }
        self.hang(at);
        if !moved {
            return Learned::Refreshed;
        }
        self.stats.moved += 1;
        let flapping = slot.moved_ms.is_some_and(|before| now_ms.saturating_sub(before) < FLAP_MS);
        self.changes.push(MacChange { key, port: Some(port), flapping });
        Learned::Moved(slot.port)
    }

    /// Notes that frames of an address came in by `port` until `seen_ms`, as flow counters say after the fact. The port
    /// heard last has the address, so nothing happens if the entry is younger than that.
    pub fn refresh(&mut self, key: MacKey, port: u16, seen_ms: u64) {
        let known = self.index.get(&key).and_then(|&at| self.slot(at));
        if known.is_none_or(|slot| slot.refreshed_ms < seen_ms) {
            self.learn(key, port, seen_ms);
        }
    }

    /// Removes what was not heard of within the ageing time.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some(&oldest) = self.slot(self.all.oldest) {
            if now_ms.saturating_sub(oldest.refreshed_ms) < self.ageing_ms {
                break;
            }
            self.remove(self.all.oldest);
            self.stats.expired += 1;
        }
    }

    /// Removes everything.
    pub fn flush(&mut self) {
        while self.all.oldest != NIL {
            self.remove(self.all.oldest);
        }
    }

    /// Removes what was learned on a port.
    pub fn flush_port(&mut self, port: u16) {
        while let Some(ends) = self.ports.get(&port).copied() {
            self.remove(ends.oldest);
        }
    }

    /// Changes the limits; entries beyond a smaller one are evicted.
    pub fn set_limits(&mut self, limit: usize, ageing_ms: u64) {
        self.limit = limit.max(1);
        self.ageing_ms = ageing_ms;
        while self.len() > self.limit {
            self.evict_one();
        }
    }

    /// All entries, the longest not heard of first.
    pub fn entries(&self, now_ms: u64) -> Vec<MacEntry> {
        let mut entries = Vec::with_capacity(self.len());
        let mut at = self.all.oldest;
        while let Some(slot) = self.slot(at) {
            let age_ms = now_ms.saturating_sub(slot.refreshed_ms);
            entries.push(MacEntry { key: slot.key, port: slot.port, age_ms });
            at = slot.all.newer;
        }
        entries
    }

    /// Changes since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<MacChange> {
        std::mem::take(&mut self.changes)
    }

    fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at as usize)
    }

    fn insert(&mut self, key: MacKey, port: u16, now_ms: u64) {
        let slot =
            Slot { key, port, refreshed_ms: now_ms, moved_ms: None, all: Link::LOOSE, of_port: Link::LOOSE };
        let at = match self.free.pop() {
            Some(at) => at,
            None => self.slots.len() as u32,
        };
        match self.slots.get_mut(at as usize) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        self.index.insert(key, at);
        self.hang(at);
    }

    fn evict_one(&mut self) {
        let Some(&(_, port)) = self.populations.last() else { return };
        let Some(ends) = self.ports.get(&port).copied() else { return };
        self.remove(ends.oldest);
        self.stats.evicted += 1;
    }

    fn remove(&mut self, at: u32) {
        let Some(&slot) = self.slot(at) else { return };
        self.unhang(at);
        self.index.remove(&slot.key);
        self.free.push(at);
        self.changes.push(MacChange { key: slot.key, port: None, flapping: false });
    }

    /// Puts an entry at the new end of both lists.
    fn hang(&mut self, at: u32) {
        let Some(port) = self.slot(at).map(|slot| slot.port) else { return };
        let mut all = self.all;
        append(&mut self.slots, &mut all, at, List::All);
        self.all = all;
        let ends = self.ports.entry(port).or_insert(Ends::EMPTY);
        self.populations.remove(&(ends.len, port));
        append(&mut self.slots, ends, at, List::OfPort);
        self.populations.insert((ends.len, port));
    }

    /// Takes an entry out of both lists.
    fn unhang(&mut self, at: u32) {
        let Some(port) = self.slot(at).map(|slot| slot.port) else { return };
        let mut all = self.all;
        cut(&mut self.slots, &mut all, at, List::All);
        self.all = all;
        let Some(ends) = self.ports.get_mut(&port) else { return };
        self.populations.remove(&(ends.len, port));
        cut(&mut self.slots, ends, at, List::OfPort);
        if ends.len == 0 {
            self.ports.remove(&port);
        } else {
            self.populations.insert((ends.len, port));
        }
    }
}

fn append(slots: &mut [Slot], ends: &mut Ends, at: u32, list: List) {
    if let Some(slot) = slots.get_mut(at as usize) {
        *slot.link(list) = Link { older: ends.newest, newer: NIL };
    }
    match slots.get_mut(ends.newest as usize) {
        Some(newest) => newest.link(list).newer = at,
        None => ends.oldest = at,
    }
    ends.newest = at;
    ends.len += 1;
}

fn cut(slots: &mut [Slot], ends: &mut Ends, at: u32, list: List) {
    let Some(slot) = slots.get_mut(at as usize) else { return };
    let link = std::mem::replace(slot.link(list), Link::LOOSE);
    match slots.get_mut(link.older as usize) {
        Some(older) => older.link(list).newer = link.newer,
        None => ends.oldest = link.newer,
    }
    match slots.get_mut(link.newer as usize) {
        Some(newer) => newer.link(list).older = link.older,
        None => ends.newest = link.older,
    }
    ends.len -= 1;
}

#[cfg(test)]
mod tests;
