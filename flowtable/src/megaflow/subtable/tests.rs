//! What the table's own tests cannot reach: hashes that all collide.

use proptest::prelude::*;

use super::*;

/// Every structural promise of the module documentation.
fn check<V>(subtable: &Words<1, V>) {
    assert_eq!(subtable.hashes.len(), subtable.len());
    assert!(subtable.buckets.len().is_power_of_two());
    let mut passed = vec![0u16; subtable.buckets.len()];
    for (slot, hash) in subtable.hashes.iter().enumerate() {
        let mut home = None;
        for bucket in subtable.path(*hash) {
            if subtable.buckets[bucket].candidates(Bucket::tag(*hash)).any(|s| s == slot) {
                home = Some(bucket);
                break;
            }
            passed[bucket] += 1;
        }
        assert!(home.is_some(), "slot {slot} cannot be reached");
    }
    let counted: Vec<u16> = subtable.buckets.iter().map(|bucket| bucket.overflow).collect();
    assert_eq!(counted, passed);
}

/// Puts in an entry under a chosen hash, as `insert` does with a computed one.
fn insert_colliding(subtable: &mut Words<1, u32>, hash: u32, value: u32) {
    subtable.add(Entry { key: [u64::from(value)], value }, hash);
}

fn ports() -> FlowMask {
    FlowMask { fields: FlowKey { in_port: u32::MAX, recirc_id: u32::MAX, ..FlowKey::default() } }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn collisions_cost_no_memory_and_no_entry(
        hashes in prop::collection::vec(prop_oneof![Just(0u32), Just(1), Just(0x1_0000), any::<u32>()], 1..300),
        removals in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
    ) {
        let mut subtable = Words::new(SparseMask::new(&ports(), 0).unwrap());
        for (value, hash) in hashes.iter().enumerate() {
            insert_colliding(&mut subtable, *hash, value as u32);
        }
        check(&subtable);
        prop_assert!(subtable.buckets.len() * WAYS <= (hashes.len() * 3).max(WAYS));
        for index in removals {
            if subtable.len() == 0 {
                break;
            }
            let slot = index.index(subtable.len());
            let (value, hash) = (subtable.entries[slot].value, subtable.hashes[slot]);
            let key = [u64::from(value)];
            prop_assert_eq!(subtable.find(&key, hash), Some(slot));
            prop_assert_eq!(subtable.remove_slot(slot), value);
            prop_assert_eq!(subtable.find(&key, hash), None);
            subtable.shrink();
            check(&subtable);
        }
    }
}

#[test]
fn an_entry_of_seven_words_is_one_line() {
    assert_eq!(size_of::<Entry<1, u64>>(), 64);
    assert_eq!(size_of::<Entry<7, u64>>(), 64);
    assert_eq!(size_of::<Entry<8, u64>>(), 128);
    // The five-tuple of IPv4 and a value of sixteen bytes; of IPv6's the value at least begins in the line of the key.
    assert_eq!(size_of::<Entry<5, [u64; 2]>>(), 64);
    assert_eq!(core::mem::offset_of!(Entry<7, [u64; 2]>, value), 56);
}

#[test]
fn there_is_a_subtable_for_any_number_of_words() {
    for words in 0..=KEY_WORDS {
        let mut mask = FlowMask::WILDCARD;
        mask.words_mut()[..words].fill(u64::MAX);
        let mut subtable = subtable(&mask, 3);
        let key = mask.fields;
        assert_eq!(subtable.insert(&key, words), None);
        assert_eq!((subtable.mask(), subtable.len(), subtable.entry(0)), (mask, 1, (key, &words)));
        assert_eq!(subtable.get(&FlowKey::default()).is_some(), words == 0);
        assert_eq!(subtable.remove(&key), Some(words));
    }
}
