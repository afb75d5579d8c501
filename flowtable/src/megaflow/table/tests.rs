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
    Burst(u8, Vec<FlowKey>, u32),
    Rank,
}

fn op() -> impl Strategy<Value = Op> {
    let any_key =
        || (0u8..20, 0u8..6, 0u8..3).prop_map(|(host, port, in_port)| key(host, port, in_port)).boxed();
    // What a worker looks up at once came in by one port.
    let burst = (0u8..3, prop::collection::vec((0u8..20, 0u8..6), 0..40), any::<u32>());
    prop_oneof![
        12 => (any_key(), 0usize..6, any::<u32>()).prop_map(|(k, m, v)| Op::Insert(k, m, v)),
        8 => (any_key(), 0usize..6).prop_map(|(k, m)| Op::Remove(k, m)),
        6 => any_key().prop_map(Op::Lookup),
        4 => burst.prop_map(|(in_port, keys, wanted)| {
            Op::Burst(in_port, keys.into_iter().map(|(host, port)| key(host, port, in_port)).collect(), wanted)
        }),
        1 => Just(Op::Rank),
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
            prop_assert_eq!(table.get(&key, &masks[mask]).copied(), old);
            prop_assert_eq!(table.remove(&key, &masks[mask]), old);
            prop_assert_eq!(table.get(&key, &masks[mask]), None);
        }
        Op::Lookup(key) => prop_assert!(model.allows(&key, table.lookup(&key).copied())),
        Op::Burst(in_port, keys, wanted) => {
            let (mut values, mut places) = ([Some(&0xdead); BURST], [Place::default(); BURST]);
            let port = table.port(PortNo(in_port.into()));
            let hits = port.lookup_burst(&keys, wanted, &mut values, &mut places);
            prop_assert_eq!(hits & !wanted, 0);
            for (i, (key, value)) in keys.iter().zip(values).enumerate() {
                let bit = 1 << i;
                if hits & bit != 0 {
                    prop_assert!(value.is_some() && model.allows(key, value.copied()));
                } else {
                    prop_assert_eq!(value, Some(&0xdead));
                    prop_assert!(wanted & bit == 0 || model.allows(key, None));
                }
                // Right or nothing, whatever the place: also that of another packet.
                for key in [*key, keys[0]] {
                    let hinted = port.get_at(places[i % BURST], &key);
                    prop_assert!(hinted.is_none() || model.allows(&key, hinted.copied()));
                }
            }
        }
        Op::Rank => table.rank(),
    }
    Ok(())
}

fn assert_same_entries(table: &MegaflowTable<u32>, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(table.len(), model.0.len());
    prop_assert_eq!(table.is_empty(), model.0.is_empty());
    prop_assert_eq!(table.iter().count(), model.0.len());
    for (key, mask, value) in table.iter() {
        prop_assert!(model.0.contains(&(key, mask, *value)));
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
    assert!((0..20_000).all(|i| table.lookup(&flow(i)) == Some(&i)));
    assert_eq!(table.lookup(&flow(20_000)), None);
    for i in (0..20_000).filter(|i| i % 1000 != 0) {
        assert_eq!(table.remove(&flow(i), &FlowMask::EXACT_FIVE_TUPLE), Some(i));
    }
    assert_eq!(table.len(), 20);
    assert!((0..20_000).all(|i| table.lookup(&flow(i)) == (i % 1000 == 0).then_some(&i)));
}

#[test]
fn rank_puts_the_busy_mask_of_a_port_first_and_forgets() {
    let mut table = MegaflowTable::new();
    let mut tuple = FlowMask::EXACT_BASE;
    tuple.union(&FlowMask::EXACT_FIVE_TUPLE);
    let (a, b) = (key(1, 1, 1), key(2, 2, 1));
    table.insert(&a, &FlowMask::EXACT, 1);
    table.insert(&b, &tuple, 2);
    for _ in 0..8 {
        assert_eq!(table.lookup(&b), Some(&2));
    }
    assert_eq!(table.lookup(&a), Some(&1));
    table.rank();
    let stats: Vec<_> = table.subtables().map(|s| (s.mask, s.hits)).collect();
    assert_eq!(stats, [(tuple, 4), (FlowMask::EXACT, 0)]);
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
    let (mut values, mut places) = ([None; BURST], [Place::default(); BURST]);
    let other = FlowKey { eth_type: 7.into(), ..key(9, 9, 1) };
    let hits = table.port(PortNo(1)).lookup_burst(&[packet, other, packet], 0b111, &mut values, &mut places);
    assert_eq!((hits, &values[..4]), (0b101, &[Some(&1), None, Some(&1), None][..]));
    assert_eq!(table.subtables().map(|s| s.hits).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(table.port(PortNo(1)).get_at(places[2], &packet), Some(&1));
}

#[test]
fn a_port_pays_for_its_own_masks_only() {
    let mut table = MegaflowTable::new();
    let mut macs = FlowMask::EXACT_BASE;
    macs.union(&FlowMask::EXACT_MACS);
    table.insert(&key(1, 1, 1), &FlowMask::EXACT_BASE, 1);
    table.insert(&key(1, 1, 2), &macs, 2);
    table.insert(&key(1, 1, 3), &FlowMask::EXACT, 3);
    table.insert(&key(1, 1, 3), &macs, 3);
    let of = |table: &MegaflowTable<i32>| {
        [1, 2, 3, 4].map(|p| (table.port(PortNo(p)).depth(), table.port(PortNo(p)).masks()))
    };
    assert_eq!(of(&table), [(Depth::Port, 1), (Depth::Link, 1), (Depth::Full, 2), (Depth::Port, 0)]);
    table.remove(&key(1, 1, 3), &FlowMask::EXACT);
    assert_eq!(of(&table)[2], (Depth::Link, 1));
    // Not bound to a port: everybody's, and the port counts in it.
    table.insert(&key(1, 1, 3), &FlowMask::WILDCARD, 4);
    assert_eq!(of(&table), [(Depth::Full, 2), (Depth::Full, 2), (Depth::Full, 2), (Depth::Full, 1)]);
    table.remove(&key(1, 1, 3), &FlowMask::WILDCARD);
    assert_eq!(of(&table)[3], (Depth::Port, 0));
}

proptest! {
    /// A lookup with the bits only that its port's megaflows look at finds a match if and only if there is one.
    #[test]
    fn looking_no_deeper_than_the_masks_finds_the_same(
        flows in prop::collection::vec((0u8..20, 0u8..6, 0u8..3, 0usize..6, any::<u16>()), 1..60),
        packets in prop::collection::vec((0u8..20, 0u8..6), 32),
        vlan: u16, deep: bool, connections: bool,
    ) {
        let (mut table, mut model) = (MegaflowTable::new(), Model::default());
        let mut masks = vec![FlowMask::EXACT_BASE, if connections { Depth::Connection } else { Depth::Link }.mask()];
        masks.push(FlowMask::EXACT_BASE);
        if connections {
            masks[2].fields.nw_src = [0xff; 16];
        } else {
            masks[2].fields.eth_src = [0xff; 6];
        }
        if deep {
            masks.push(FlowMask::EXACT);
        }
        let with_vlan = |key: FlowKey| FlowKey { vlan_tci: (vlan | 0x1000).into(), ..key };
        for (host, port, in_port, mask, value) in flows {
            let (key, mask) = (with_vlan(key(host, port, in_port)), masks[mask % masks.len()]);
            table.insert(&key, &mask, u32::from(value));
            if let Some(at) = model.position(&key, &mask) {
                model.0.swap_remove(at);
            }
            model.0.push((mask.apply(&key), mask, u32::from(value)));
        }
        for in_port in 0..3 {
            let port = table.port(PortNo(in_port.into()));
            let full: Vec<_> = packets.iter().map(|(host, p)| with_vlan(key(*host, *p, in_port))).collect();
            let limited: Vec<_> = full
                .iter()
                .map(|key| FlowKey { in_port: 0, ..port.depth().mask().apply(key) })
                .collect();
            let (mut values, mut places) = ([None; BURST], [Place::default(); BURST]);
            let hits = port.lookup_burst(&limited, u32::MAX, &mut values, &mut places);
            for (i, key) in full.iter().enumerate() {
                prop_assert_eq!(hits >> i & 1 != 0, values[i].is_some());
                prop_assert!(model.allows(key, values[i].copied()));
                if values[i].is_some() {
                    prop_assert_eq!(port.get_at(places[i], &limited[i]), values[i]);
                }
            }
        }
    }
}
