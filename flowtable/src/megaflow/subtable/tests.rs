//! What the table's own tests cannot reach: hashes that all collide.

use proptest::prelude::*;

use super::*;

/// Every structural promise of the module documentation.
fn check<V: Copy>(subtable: &Subtable<V>) {
    assert_eq!(subtable.keys.len(), subtable.len() * subtable.mask.stride());
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
fn insert_colliding(subtable: &mut Subtable<u32>, hash: u32, value: u32) {
    if (subtable.len() + 1) * 8 > subtable.buckets.len() * WAYS * 7 {
        subtable.rebuild(subtable.buckets.len() * 2);
    }
    subtable.place(hash, subtable.len() as u32);
    subtable.keys.extend([u64::from(value), 0]);
    subtable.hashes.push(hash);
    subtable.values.push(value);
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
        let mut subtable = Subtable::new(&ports(), 0);
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
            let (value, hash) = (subtable.values[slot], subtable.hashes[slot]);
            let mut key = FlowKey::default();
            key.words_mut()[8] = u64::from(value);
            prop_assert_eq!(subtable.find(&key, hash), Some(slot));
            prop_assert_eq!(subtable.remove_slot(slot), value);
            prop_assert_eq!(subtable.find(&key, hash), None);
            subtable.shrink();
            check(&subtable);
        }
    }
}
