//! The list of mappings against a byte-wise one that cannot be wrong.

use std::fs::File;
use std::sync::Arc;

use pmd::sys::sigbus::Alarm;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::iotlb::{Iotlb, MAX_ENTRIES, Translation, TranslationError};
use super::misses::{Miss, MissQueue, PAGE};
use super::{Access, MemTable, Region, RegionCache, RegionSpec};

const SIZE: u64 = 64;
const UVA: u64 = 0x7000_0000_0000;

/// Memory of two regions of `len` bytes each that are neighbours for the front-end.
fn memory(len: u64) -> MemTable {
    let file: File = memfd_create("iotlb", MemfdFlags::CLOEXEC).unwrap().into();
    ftruncate(&file, len * 2).unwrap();
    let alarm = Alarm::new().unwrap();
    [0, len].into_iter().fold(MemTable::default(), |table, at| {
        let spec = RegionSpec { gpa: at, len, uva: UVA + at, offset: at };
        table.with(Region::map(spec, &file, &alarm).unwrap()).unwrap()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Update {
        iova: u64,
        len: u64,
        to: u64,
        access: u8,
    },
    Invalidate {
        iova: u64,
        len: u64,
    },
    /// The second region goes.
    Shrink,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SIZE, 0..20u64, 0..SIZE, 1..=3u8)
            .prop_map(|(iova, len, to, access)| Step::Update { iova, len, to, access }),
        // What continues something, and is then one with it.
        8 => (0..SIZE, 1..8u64, 0..3u64)
            .prop_map(|(iova, len, shift)| Step::Update { iova, len, to: iova + shift, access: 3 }),
        8 => (0..SIZE, 0..20u64).prop_map(|(iova, len)| Step::Invalidate { iova, len }),
        1 => Just(Step::Shrink),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_byte_is_where_the_front_end_said_last(steps in prop::collection::vec(step(), 1..60)) {
        let mut regions = memory(SIZE / 2);
        let misses = Arc::new(MissQueue::new(Alarm::new().unwrap()));
        let mut iotlb = Iotlb::default();
        let mut model = [None::<(u64, Access)>; SIZE as usize * 2];
        for step in steps {
            match step {
                Step::Update { iova, len, to, access } => {
                    let access = Access::from_bits(access).unwrap();
                    let told = Translation { iova, len, uva: UVA + to, access };
                    let result = iotlb.update(told, &regions);
                    let inside = regions.by_uva(UVA + to, len).is_some();
                    prop_assert_eq!(result.is_ok(), len > 0 && inside);
                    if let Ok(changed) = result {
                        let before = model;
                        (0..len).for_each(|i| model[(iova + i) as usize] = Some((UVA + to + i, access)));
                        prop_assert_eq!(changed, before != model);
                    }
                }
                Step::Invalidate { iova, len } => {
                    let range = if len == 0 { iova..SIZE * 2 } else { iova..iova + len };
                    let known = range.clone().any(|i| model[i as usize].is_some());
                    range.for_each(|i| model[i as usize] = None);
                    prop_assert_eq!(iotlb.invalidate(iova, len), known);
                }
                Step::Shrink => {
                    if let Ok(smaller) = regions.without(SIZE / 2, UVA + SIZE / 2, SIZE / 2) {
                        regions = smaller;
                    }
                    iotlb.rebase(&regions);
                    // A mapping over both goes whole, so ask for what is left.
                    for (i, byte) in model.iter_mut().enumerate() {
                        if !iotlb.entries().iter().any(|m| m.told.iova <= i as u64 && (i as u64) < m.end()) {
                            *byte = None;
                        }
                        prop_assert!(byte.is_none_or(|(uva, _)| uva < UVA + SIZE / 2));
                    }
                }
            }
            let sorted = iotlb.entries().windows(2).all(|two| two[0].end() <= two[1].told.iova);
            prop_assert!(sorted, "{:?}", iotlb.entries());
            let table = regions.translated(iotlb.entries(), &misses, false);
            for (iova, byte) in model.iter().enumerate() {
                for access in [Access::READ, Access::WRITE, Access::BOTH] {
                    let found = table.lookup(iova as u64, 1, access, &mut RegionCache::default());
                    let expected = byte.filter(|(_, has)| has.allows(access));
                    let expected = expected.map(|(uva, _)| (regions.by_uva(uva, 1).unwrap(), 1));
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}

#[test]
fn neighbours_become_one_and_a_hole_makes_two() {
    let regions = memory(1 << 20);
    let mut iotlb = Iotlb::default();
    let page = |n: u64| Translation { iova: n * PAGE, len: PAGE, uva: UVA + n * PAGE, access: Access::BOTH };
    // Odd ones first.
    for n in (1..64).step_by(2).chain((0..64).step_by(2)) {
        assert_eq!(iotlb.update(page(n), &regions), Ok(true));
        assert_eq!(iotlb.update(page(n), &regions), Ok(false));
    }
    assert_eq!(iotlb.entries().len(), 1);
    assert!(iotlb.invalidate(7 * PAGE, PAGE));
    assert_eq!(iotlb.entries().len(), 2);
    // QEMU's way to say "all": a length that does not fit.
    assert!(iotlb.invalidate(0, 0));
    assert!(iotlb.entries().is_empty());
}

#[test]
fn number_of_mappings_is_bounded_whatever_comes() {
    let regions = memory(1 << 20);
    let mut iotlb = Iotlb::default();
    for n in 0..3 * MAX_ENTRIES as u64 {
        // No two are neighbours.
        let told = Translation { iova: n * 2 * PAGE, len: PAGE, uva: UVA, access: Access::BOTH };
        assert_eq!(iotlb.update(told, &regions), Ok(true));
        assert!(iotlb.entries().iter().any(|m| m.told == told), "the newest stays");
    }
    assert_eq!((iotlb.entries().len(), iotlb.evicted()), (MAX_ENTRIES, 2 * MAX_ENTRIES as u64));
    iotlb.invalidate(0, 0);
    // Holes in one large mapping.
    let whole = Translation { iova: 0, len: 1 << 20, uva: UVA, access: Access::BOTH };
    iotlb.update(whole, &regions).unwrap();
    for n in 0..2 * MAX_ENTRIES as u64 {
        iotlb.invalidate(n * 64, 1);
        assert!(iotlb.entries().len() <= MAX_ENTRIES);
    }
}

#[test]
fn impossible_updates_are_refused() {
    let regions = memory(1 << 20);
    let mut iotlb = Iotlb::default();
    let mut refused = |iova, len, uva| {
        iotlb.update(Translation { iova, len, uva, access: Access::BOTH }, &regions).unwrap_err()
    };
    assert_eq!(refused(8, 0, UVA), TranslationError::Empty { iova: 8 });
    assert_eq!(refused(u64::MAX - 5, 6, UVA), TranslationError::Wraps { iova: u64::MAX - 5, len: 6 });
    for (len, uva) in [
        (1, UVA - 1),
        (2, UVA + (2 << 20) - 1),
        (3 << 20, UVA),
        (u64::MAX - 8, UVA + 1),
        (2, UVA + (1 << 20) - 1),
    ] {
        assert_eq!(refused(8, len, uva), TranslationError::Outside { iova: 8, uva, len });
    }
    assert!(iotlb.entries().is_empty());
}

#[test]
fn what_is_not_translated_is_reported_page_by_page() {
    let regions = memory(1 << 20);
    let mut iotlb = Iotlb::default();
    let misses = Arc::new(MissQueue::new(Alarm::new().unwrap()));
    let told = Translation { iova: 0x3000, len: PAGE, uva: UVA, access: Access::READ };
    iotlb.update(told, &regions).unwrap();
    let table = regions.translated(iotlb.entries(), &misses, false);
    let missed = || {
        let mut missed: Vec<_> = misses.drain().map(|Miss { page, access }| (page, access.bits())).collect();
        missed.sort_unstable();
        missed
    };
    let mut cache = RegionCache::EMPTY;
    assert!(table.lookup(0x2f00, 0x2200, Access::READ, &mut cache).is_none());
    assert_eq!(missed(), [(0x2000, 1), (0x4000, 1), (0x5000, 1)]);
    assert!(table.lookup(0x3f00, 0x100, Access::WRITE, &mut cache).is_none());
    assert_eq!(missed(), [(0x3000, 2)]);
    assert_eq!(table.lookup(0x3f00, 0x200, Access::READ, &mut cache).unwrap().1, 0x100);
    assert!(cache.get(0x3000, 0x1000).is_some() && cache.get(0x3000, 0x1001).is_none());
    assert_eq!(missed(), []);
    table.report_missing(0x3f00, 0x200, Access::READ);
    assert_eq!(missed(), [(0x4000, 1)]);
    table.report_missing(u64::MAX - 1, u32::MAX, Access::READ);
    assert_eq!(missed(), [(!(PAGE - 1), 1)]);
}
