//! The table against a list that is searched from front to end.

use proptest::prelude::*;

use super::*;

/// A key from a few small numbers, so that random operations meet each other.
fn key(host: u8, port: u8, in_port: u8) -> FlowKey {
    let mut key = FlowKey { in_port: u32::from(in_port), ..FlowKey::default() };
    key.nw_dst[3] = host;
    key.eth_src[5] = host.wrapping_mul(3);
    key.tp_dst.set(u16::from(port));
    key.nd_target[15] = port;
    key
}

fn masks() -> Vec<FlowMask> {
    let mut last_nibble = FlowMask::EXACT_BASE;
    last_nibble.fields.nw_dst[3] = 0x0f;
    let mut masks = vec![
        FlowMask::WILDCARD,
        FlowMask::EXACT_BASE,
        FlowMask::EXACT_MACS,
        FlowMask::EXACT_FIVE_TUPLE,
        FlowMask::EXACT,
        last_nibble,
    ];
    masks[2].union(&FlowMask::EXACT_BASE);
    masks
}

#[derive(Clone, Debug)]
enum Op {
    Insert(FlowKey, usize, u32),
    Remove(FlowKey, usize),
    Lookup(FlowKey),
    Burst(Vec<FlowKey>, u32),
    Retain(u32),
    Rank,
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let key = || (0u8..20, 0u8..6, 0u8..3).prop_map(|(host, port, in_port)| key(host, port, in_port)).boxed();
    prop_oneof![
        12 => (key(), 0usize..6, any::<u32>()).prop_map(|(k, m, v)| Op::Insert(k, m, v)),
        8 => (key(), 0usize..6).prop_map(|(k, m)| Op::Remove(k, m)),
        6 => key().prop_map(Op::Lookup),
        4 => (prop::collection::vec(key(), 0..40), any::<u32>()).prop_map(|(k, w)| Op::Burst(k, w)),
        1 => (2u32..8).prop_map(Op::Retain),
        1 => Just(Op::Rank),
        1 => Just(Op::Clear),
    ]
}

#[derive(Default)]
struct Model(Vec<(FlowKey, FlowMask, u32)>);

impl Model {
    fn position(&self, key: &FlowKey, mask: &FlowMask) -> Option<usize> {
        let masked = mask.apply(key);
        self.0.iter().position(|(k, m, _)| *k == masked && m == mask)
    }

    /// Values of all entries that match; a table may give any of them.
    fn matching(&self, packet: &FlowKey) -> Vec<u32> {
        self.0.iter().filter(|(key, mask, _)| mask.matches(packet, key)).map(|(_, _, value)| *value).collect()
    }

    fn allows(&self, packet: &FlowKey, found: Option<u32>) -> bool {
        let matching = self.matching(packet);
        found.map_or(matching.is_empty(), |value| matching.contains(&value))
    }
}

fn apply(table: &mut MegaflowTable<u32>, model: &mut Model, op: Op) -> Result<(), TestCaseError> {
    let masks = masks();
    match op {
        Op::Insert(key, mask, value) => {
            let mask = masks[mask];
            let old = model.position(&key, &mask).map(|at| model.0.swap_remove(at).2);
            model.0.push((mask.apply(&key), mask, value));
            prop_assert_eq!(table.insert(&key, &mask, value), old);
        }
        Op::Remove(key, mask) => {
            let old = model.position(&key, &masks[mask]).map(|at| model.0.swap_remove(at).2);
            prop_assert_eq!(table.get(&key, &masks[mask]), old);
            prop_assert_eq!(table.remove(&key, &masks[mask]), old);
            prop_assert_eq!(table.get(&key, &masks[mask]), None);
        }
        Op::Lookup(key) => prop_assert!(model.allows(&key, table.lookup(&key))),
        Op::Burst(keys, wanted) => {
            let mut out = vec![Some(0xdead); keys.len()];
            let hits = table.lookup_burst(&keys, wanted, &mut out);
            prop_assert_eq!(hits & !wanted, 0);
            for (i, (key, out)) in keys.iter().zip(out).enumerate() {
                let bit = if i < 32 { 1 << i } else { 0 };
                if hits & bit != 0 {
                    prop_assert!(out.is_some() && model.allows(key, out));
                } else {
                    prop_assert_eq!(out, Some(0xdead));
                    prop_assert!(wanted & bit == 0 || model.allows(key, None));
                }
            }
        }
        Op::Retain(divisor) => {
            let before = model.0.len();
            model.0.retain(|(_, _, value)| value % divisor != 0);
            prop_assert_eq!(table.retain(|value| value % divisor != 0), before - model.0.len());
        }
        Op::Rank => table.rank(),
        Op::Clear => {
            table.clear();
            model.0.clear();
        }
    }
    Ok(())
}

fn assert_same_entries(table: &MegaflowTable<u32>, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(table.len(), model.0.len());
    prop_assert_eq!(table.is_empty(), model.0.is_empty());
    prop_assert_eq!(table.iter().count(), model.0.len());
    for entry in table.iter() {
        prop_assert!(model.0.contains(&entry));
    }
    prop_assert!(table.subtables().all(|s| s.entries > 0));
    prop_assert_eq!(table.subtables().map(|s| s.entries).sum::<usize>(), model.0.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_list(ops in prop::collection::vec(op(), 1..200), seed: u64) {
        let (mut table, mut model) = (MegaflowTable::with_seed(seed), Model::default());
        for op in ops {
            apply(&mut table, &mut model, op)?;
            assert_same_entries(&table, &model)?;
        }
    }
}

#[test]
fn grows_and_shrinks() {
    let mut table = MegaflowTable::with_seed(7);
    let flow = |i: u32| {
        let mut key = FlowKey::default();
        key.nw_src[..4].copy_from_slice(&i.to_be_bytes());
        key
    };
    for i in 0..20_000 {
        assert_eq!(table.insert(&flow(i), &FlowMask::EXACT_FIVE_TUPLE, i), None);
    }
    assert!((0..20_000).all(|i| table.lookup(&flow(i)) == Some(i)));
    assert_eq!(table.lookup(&flow(20_000)), None);
    for i in (0..20_000).filter(|i| i % 1000 != 0) {
        assert_eq!(table.remove(&flow(i), &FlowMask::EXACT_FIVE_TUPLE), Some(i));
    }
    assert_eq!(table.len(), 20);
    assert!((0..20_000).all(|i| table.lookup(&flow(i)) == (i % 1000 == 0).then_some(i)));
}

#[test]
fn rank_puts_the_busy_mask_first_and_forgets() {
    let mut table = MegaflowTable::new();
    let (a, b) = (key(1, 1, 1), key(2, 2, 2));
    table.insert(&a, &FlowMask::EXACT, 1);
    table.insert(&b, &FlowMask::EXACT_FIVE_TUPLE, 2);
    for _ in 0..8 {
        assert_eq!(table.lookup(&b), Some(2));
    }
    assert_eq!(table.lookup(&a), Some(1));
    table.rank();
    let stats: Vec<_> = table.subtables().map(|s| (s.mask, s.hits)).collect();
    assert_eq!(stats, [(FlowMask::EXACT_FIVE_TUPLE, 4), (FlowMask::EXACT, 0)]);
    for _ in 0..6 {
        table.lookup(&a);
    }
    table.rank();
    assert_eq!(table.subtables().next().map(|s| s.mask), Some(FlowMask::EXACT));
}

#[test]
fn a_packet_that_hits_an_earlier_subtable_is_not_looked_up_again() {
    let mut table = MegaflowTable::new();
    let packet = key(1, 1, 1);
    table.insert(&packet, &FlowMask::EXACT, 1);
    table.insert(&packet, &FlowMask::EXACT_BASE, 1);
    let mut out = [None; 3];
    assert_eq!(table.lookup_burst(&[packet, key(9, 9, 9), packet], 0b111, &mut out), 0b101);
    assert_eq!(out, [Some(1), None, Some(1)]);
    assert_eq!(table.subtables().map(|s| s.hits).collect::<Vec<_>>(), [2, 0]);
}
