//! Datapath-flow text, both ways.

use proptest::prelude::*;

use super::*;
use crate::{
    actions::{Action, SetField},
    key::{FIELDS, FlowMatch, PortNo},
    text::{PortNumbers, packet_kind::PacketKind},
};

struct Named;

impl PortNames for Named {
    fn name(&self, port: PortNo) -> Option<String> {
        (port.0 == 2).then(|| "vm-1".to_owned())
    }

    fn number(&self, name: &str) -> Option<PortNo> {
        (name == "vm-1").then_some(PortNo(2))
    }
}

#[test]
fn matches_in_the_form_of_ovs() {
    for text in [
        "",
        "recirc_id(0),in_port(2),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(frag=no)",
        "recirc_id(0),in_port(2),eth_type(0x0800),\
         ipv4(src=10.0.0.0/255.0.0.0,dst=10.0.0.1,proto=6,tos=0/0xfc,ttl=64,frag=no),tcp(src=80,dst=7936/0xff00),\
         tcp_flags(+syn-ack)",
        "in_port(2),eth_type(0x8100),vlan(vid=5,pcp=0),encap(eth_type(0x0800),ipv4(proto=17,frag=first),udp(src=53))",
        "in_port(2),eth_type(0x88a8),vlan(vid=5,pcp=0),encap(eth_type(0x8100),vlan(vid=6,pcp=1),\
         encap(eth_type(0x86dd),ipv6(src=fe80::/ffff:ffff:ffff:ffff::,label=0x5,proto=58,tclass=0x20,hlimit=64,\
         frag=no),icmpv6(type=135,code=0),nd(target=fe80::1,sll=02:00:00:00:00:01)))",
        "eth_type(0x0806),arp(sip=10.0.0.1,tip=10.0.0.2,op=1,sha=02:00:00:00:00:01,tha=00:00:00:00:00:00)",
        "in_port(2),vlan(any),eth_type(0x0800)",
        "eth(dst=01:00:00:00:00:00/01:00:00:00:00:00)",
        "vlan(vid=5,pcp=0/0x0),encap()",
        "eth_type(0x0800),ipv4(proto=1),icmp(type=8,code=0)",
        "eth_type(0x0800),ipv4(proto=132),sctp(dst=5)",
        "eth_type(0x0800),ipv4(proto=6),tcp_flags(syn|ack)",
    ] {
        let flow_match = parse_match(text, &PortNumbers).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(format_match(&flow_match, &PortNumbers), text);
    }
    let named = parse_match("in_port(vm-1)", &Named).unwrap();
    assert_eq!(named.exact(Field::InPort), Some(2));
    assert_eq!(format_match(&named, &Named), "in_port(\"vm-1\")");
    assert_eq!(parse_match("in_port(\"vm-1\")", &Named).unwrap(), named);
}

#[test]
fn an_ether_type_outside_encap_means_untagged() {
    let untagged = parse_match("eth_type(0x0800)", &PortNumbers).unwrap();
    assert_eq!(untagged.exact(Field::VlanTci), Some(0));
    assert_eq!(parse_match("vlan(any),eth_type(0x0800)", &PortNumbers).unwrap().bits(Field::VlanTci), 0);
    assert_eq!(parse_match("", &PortNumbers).unwrap(), FlowMatch::any());
}

#[test]
fn actions_in_the_form_of_ovs() {
    for text in [
        "drop",
        "2",
        "2,3",
        "push_vlan(vid=5,pcp=0),2",
        "push_vlan(tpid=0x88a8,vid=5,pcp=3),2",
        "pop_vlan,2",
        "set(eth(src=02:00:00:00:00:01)),set(eth(dst=02:00:00:00:00:02)),2",
        "set(ipv4(dst=10.0.0.1)),set(ipv4(src=10.0.0.0/255.0.0.0)),set(ipv4(tos=0x20/0xfc)),set(ipv4(ttl=63)),2",
        "set(ipv6(dst=fe80::1)),set(ipv6(tclass=0x20/0xfc)),set(ipv6(hlimit=63)),set(ipv6(label=0x5)),2",
        "set(tcp(dst=80)),set(udp(src=53)),set(sctp(src=1)),set(icmp(type=0)),set(icmpv6(code=1)),2",
        "set(arp(op=2)),set(arp(sip=10.0.0.1)),set(vlan(vid=7,pcp=1)),set(vlan(vid=7,pcp=0/0x0)),2",
        "trunc(100),2,3",
    ] {
        let actions = parse_actions(text, &PortNumbers).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(format_actions(&actions, &PortNumbers), text);
        assert_eq!(parse_actions(&format!("actions:{text}"), &PortNumbers).unwrap(), actions);
    }
    let both =
        parse_actions("set(eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02)),\"vm-1\"", &Named).unwrap();
    assert_eq!(both.len(), 3);
    let tos = Action::set(SetField::exact(Field::IpDscp, 8));
    assert_eq!(format_actions(&[tos], &Named), "set(ipv4(tos=0x20/0xfc))");
}

#[test]
fn wrong_texts_say_what_would_be_right() {
    for (text, hint) in [
        ("ipv4(src=10.0.0.1)", "eth_type()"),
        ("eth_type(0x0800),tcp(dst=80)", "proto="),
        ("eth_type(0x0800),ipv4(port=1)", "src="),
        ("bogus(1)", "recirc_id"),
        ("in_port=2", "in_port(2)"),
        ("encap(eth_type(0x0800))", "vlan(...)"),
        ("vlan(vid=1),encap(vlan(vid=2),encap(vlan(vid=3)))", "two tags"),
        ("vlan(vid=4096)", "4095"),
        ("in_port(2", "close"),
    ] {
        let error = parse_match(text, &PortNumbers).expect_err(text);
        assert!(error.to_string().contains(hint), "{text}: {error}");
    }
    for (text, hint) in [
        ("", "drop"),
        ("drop,2", "not alone"),
        ("0", "port"),
        ("fly", "trunc"),
        ("push_vlan(pcp=1)", "vid=N"),
        ("push_vlan(tpid=1,vid=5)", "0x8100"),
        ("set(ipv4(proto=6))", "cannot be set"),
        ("set(ipv4())", "field=value"),
        ("set(vlan(vid=5,cfi=0))", "pop_vlan"),
        ("trunc(2)", "14"),
    ] {
        let error = parse_actions(text, &PortNumbers).expect_err(text);
        assert!(error.to_string().contains(hint), "{text}: {error}");
    }
}

#[test]
fn a_flow_line() {
    let flow_match = parse_match("recirc_id(0),in_port(2),eth_type(0x0806)", &PortNumbers).unwrap();
    let stats = FlowStats { packets: 3, bytes: 180, idle_ms: Some(1500) };
    assert_eq!(
        format_flow(&flow_match, &stats, &[Action::Output(PortNo(3))], &PortNumbers),
        "recirc_id(0),in_port(2),eth_type(0x0806), packets:3, bytes:180, used:1.500s, actions:3"
    );
    assert!(
        format_flow(&flow_match, &FlowStats::default(), &[], &Named).ends_with("used:never, actions:drop")
    );
}

fn any_mask(field: Field) -> impl Strategy<Value = u128> {
    let ones = field.ones();
    prop_oneof![Just(ones), any::<u128>().prop_map(move |mask| mask & ones)]
}

/// A match with random conditions on what its kind of packet has.
fn any_match() -> impl Strategy<Value = FlowMatch> {
    let fields: Vec<_> =
        FIELDS.iter().map(|spec| (any::<u8>(), any::<u128>(), any_mask(spec.field))).collect();
    let eth_type = prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x88cc]);
    let proto = prop::sample::select(vec![1u8, 6, 17, 58, 132, 47]);
    (eth_type, proto, 0..3u8, fields).prop_map(|(eth_type, proto, tags, choices)| {
        let mut flow_match = FlowMatch::any();
        for (spec, (keep, value, mask)) in FIELDS.iter().zip(choices) {
            let field = spec.field;
            let (value, mask) = match field {
                Field::EthType if keep % 8 != 0 => (eth_type.into(), 0xffff),
                Field::IpProto if keep % 8 != 0 => (proto.into(), 0xff),
                Field::Icmpv6Type if keep % 2 == 0 => (135 + value % 2, 0xffff),
                Field::VlanTci if tags == 0 && keep % 4 != 0 => (0, 0xffff),
                Field::VlanTci if tags > 0 => (value | 0x1000, mask | 0x1000),
                Field::Vlan2Tci if tags > 1 => (value | 0x1000, mask | 0x1000),
                Field::VlanTpid | Field::Vlan2Tpid if tags == 0 => continue,
                Field::Vlan2Tpid if tags == 1 => continue,
                // An inner tag behind none is implied not to be there.
                Field::Vlan2Tci if tags == 0 => continue,
                Field::VlanVid | Field::VlanPcp | Field::IpDscp | Field::IpEcn => continue,
                Field::IpTos | Field::IpTtl if eth_type == 0x86dd => continue,
                _ if keep % 3 == 0 => (value, mask),
                _ => continue,
            };
            let kind = PacketKind::of(&flow_match);
            let met = match field {
                Field::NdSll | Field::NdTll => kind.meets(Prerequisite::Nd),
                _ => kind.meets(spec.prerequisite),
            };
            if met {
                flow_match.set_masked(field, value, mask);
            }
        }
        flow_match
    })
}

proptest! {
    #[test]
    fn printed_matches_parse_back(flow_match in any_match()) {
        for ports in [&PortNumbers as &dyn PortNames, &Named] {
            let text = format_match(&flow_match, ports);
            let again = parse_match(&text, ports).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert_eq!(&again, &flow_match, "{}", text);
        }
    }

    #[test]
    fn any_text_gets_an_answer(text in ".{0,60}", name in "(vlan|encap|ipv4|set|push_vlan|eth_type)", inner in "[a-z0-9=/x(),:.]{0,30}") {
        for text in [text.clone(), format!("{name}({inner})"), format!("vlan(vid=1),encap({name}({inner}))")] {
            let _ = parse_match(&text, &Named);
            let _ = parse_actions(&text, &Named);
            let _ = parse_actions(&format!("set({text})"), &Named);
        }
    }
}

/// Fields that datapath actions can set, by the names the datapath has for them.
const SETTABLE: [Field; 24] = {
    use Field::*;
    [
        EthSrc, EthDst, IpSrc, IpDst, IpTos, IpTtl, Ipv6Src, Ipv6Dst, Ipv6Label, Ipv6Tclass, Ipv6Hlimit,
        ArpSpa, ArpTpa, ArpOp, ArpSha, TcpSrc, TcpDst, UdpSrc, UdpDst, SctpDst, IcmpType, Icmpv6Code,
        NdTarget, VlanTci,
    ]
};

fn any_action() -> impl Strategy<Value = Action> {
    let set = (prop::sample::select(&SETTABLE[..]), any::<u128>(), any::<u128>(), any::<bool>());
    let set = set.prop_map(|(field, value, mask, whole)| {
        let mask = if whole { field.ones() } else { mask | 1 };
        // A TCI without its "present" bit cannot be set.
        let present = if field == Field::VlanTci { 0x1000 } else { 0 };
        Action::set(SetField::masked(field, value | present, mask | present))
    });
    prop_oneof![
        4 => set,
        2 => (1..100u32).prop_map(|port| Action::Output(PortNo(port))),
        1 => Just(Action::PopVlan),
        1 => (prop_oneof![Just(0x8100), Just(0x88a8)], any::<u16>())
            .prop_map(|(tpid, tci)| Action::PushVlan { tpid, tci: tci & 0xefff }),
        1 => (14..2000u32).prop_map(Action::Truncate),
    ]
}

proptest! {
    #[test]
    fn printed_actions_parse_back(actions in prop::collection::vec(any_action(), 0..6)) {
        for ports in [&PortNumbers as &dyn PortNames, &Named] {
            let text = format_actions(&actions, ports);
            let again = parse_actions(&text, ports).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert_eq!(again.as_slice(), actions.as_slice(), "{}", text);
        }
    }
}
