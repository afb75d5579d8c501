//! The cache against a map: it may forget, it must never be wrong.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::key::hash_key;

/// A key from small numbers, some with an ARP or ND part.
fn key(host: u8, extra: u8) -> FlowKey {
    let mut key = FlowKey { in_port: 1, ..FlowKey::default() };
    key.nw_dst[3] = host;
    key.nd_target[15] = extra;
    key
}

#[derive(Clone, Debug)]
enum Op {
    Insert(FlowKey, u32, u32),
    Lookup(FlowKey, u32),
    RemoveIf(u32),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let key = || (0u8..8, 0u8..3).prop_map(|(host, extra)| key(host, extra)).boxed();
    // The cache believes the hash it is given, so a test may make any two keys collide that are both plain or both not.
    // Each key keeps to its own hash within one case: one of two values, or the real ones.
    prop_oneof![
        10 => (key(), any::<u32>()).prop_map(|(k, v)| Op::Insert(k, hash_key(&k), v)),
        10 => key().prop_map(|k| Op::Lookup(k, hash_key(&k))),
        1 => (2u32..5).prop_map(Op::RemoveIf),
        1 => Just(Op::Clear),
    ]
}

fn run(entries: usize, collide: bool, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut cache = ExactMatchCache::with_entries(entries);
    let mut model: HashMap<[u64; KEY_WORDS], u32> = HashMap::new();
    for op in ops {
        match op {
            Op::Insert(key, hash, value) => {
                let hash = if collide { hash & NOT_PLAIN } else { hash };
                cache.insert(&key, hash, value);
                model.insert(*key.words(), value);
                prop_assert_eq!(cache.lookup(&key, hash), Some(value));
            }
            Op::Lookup(key, hash) => {
                if let Some(value) = cache.lookup(&key, if collide { hash & NOT_PLAIN } else { hash }) {
                    prop_assert_eq!(Some(&value), model.get(key.words()));
                }
            }
            Op::RemoveIf(divisor) => {
                let before = cache.len();
                let removed = cache.remove_if(|value| value % divisor == 0);
                prop_assert_eq!(cache.len(), before - removed);
                model.retain(|_, value| !value.is_multiple_of(divisor));
            }
            Op::Clear => {
                cache.clear();
                model.clear();
                prop_assert!(cache.is_empty());
            }
        }
        prop_assert!(cache.len() <= cache.capacity().min(model.len()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn never_gives_a_wrong_or_stale_value(
        entries in 0usize..40, collide: bool, ops in prop::collection::vec(op(), 1..200),
    ) {
        run(entries, collide, ops)?;
    }
}

#[test]
fn two_keys_of_one_hash_live_side_by_side() {
    let mut cache = ExactMatchCache::new();
    // Once among plain keys, once among keys that differ only in the words that those do not have.
    for (hash, [a, b, c]) in
        [(5, [1, 2, 3].map(|i| key(i, 0))), (NOT_PLAIN | 5, [1, 2, 3].map(|i| key(9, i)))]
    {
        cache.clear();
        cache.insert(&a, hash, 'a');
        cache.insert(&b, hash, 'b');
        assert_eq!((cache.lookup(&a, hash), cache.lookup(&b, hash)), (Some('a'), Some('b')));
        assert_eq!(cache.lookup(&c, hash), None);
        cache.insert(&c, hash, 'c');
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.lookup(&c, hash), Some('c'));
    }
}

#[test]
fn sizes_are_rounded_up() {
    assert_eq!(ExactMatchCache::<u32>::new().capacity(), DEFAULT_ENTRIES);
    assert_eq!(ExactMatchCache::<u32>::with_entries(0).capacity(), 2);
    assert_eq!(ExactMatchCache::<u32>::with_entries(100).capacity(), 128);
    assert_eq!(ExactMatchCache::<u32>::with_entries(usize::MAX).capacity(), 1 << 17);
}

#[test]
fn entry_with_a_handle_is_two_lines() {
    assert_eq!(size_of::<Entry<u64>>(), 128);
    assert_eq!(size_of::<Entry<[u32; 8]>>(), 128);
}

#[test]
fn most_of_a_full_cache_worth_of_flows_fits() {
    let mut cache = ExactMatchCache::new();
    let flows: Vec<FlowKey> = (0..4096u32)
        .map(|i| {
            let mut key = FlowKey { in_port: 1 + i % 4, ..FlowKey::default() };
            key.nw_src[..4].copy_from_slice(&(0x0a00_0000 + i / 16).to_be_bytes());
            key.tp_src.set(1024 + (i % 16) as u16);
            key
        })
        .collect();
    for (i, flow) in flows.iter().enumerate() {
        cache.insert(flow, hash_key(flow), i);
    }
    let kept = flows.iter().enumerate().filter(|(i, f)| cache.lookup(f, hash_key(f)) == Some(*i)).count();
    // 4096 flows thrown at 4096 sets of two ways: the Poisson distribution says 0.896 of them find room.
    assert!(kept > 3500, "{kept}");
}
