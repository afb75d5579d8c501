//! Invariants of translation over random bridges, rules, learned addresses and packets.

use flowtable::actions::SetField;
use flowtable::key::{FIELDS, Field, FlowKey, FlowMask, FlowMatch, KEY_WORDS, VLAN_PRESENT};
use flowtable::rules::{Rule, RuleAction};
use proptest::prelude::*;
use proptest::sample::select;

use super::{bridge, naive};
use crate::bridge::{BridgeConfig, Bridges, Learn, MacKey, VlanConfig, VlanMode};
use crate::translate::translate;

const PORTS: u16 = 5;

fn mac() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![
        6 => (1u8..5).prop_map(|last| [2, 0, 0, 0, 0, last]),
        1 => Just([0xff; 6]),
        1 => Just([1, 0x80, 0xc2, 0, 0, 3]),
        1 => Just([0; 6]),
    ]
}

fn vid() -> impl Strategy<Value = u16> {
    select(vec![0u16, 5, 5, 6, 4095])
}

fn tag() -> impl Strategy<Value = (u16, u16)> {
    let tpid = select(vec![0x8100u16, 0x88a8]);
    (tpid, vid(), select(vec![0u16, 0x6000])).prop_map(|(tpid, vid, pcp)| (tpid, vid | pcp))
}

fn packet() -> impl Strategy<Value = FlowKey> {
    let l2 = (1u32..u32::from(PORTS) + 2, mac(), mac(), prop::collection::vec(tag(), 0..3));
    let l3 = (
        select(vec![0x0800u16, 0x86dd, 0x0806, 0x1234]),
        select(vec![1u8, 6, 17, 58, 132]),
        select(vec![0u8, 1, 2, 64]),
        select(vec![0u8, 0, 1, 3]),
        any::<u8>(),
    );
    let l4 = (select(vec![80u16, 135, 136, 443]), 0u16..3, 0u8..4, 0u8..4);
    (l2, l3, l4).prop_map(|((port, src, dst, tags), (eth_type, proto, ttl, frag, tos), l4)| {
        let mut key = FlowKey { in_port: 10 + port, eth_src: src, eth_dst: dst, ..FlowKey::default() };
        key.eth_type = eth_type.into();
        if let Some((tpid, tci)) = tags.first() {
            (key.vlan_tpid, key.vlan_tci) = ((*tpid).into(), (tci | VLAN_PRESENT).into());
        }
        if let Some((tpid, tci)) = tags.get(1) {
            (key.vlan2_tpid, key.vlan2_tci) = ((*tpid).into(), (tci | VLAN_PRESENT).into());
        }
        let (tp_src, tp_dst, nw_src, nw_dst) = l4;
        if eth_type != 0x1234 {
            (key.nw_proto, key.nw_src[3], key.nw_dst[3]) = (proto, nw_src, nw_dst);
        }
        if matches!(eth_type, 0x0800 | 0x86dd) {
            (key.nw_ttl, key.nw_frag, key.nw_tos) = (ttl, frag, tos);
            if frag & 2 == 0 {
                (key.tp_src, key.tp_dst) = (tp_src.into(), tp_dst.into());
            }
        }
        if eth_type == 0x86dd {
            key.ipv6_label = u32::from(tos).into();
        }
        key
    })
}

/// A match on a few fields of some packet, parts of them only.
fn flow_match() -> impl Strategy<Value = FlowMatch> {
    let bits = prop_oneof![3 => Just(u128::MAX), 1 => any::<u128>()];
    let fields = prop::collection::vec((select(FIELDS.to_vec()), bits), 0..3);
    (packet(), fields).prop_map(|(mut key, fields)| {
        key.in_port -= 10;
        let mut mask = FlowMask::WILDCARD;
        for (spec, bits) in fields {
            let bits = if spec.maskable { bits } else { u128::MAX };
            mask.add_bits(spec.field, bits & spec.field.ones());
        }
        FlowMatch::new(key, mask)
    })
}

fn set_field() -> impl Strategy<Value = RuleAction> {
    // A whole TCI without the "present" bit takes the tag away; the examples have that.
    let fields = FIELDS.iter().map(|spec| spec.field).filter(|field| *field != Field::VlanTci);
    let bits = prop_oneof![Just(u128::MAX), Just(1u128), any::<u128>()];
    (select(fields.collect::<Vec<_>>()), any::<u128>(), bits)
        .prop_map(|(field, value, bits)| RuleAction::set(SetField::masked(field, value & 3, bits)))
}

fn rule_action() -> impl Strategy<Value = RuleAction> {
    let port = 1u16..PORTS + 2;
    prop_oneof![
        4 => (port, prop::option::of(60u32..64)).prop_map(|(port, max_len)| RuleAction::Output { port, max_len }),
        3 => Just(RuleAction::Normal),
        1 => Just(RuleAction::Flood),
        1 => Just(RuleAction::All),
        1 => Just(RuleAction::InPort),
        1 => Just(RuleAction::Local),
        4 => set_field(),
        1 => select(vec![0x8100u16, 0x88a8]).prop_map(RuleAction::PushVlan),
        2 => Just(RuleAction::PopVlan),
        2 => vid().prop_map(RuleAction::SetVlanVid),
        1 => (0u8..8).prop_map(RuleAction::SetVlanPcp),
        1 => Just(RuleAction::DecTtl),
    ]
}

fn rule() -> impl Strategy<Value = (u16, FlowMatch, Vec<RuleAction>)> {
    (0u16..4, flow_match(), prop::collection::vec(rule_action(), 0..7))
}

fn vlan_config() -> impl Strategy<Value = VlanConfig> {
    let modes = [VlanMode::Access, VlanMode::Trunk, VlanMode::NativeTagged, VlanMode::NativeUntagged];
    let mode = prop::option::of(select(modes.to_vec()));
    let trunks = prop_oneof![Just(vec![]), prop::collection::vec(vid(), 0..3)];
    (mode, prop::option::of(vid()), trunks).prop_map(|(mode, tag, trunks)| VlanConfig { mode, tag, trunks })
}

fn bridges() -> impl Strategy<Value = Bridges> {
    bridges_with(0..5)
}

fn bridges_with(rules: std::ops::Range<usize>) -> impl Strategy<Value = Bridges> {
    let ports = prop::collection::vec((vlan_config(), prop::bool::weighted(0.2)), usize::from(PORTS));
    let rules = prop::collection::vec(rule(), rules);
    let macs = prop::collection::vec((vid(), mac(), 1..PORTS + 1), 0..8);
    let flood_vlans = select(vec![vec![], vec![5u16]]);
    (ports, rules, macs, flood_vlans).prop_map(|(ports, rules, macs, flood_vlans)| {
        let vlans: Vec<_> = ports.iter().map(|port| port.0.clone()).collect();
        let bridges = bridge(&vlans);
        bridges.set_bridge(BridgeConfig { flood_vlans, ..BridgeConfig::new("br") }).unwrap();
        for (number, (_, no_flood)) in ports.iter().enumerate() {
            bridges.set_port_no_flood(&format!("p{}", number + 1), *no_flood).unwrap();
        }
        // Each priority once: which of two rules of one priority wins is nobody's promise.
        let rules = rules.into_iter().zip(1u16..).map(|((priority, flow_match, actions), unique)| {
            Rule::new(priority * 8 + unique, flow_match, actions, 0)
        });
        bridges.add_rules("br", rules.collect()).unwrap();
        let id = bridges.read().bridge_named("br").unwrap().id;
        for (vlan, mac, port) in macs {
            bridges.learn(&Learn { bridge: id, key: MacKey { vlan, mac }, port }, bridges.epoch(), 0);
        }
        bridges
    })
}

fn noise() -> impl Strategy<Value = FlowKey> {
    prop::collection::vec(any::<u64>(), KEY_WORDS).prop_map(|words| {
        let mut key = FlowKey::default();
        key.words_mut().copy_from_slice(&words);
        key
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever differs only in bits outside the mask is treated alike, and the translation says so again.
    #[test]
    fn bits_outside_the_mask_do_not_matter(bridges in bridges(), key in packet(), noise in noise()) {
        let first = translate(&bridges, &key);
        let mut other = first.mask.apply(&key);
        for ((word, noise), mask) in other.words_mut().iter_mut().zip(noise.words()).zip(first.mask.words()) {
            *word |= noise & !mask;
        }
        for key in [other, first.mask.apply(&key)] {
            let second = translate(&bridges, &key);
            prop_assert_eq!(&second.actions, &first.actions);
            prop_assert!(second.mask == first.mask);
            prop_assert_eq!(second.drop_reason, first.drop_reason);
            prop_assert_eq!(&second.learns, &first.learns);
            prop_assert_eq!(&second.lookups, &first.lookups);
        }
    }

    /// The datapath actions send what the rule means, as often as it means it.
    #[test]
    fn actions_do_what_the_rule_says(bridges in bridges(), key in packet()) {
        let translation = translate(&bridges, &key);
        let by_text = |sent: Vec<naive::Sent>| {
            let mut texts: Vec<String> = sent.iter().map(|sent| format!("{sent:?}")).collect();
            texts.sort();
            texts
        };
        let sent = by_text(naive::execute(&translation.actions, &key));
        prop_assert_eq!(sent, by_text(naive::interpret(&bridges.read(), &key)));
    }

    /// A packet's own sender being learned does not change its fate.
    #[test]
    fn learning_the_sender_changes_nothing_for_its_packet(bridges in bridges_with(0..1), key in packet()) {
        let before = translate(&bridges, &key);
        for learn in &before.learns {
            bridges.learn(learn, before.epoch, 0);
        }
        prop_assert_eq!(translate(&bridges, &key).actions, before.actions);
    }
}
