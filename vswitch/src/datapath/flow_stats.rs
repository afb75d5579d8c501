//! What nearly every packet needs of its flow, in half a cache line, and where those halves lie.
//!
//! With many flows the lines and pages that a packet touches decide its cost. A [`Megaflow`](super::Megaflow) is some hundred bytes
//! wherever the allocator had them; a million of them are spread over hundreds of megabytes of small pages, and each packet would wait
//! for a page walk and a line to count itself. So the statistics of all flows of one worker lie side by side, two to a line, in huge
//! pages (decision 0023).
//!
//! Apart by worker, because a line that two workers write would go back and forth between them. A worker's flows begin with a page
//! of 4 KiB, which is enough for most switches, and go on by 2 MiB.
//!
//! Memory once taken is kept, and given to the flows to come: 32 bytes for each flow of the greatest number there ever was. That
//! makes every slot live as long as the process, so a table may hold a plain reference to it and nobody counts references.
//!
//! Cost: taking a slot and giving it back are an operation on a queue without locks. The worker, which drops the last reference
//! to most flows, never waits for the slow path.

use std::ops::Deref;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError}; // tidy: once per flow, never by a worker

use crossbeam_queue::SegQueue;
use flowtable::key::PortNo;
use pmd::sys::huge_alloc;

/// Workers with slots of their own. Those beyond share with others, which costs speed alone.
const WORKERS: usize = 64;
/// Lines of a worker's first piece of memory: 4 KiB.
const FIRST: usize = 64;
/// Lines of every further one: a huge page.
const FURTHER: usize = 1 << 15;

/// Hits of one flow on one worker. The worker writes with plain loads and stores; anybody reads.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct FlowStats {
    packets: AtomicU64,
    bytes: AtomicU64,
    used_ms: AtomicU64,
    /// The port of a flow that does nothing but output, or [`PortNo::NONE`].
    output: AtomicU32,
    tcp_flags: AtomicU16,
}

const _: () = assert!(size_of::<FlowStats>() == 32);

impl FlowStats {
    /// Counts a packet of `bytes` at `now_ms`. Only the owning worker calls this.
    #[inline]
    pub fn hit(&self, bytes: usize, tcp_flags: u16, now_ms: u64) {
        self.hit_by_train(1, bytes, tcp_flags, now_ms);
    }

    /// Counts `packets` packets of `bytes` together, whose flags together are `tcp_flags`. Only the owning worker calls
    /// this.
    #[inline]
    pub(super) fn hit_by_train(&self, packets: usize, bytes: usize, tcp_flags: u16, now_ms: u64) {
        self.packets.store(self.packets.load(Relaxed).wrapping_add(packets as u64), Relaxed);
        self.bytes.store(self.bytes.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
        self.used_ms.store(now_ms, Relaxed);
        let seen = self.tcp_flags.load(Relaxed);
        if seen | tcp_flags != seen {
            self.tcp_flags.store(seen | tcp_flags, Relaxed);
        }
    }

    /// The port, when packets go to one and nothing else happens to them; else [`PortNo::NONE`].
    #[inline]
    pub(super) fn output(&self) -> PortNo {
        PortNo(self.output.load(Relaxed))
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Time of the last packet in milliseconds of the switch's clock; zero when there was none.
    pub fn used_ms(&self) -> u64 {
        self.used_ms.load(Relaxed)
    }

    /// Union of the TCP flags seen.
    pub fn tcp_flags(&self) -> u16 {
        self.tcp_flags.load(Relaxed)
    }

    /// Begins anew for another flow. Nobody else knows the slot then.
    fn begin(&self, output: PortNo) {
        self.packets.store(0, Relaxed);
        self.bytes.store(0, Relaxed);
        self.used_ms.store(0, Relaxed);
        self.tcp_flags.store(0, Relaxed);
        self.output.store(output.0, Relaxed);
    }
}

/// The [`FlowStats`] of one flow, which has them until it is dropped.
#[derive(Debug)]
pub struct StatsSlot {
    stats: &'static FlowStats,
    shelf: &'static Shelf,
}

impl StatsSlot {
    /// Statistics without hits for a flow of a worker that goes to `output` and nowhere else, if that is a port.
    pub(super) fn new(worker: u16, output: PortNo) -> StatsSlot {
        let shelf = &SHELVES[usize::from(worker) % WORKERS];
        let stats = shelf.take();
        stats.begin(output);
        StatsSlot { stats, shelf }
    }

    /// The slot itself. What is read there after this has been dropped is another flow's.
    #[inline]
    pub(crate) fn stats(&self) -> &'static FlowStats {
        self.stats
    }
}

impl Deref for StatsSlot {
    type Target = FlowStats;

    #[inline]
    fn deref(&self) -> &FlowStats {
        self.stats
    }
}

impl Drop for StatsSlot {
    fn drop(&mut self) {
        self.shelf.free.push(self.stats);
    }
}

/// Two flows: what a line holds.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([FlowStats; 2]);

/// The slots of one worker.
#[derive(Debug)]
struct Shelf {
    /// Nobody's now. Anybody gives back; only makers of flows take.
    free: SegQueue<&'static FlowStats>,
    /// Never used so far. Only makers of flows lock it.
    fresh: Mutex<Fresh>, // tidy: once per flow, never by a worker
}

#[derive(Debug)]
struct Fresh {
    lines: &'static [Line],
    /// Lines of the next piece of memory.
    next: usize,
}

static SHELVES: [Shelf; WORKERS] = [const { Shelf::new() }; WORKERS];

impl Shelf {
    const fn new() -> Shelf {
        Shelf { free: SegQueue::new(), fresh: Mutex::new(Fresh { lines: &[], next: FIRST }) } // tidy: a constant
    }

    fn take(&self) -> &'static FlowStats {
        self.free.pop().unwrap_or_else(|| self.take_fresh())
    }

    fn take_fresh(&self) -> &'static FlowStats {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.lines.is_empty() {
            let piece = || (0..fresh.next).map(|_| Line::default()).collect::<Vec<_>>().leak();
            fresh.lines = huge_alloc::wanted_in(piece);
            fresh.next = FURTHER;
        }
        let [Line([first, second]), rest @ ..] = fresh.lines else { unreachable!("a piece has lines") };
        fresh.lines = rest;
        self.free.push(second);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(slot: &StatsSlot) -> usize {
        std::ptr::from_ref(slot.stats()).addr()
    }

    #[test]
    fn flows_of_a_worker_lie_two_to_a_line_and_alone_there() {
        let (mine, other): (Vec<_>, Vec<_>) =
            (0..1000).map(|_| (StatsSlot::new(61, PortNo(1)), StatsSlot::new(62, PortNo(1)))).unzip();
        let lines = |slots: &[StatsSlot]| -> std::collections::HashSet<usize> {
            slots.iter().map(|slot| address(slot) / 64).collect()
        };
        let (mine, other) = (lines(&mine), lines(&other));
        assert_eq!((mine.len(), other.len()), (500, 500));
        assert!(mine.is_disjoint(&other));
    }

    #[test]
    fn a_slot_given_back_is_given_again_and_begins_anew() {
        const WORKER: u16 = 63;
        let kept: Vec<_> = (0..3 * FIRST).map(|_| StatsSlot::new(WORKER, PortNo::NONE)).collect();
        let gone: Vec<_> = (0..100).map(|_| StatsSlot::new(WORKER, PortNo(7))).collect();
        gone.iter().for_each(|slot| slot.hit_by_train(3, 180, 0x12, 5));
        kept[0].hit(60, 0x02, 9);
        let places: std::collections::HashSet<usize> = gone.iter().map(address).collect();
        drop(gone);
        let again: Vec<_> = (0..100).map(|_| StatsSlot::new(WORKER, PortNo(8))).collect();
        assert_eq!(again.iter().map(address).collect::<std::collections::HashSet<_>>(), places);
        for slot in &again {
            let counted = (slot.packets(), slot.bytes(), slot.used_ms(), slot.tcp_flags());
            assert_eq!((counted, slot.output()), ((0, 0, 0, 0), PortNo(8)));
        }
        let counted = (kept[0].packets(), kept[0].bytes(), kept[0].used_ms(), kept[0].tcp_flags());
        assert_eq!((counted, kept[0].output()), ((1, 60, 9, 2), PortNo::NONE));
    }
}
