//! The rule table against a scan by priority.

use proptest::prelude::*;

use super::*;
use crate::{
    key::{Field, FlowMatch},
    rules::{DEFAULT_PRIORITY, RuleAction},
    text::{PortNumbers, openflow},
};

fn flow(text: &str) -> Rule {
    openflow::parse_flow(text, &PortNumbers, 0).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn table(flows: &[&str]) -> RuleTable {
    let mut table = RuleTable::new();
    for text in flows {
        assert!(table.add(flow(text)).is_none(), "{text}");
    }
    table
}

/// The packet that has exactly what a match wants, zero elsewhere.
fn packet(text: &str) -> FlowKey {
    *openflow::parse_match(text, &PortNumbers).unwrap().key()
}

/// Priority of the rule found, and the bits looked at as a match on the packet.
fn find(table: &RuleTable, text: &str) -> (Option<u16>, FlowMatch) {
    let key = packet(text);
    let mut mask = FlowMask::default();
    let priority = table.lookup(&key, &mut mask).map(|rule| rule.priority);
    (priority, FlowMatch::new(key, mask))
}

#[test]
fn highest_priority_wins_and_removal_uncovers_the_next() {
    let mut table =
        table(&["priority=1,actions=normal", "priority=9,ip,actions=drop", "priority=5,in_port=1,actions=2"]);
    assert_eq!(find(&table, "ip,in_port=1").0, Some(9));
    assert_eq!(find(&table, "arp,in_port=1").0, Some(5));
    assert_eq!(find(&table, "arp").0, Some(1));
    assert_eq!(table.len(), 3);
    let loose = openflow::parse_flow_match("ip", &PortNumbers, false).unwrap();
    assert_eq!(table.delete(&loose, false).len(), 1);
    assert_eq!(find(&table, "ip,in_port=1").0, Some(5));
}

#[test]
fn the_same_match_and_priority_is_replaced() {
    let mut table = table(&["ip,actions=drop", "priority=7,ip,actions=drop"]);
    let old = table.add(flow("ip,actions=normal")).unwrap();
    assert!(old.actions.is_empty());
    assert_eq!(table.len(), 2);
    let mut mask = FlowMask::default();
    let found = table.lookup(&packet("ip"), &mut mask).unwrap();
    assert_eq!((found.priority, found.actions.as_slice()), (DEFAULT_PRIORITY, &[RuleAction::Normal][..]));
}

#[test]
fn deletion_is_loose_or_strict() {
    let flows = [
        "priority=1,actions=normal",
        "ip,nw_src=10.0.0.0/8,cookie=0x12,actions=2",
        "ip,nw_src=10.1.0.0/16,cookie=0x22,actions=drop",
        "priority=5,ip,nw_src=10.0.0.0/8,actions=output(port=3,max_len=64)",
        "arp,actions=local",
    ];
    for (selection, strict, removed) in [
        ("", false, 5),
        ("ip", false, 3),
        ("ip,nw_src=10.0.0.0/8", false, 3),
        ("ip,nw_src=10.1.0.0/16", false, 1),
        ("ip,nw_src=10.0.0.0/8", true, 1),
        ("ip,nw_src=10.0.0.0/8,priority=5", true, 1),
        ("ip", true, 0),
        ("priority=1", true, 1),
        ("cookie=0x2/0xf", false, 2),
        ("cookie=0x12/-1", false, 1),
        ("out_port=3", false, 1),
        ("out_port=LOCAL", false, 1),
        ("table=1", false, 0),
        ("table=0,arp", false, 1),
    ] {
        let mut table = table(&flows);
        let filter = openflow::parse_flow_match(selection, &PortNumbers, strict).unwrap();
        assert_eq!(table.delete(&filter, strict).len(), removed, "{selection}");
        assert_eq!(table.len(), 5 - removed);
        assert_eq!(table.iter().count(), 5 - removed);
    }
}

#[test]
fn timeouts() {
    let mut table =
        table(&["priority=1,idle_timeout=10,actions=1", "priority=2,hard_timeout=20,actions=1", "actions=1"]);
    let expired = |table: &mut RuleTable, now_ms| -> Vec<u16> {
        table.expire(now_ms).iter().map(|rule| rule.priority).collect()
    };
    assert!(expired(&mut table, 9_999).is_empty());
    let used = table.iter().find(|rule| rule.priority == 1).unwrap();
    used.stats.credit(1, 60, 8_000);
    assert!(expired(&mut table, 17_999).is_empty());
    assert_eq!(expired(&mut table, 18_000), [1]);
    assert_eq!(expired(&mut table, 20_000), [2]);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_rule_for_another_port_costs_only_the_port() {
    let table = table(&[
        "priority=9,in_port=1,tcp,nw_src=10.0.0.0/8,tp_dst=80,actions=drop",
        "priority=0,actions=normal",
    ]);
    let (found, looked) = find(&table, "in_port=2,tcp,nw_src=10.0.0.1,tp_dst=80");
    assert_eq!(found, Some(0));
    assert_eq!(openflow::format_match(&looked, &PortNumbers), "in_port=2");
    let (found, looked) = find(&table, "in_port=1,arp,arp_spa=10.0.0.1");
    assert_eq!(found, Some(0));
    assert_eq!(openflow::format_match(&looked, &PortNumbers), "arp,in_port=1");
}

#[test]
fn an_address_costs_only_the_bits_that_tell() {
    let table = table(&[
        "priority=9,ip,nw_src=10.1.0.0/16,actions=drop",
        "priority=8,ip,nw_src=10.2.0.0/16,actions=drop",
        "priority=0,actions=normal",
    ]);
    let looked = |text| find(&table, text).1.bits(Field::IpSrc);
    assert_eq!(looked("ip,nw_src=192.168.0.1"), 0x8000_0000);
    assert_eq!(looked("ip,nw_src=10.128.0.1"), 0xff80_0000);
    assert_eq!(looked("ip,nw_src=10.2.0.1"), 0xffff_0000);
    assert_eq!(looked("arp,arp_spa=10.1.0.1"), 0);
}

#[test]
fn lower_priorities_are_not_looked_at() {
    let table = table(&["priority=9,in_port=1,actions=2", "priority=8,tcp,tp_dst=80,actions=drop"]);
    let (found, looked) = find(&table, "in_port=1,tcp,tp_dst=80");
    assert_eq!(found, Some(9));
    assert_eq!(openflow::format_match(&looked, &PortNumbers), "in_port=1");
}

/// Fields from every stage, with masks of each sort.
const FIELDS: [Field; 14] = [
    Field::InPort,
    Field::VlanTci,
    Field::VlanTpid,
    Field::EthSrc,
    Field::EthDst,
    Field::EthType,
    Field::IpSrc,
    Field::Ipv6Dst,
    Field::IpProto,
    Field::IpFrag,
    Field::TcpSrc,
    Field::TcpDst,
    Field::TcpFlags,
    Field::ArpSha,
];

/// A value with few distinct beginnings and ends, so that rules and packets often meet.
fn value(field: Field) -> impl Strategy<Value = u128> {
    let bits = field.spec().bits;
    (0..4u128, 0..3u128).prop_map(move |(high, low)| ((high << (bits - 2)) | low) & field.ones())
}

fn mask(field: Field) -> impl Strategy<Value = u128> {
    let bits = field.spec().bits;
    prop_oneof![
        4 => Just(0),
        2 => Just(field.ones()),
        1 => (0..bits).prop_map(move |zeros| field.ones() >> zeros << zeros),
        1 => any::<u128>().prop_map(move |mask| mask & field.ones()),
    ]
}

fn any_match() -> impl Strategy<Value = FlowMatch> {
    FIELDS.iter().map(|field| (value(*field), mask(*field))).collect::<Vec<_>>().prop_map(|parts| {
        let mut flow_match = FlowMatch::any();
        for (field, (value, mask)) in FIELDS.iter().zip(parts) {
            flow_match.set_masked(*field, value, mask);
        }
        flow_match
    })
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    FIELDS.iter().map(|field| value(*field)).collect::<Vec<_>>().prop_map(|values| {
        let mut key = FlowKey::default();
        for (field, value) in FIELDS.iter().zip(values) {
            field.set(&mut key, value);
        }
        key
    })
}

/// A rule often uses one of few masks, so that subtables hold several rules.
fn any_rules() -> impl Strategy<Value = Vec<(u16, FlowMatch)>> {
    let masks = prop::collection::vec(any_match(), 1..6);
    masks.prop_flat_map(|masks| {
        let rule = (0..6u16, any_key(), any_match(), prop::sample::select(masks), 0..4u8);
        let rules = rule.prop_map(|(priority, key, own, shared, choice)| {
            let flow_match = if choice == 0 { own } else { FlowMatch::new(key, *shared.mask()) };
            (priority, flow_match)
        });
        prop::collection::vec(rules, 0..40)
    })
}

/// The key, changed at random wherever the mask does not look.
fn elsewhere(key: &FlowKey, mask: &FlowMask, noise: &FlowKey) -> FlowKey {
    let mut other = *key;
    for ((word, noise), bits) in other.words_mut().iter_mut().zip(noise.words()).zip(mask.words()) {
        *word = (*word & bits) | (noise & !bits);
    }
    other
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// The classifier agrees with a scan of all rules, and its mask says enough: whatever else changes in the packet,
    /// the same rule is found by the same bits. The rules come and go meanwhile.
    #[test]
    fn agrees_with_a_scan_and_its_masks_are_sound(
        rules in any_rules(), keys in prop::collection::vec((any_key(), any_key(), any::<[u64; 24]>()), 1..20),
        removed in any::<prop::sample::Index>(),
    ) {
        let mut table = RuleTable::new();
        let mut scan: Vec<(u16, FlowMatch)> = Vec::new();
        for (priority, flow_match) in &rules {
            let replaced = table.add(Rule::new(*priority, *flow_match, Vec::new(), 0));
            prop_assert_eq!(replaced.is_some(), scan.contains(&(*priority, *flow_match)));
            if replaced.is_none() {
                scan.push((*priority, *flow_match));
            }
        }
        for round in 0..2 {
            prop_assert_eq!(table.len(), scan.len());
            for (key, noise, more_noise) in &keys {
                let mut mask = FlowMask::default();
                let found = table.lookup(key, &mut mask);
                let best = scan.iter().filter(|(_, m)| m.matches(key)).map(|(priority, _)| *priority).max();
                prop_assert_eq!(found.map(|rule| rule.priority), best, "round {}", round);
                prop_assert!(found.is_none_or(|rule| rule.flow_match.matches(key)));

                let mut random = FlowKey::default();
                random.words_mut().copy_from_slice(more_noise);
                for noise in [noise, &random] {
                    let mut again = FlowMask::default();
                    let other = table.lookup(&elsewhere(key, &mask, noise), &mut again);
                    prop_assert_eq!(found.map(Arc::as_ptr), other.map(Arc::as_ptr));
                    prop_assert!(again == mask);
                }
            }
            if !scan.is_empty() {
                let (priority, flow_match) = scan.remove(removed.index(scan.len()));
                let filter = RuleFilter { flow_match, priority: Some(priority), ..RuleFilter::default() };
                prop_assert_eq!(table.delete(&filter, true).len(), 1);
            }
        }
        // Taking everything away leaves nothing behind.
        prop_assert_eq!(table.delete(&RuleFilter::default(), false).len(), scan.len());
        prop_assert!(table.is_empty() && table.masks() == 0);
    }
}
