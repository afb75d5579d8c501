//! The device side against rust-vmm's `virtio-queue` as oracle, over the same memory image.
//!
//! Allowed differences, both on purpose: where the oracle silently ends a bad chain, we report a fault; without event
//! indexes the oracle ignores NO_INTERRUPT, which we honour.

use std::fs::File;
use std::sync::Arc;

use pmd::sys::sigbus::Alarm;
use pmd::virtio::split::*;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::split::SplitRing;
use super::*;
use crate::memory::{MemTable, Region, RegionSpec};

const MEMORY: u64 = 1 << 20;
const HALF: u64 = MEMORY / 2;
const SIZE: u16 = 16;
const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Where indirect tables may lie.
const INDIRECT: u64 = 0x4000;

/// One memory, seen by both.
struct Twin {
    oracle: GuestMemoryMmap,
    ours: Arc<MemTable>,
}

impl Twin {
    fn new() -> Twin {
        let file: File = memfd_create("twin", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&file, MEMORY).unwrap();
        let alarm = Alarm::new().unwrap();
        let halves = [0, HALF];
        let table = halves.iter().fold(MemTable::default(), |table, &at| {
            let spec = RegionSpec { gpa: at, len: HALF, uva: at, offset: at };
            table.with(Region::map(spec, &file, &alarm).unwrap()).unwrap()
        });
        let ranges = halves.map(|at| {
            let offset = FileOffset::new(file.try_clone().unwrap(), at);
            (GuestAddress(at), HALF as usize, Some(offset))
        });
        let oracle = GuestMemoryMmap::from_ranges_with_files(ranges.iter()).unwrap();
        Twin { oracle, ours: Arc::new(table) }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.oracle.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn write_u16(&self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }

    fn used(&self) -> Vec<u8> {
        let mut bytes = vec![0; used_len(SIZE)];
        self.oracle.read_slice(&mut bytes, GuestAddress(USED)).unwrap();
        bytes
    }

    fn ring(&self, base: u16, rules: RingRules) -> SplitRing {
        let config = RingConfig {
            size: Some(SIZE),
            addresses: Some(RingAddresses { descriptors: TABLE, avail: AVAIL, used: USED }),
            base,
            started: true,
            ..RingConfig::default()
        };
        let DeviceRing::Split(ring) = config.started_for_test(&self.ours, rules) else {
            panic!("a split ring was asked for");
        };
        ring
    }

    fn queue(&self, base: u16, rules: RingRules) -> Queue {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_desc_table_address(Some(TABLE as u32), None);
        queue.set_avail_ring_address(Some(AVAIL as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_event_idx(rules.event_idx);
        queue.set_next_avail(base);
        queue.set_next_used(base);
        queue.set_ready(true);
        queue
    }

    /// Guest address of a host address in our mapping.
    fn gpa(&self, segment: &Segment) -> u64 {
        let addr = segment.start.addr();
        let in_half = |half: u64| {
            let start = self.ours.by_uva(half, HALF).unwrap().addr();
            addr.checked_sub(start).map(|o| o as u64).filter(|&o| o < HALF).map(|o| half + o)
        };
        in_half(0).or_else(|| in_half(HALF)).expect("a segment lies in guest memory")
    }
}

type Chain = (u16, Vec<(u64, u32)>);

/// What we make of the ring: chains up to the first fault, and whether there was one.
fn ours(twin: &Twin, ring: &mut SplitRing) -> (Vec<Chain>, bool) {
    let mut chains = Vec::new();
    let Ok(count) = ring.refresh() else { return (chains, true) };
    for _ in 0..count {
        ring.segments.clear();
        let Ok(head) = ring.head(0) else { return (chains, true) };
        // Warm and cold region cache must agree, so both paths are tried.
        let single = ring.look_at(head, Direction::Read);
        let Ok(bytes) = ring.walk(head, Direction::Read) else { return (chains, true) };
        if let Some(start) = single.start {
            assert_eq!((start, single.len), (ring.segments[0].start, bytes));
        }
        let pieces: Vec<_> = ring.segments.iter().map(|s| (twin.gpa(s), s.len)).collect();
        assert_eq!(pieces.iter().map(|p| p.1).sum::<u32>(), bytes);
        ring.complete(head, bytes);
        chains.push((head, pieces));
    }
    (chains, false)
}

/// Puts pieces together that lie side by side, so that a buffer cut at a region border compares equal.
fn merged(pieces: &[(u64, u32)]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for &(at, len) in pieces.iter().filter(|p| p.1 > 0) {
        match out.last_mut() {
            Some((start, n)) if *start + *n == at => *n += u64::from(len),
            _ => out.push((at, u64::from(len))),
        }
    }
    out
}

fn descriptor(in_table: bool) -> impl Strategy<Value = Descriptor> {
    let addr = prop_oneof![
        8 => 0x1_0000u64..MEMORY - 0x1000,
        2 => HALF - 64..HALF + 64,
        1 => MEMORY - 64..MEMORY + 64,
    ];
    let flags = prop_oneof![6 => Just(0u16), 5 => Just(DESC_F_NEXT), 1 => Just(DESC_F_WRITE)];
    let plain = (addr, 10u32..2000, flags, 0..SIZE + 1).prop_map(|(addr, len, flags, next)| Descriptor {
        addr,
        len,
        flags,
        next,
    });
    let table = (0u64..4, 1u32..5).prop_map(|(at, n)| Descriptor {
        addr: INDIRECT + at * 64,
        len: n * 16,
        flags: DESC_F_INDIRECT,
        next: 0,
    });
    let weight = u32::from(in_table);
    prop_oneof![8 => plain, weight * 2 + 1 => table]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn device_side_agrees_with_virtio_queue(
        table in prop::collection::vec(descriptor(true), usize::from(SIZE)),
        indirect in prop::collection::vec(descriptor(false), 20),
        heads in prop::collection::vec(0..SIZE, usize::from(SIZE)),
        count in 0..SIZE + 1,
        base: u16,
        event_idx: bool,
        used_event: u16,
        no_interrupt: bool,
    ) {
        let twin = Twin::new();
        let rules = RingRules { event_idx, indirect: true, ..RingRules::default() };
        for (i, desc) in table.iter().enumerate() {
            twin.write(TABLE + i as u64 * 16, zerocopy::IntoBytes::as_bytes(desc));
        }
        for (i, desc) in indirect.iter().enumerate() {
            // Small tables: `next` within them, mostly.
            let desc = Descriptor { next: desc.next % 5, ..*desc };
            twin.write(INDIRECT + i as u64 * 16, zerocopy::IntoBytes::as_bytes(&desc));
        }
        for (i, &head) in heads.iter().enumerate() {
            twin.write_u16(AVAIL + 4 + i as u64 * 2, head);
        }
        twin.write_u16(AVAIL, u16::from(no_interrupt));
        twin.write_u16(AVAIL + 2, base.wrapping_add(count));
        // Near the indexes of this run, or the event says nothing.
        let event = base.wrapping_add(used_event % (SIZE * 2)).wrapping_sub(SIZE / 2);
        twin.write_u16(AVAIL + 4 + u64::from(SIZE) * 2, event);
        twin.write_u16(USED + 2, base);

        let mut ring = twin.ring(base, rules);
        let (chains, fault) = ours(&twin, &mut ring);
        let notify = ring.publish().then(|| ring.wants_notice());
        let used = twin.used();

        twin.write(USED, &vec![0; used_len(SIZE)]);
        twin.write_u16(USED + 2, base);
        let mut queue = twin.queue(base, rules);
        let theirs: Vec<Chain> = queue.iter(&twin.oracle).unwrap().map(|chain| {
            let head = chain.head_index();
            (head, chain.map(|d| (d.addr().0, d.len())).collect())
        }).collect();
        if !fault {
            prop_assert_eq!(chains.len(), theirs.len());
        }
        for (ours, theirs) in chains.iter().zip(&theirs) {
            prop_assert_eq!(ours.0, theirs.0);
            prop_assert_eq!(merged(&ours.1), merged(&theirs.1));
        }
        for (head, pieces) in &chains {
            let len = pieces.iter().map(|p| p.1).sum();
            queue.add_used(&twin.oracle, *head, len).unwrap();
        }
        // Our flags say that we poll; the oracle leaves them.
        prop_assert_eq!(&used[2..], &twin.used()[2..]);
        prop_assert_eq!(used[0], u8::from(!event_idx));
        if chains.is_empty() {
            prop_assert_eq!(notify, None);
        } else if event_idx {
            prop_assert_eq!(notify, Some(queue.needs_notification(&twin.oracle).unwrap()));
        } else {
            prop_assert_eq!(notify, Some(!no_interrupt));
        }
    }

    #[test]
    fn arming_looks_again(base: u16, ahead in 0u16..3, event_idx: bool) {
        let twin = Twin::new();
        twin.write_u16(AVAIL + 2, base);
        twin.write_u16(USED + 2, base);
        let mut ring = twin.ring(base, RingRules { event_idx, ..RingRules::default() });
        twin.write_u16(AVAIL + 2, base.wrapping_add(ahead));
        prop_assert_eq!(ring.arm(), ahead != 0);
        let used = twin.used();
        if event_idx {
            prop_assert_eq!(&used[used.len() - 2..], &base.to_le_bytes());
        } else {
            prop_assert_eq!(used[0], 0);
            ring.disarm();
            prop_assert_eq!(twin.used()[0], 1);
        }
    }
}
