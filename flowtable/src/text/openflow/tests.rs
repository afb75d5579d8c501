//! `ovs-ofctl` flow text, both ways.

use proptest::prelude::*;

use super::*;
use crate::{
    actions::SetField,
    key::{FIELDS, FlowMatch},
    rules::{DEFAULT_PRIORITY, Rule, RuleAction},
    text::PortNumbers,
};

/// Two ports with names, one of which needs quotes.
struct Named;

impl PortNames for Named {
    fn name(&self, port: PortNo) -> Option<String> {
        match port.0 {
            1 => Some("eth0".to_owned()),
            2 => Some("vm-1".to_owned()),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<PortNo> {
        match name {
            "eth0" => Some(PortNo(1)),
            "vm-1" => Some(PortNo(2)),
            _ => None,
        }
    }
}

fn parsed(text: &str) -> FlowMatch {
    parse_match(text, &Named).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Text and what it prints as.
#[test]
fn matches_print_as_ovs_ofctl_does() {
    for (text, printed) in [
        ("", ""),
        ("in_port=1", "in_port=eth0"),
        ("in_port=vm-1", "in_port=\"vm-1\""),
        ("in_port=\"vm-1\"", "in_port=\"vm-1\""),
        ("in_port=7,ip", "ip,in_port=7"),
        ("in_port=LOCAL", "in_port=LOCAL"),
        ("in_port=65534", "in_port=LOCAL"),
        ("ip,nw_src=10.1.2.3/8", "ip,nw_src=10.0.0.0/8"),
        ("ip nw_src=10.0.0.1/255.0.0.255", "ip,nw_src=10.0.0.1/255.0.0.255"),
        ("dl_type=0x0800,nw_proto=6,tp_dst=80", "tcp,tp_dst=80"),
        ("tp_dst=80,tcp", "tcp,tp_dst=80"),
        ("tcp,tcp_dst=0x1f90/0xff00", "tcp,tp_dst=0x1f00/0xff00"),
        ("udp6,udp_src=53", "udp6,tp_src=53"),
        ("sctp,sctp_dst=5", "sctp,tp_dst=5"),
        ("dl_vlan=5", "dl_vlan=5"),
        ("vlan_vid=5", "dl_vlan=5"),
        ("vlan_vid=0x1005/0x1fff", "dl_vlan=5"),
        ("dl_vlan_pcp=3,dl_vlan=5", "dl_vlan=5,dl_vlan_pcp=3"),
        ("vlan_tci=0x1000/0x1000", "vlan_tci=0x1000/0x1000"),
        ("vlan_tci=0", "vlan_tci=0x0000"),
        ("vlan_vid=0", "vlan_tci=0x0000/0x1fff"),
        ("dl_vlan=0", "dl_vlan=0"),
        ("dl_vlan=0xffff", "vlan_tci=0x0000"),
        (
            "dl_src=02:00:00:00:00:01,eth_dst=01:00:00:00:00:00/01:00:00:00:00:00",
            "dl_src=02:00:00:00:00:01,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
        ),
        ("arp,arp_tpa=10.0.0.1,arp_op=2", "arp,arp_tpa=10.0.0.1,arp_op=2"),
        ("arp,nw_dst=10.0.0.1,nw_proto=2", "arp,arp_tpa=10.0.0.1,arp_op=2"),
        ("tcp,tcp_flags=+syn-ack", "tcp,tcp_flags=+syn-ack"),
        ("tcp,tcp_flags=+ack-syn", "tcp,tcp_flags=-syn+ack"),
        ("tcp,tcp_flags=0", "tcp,tcp_flags=0"),
        ("tcp,tcp_flags=syn|ack", "tcp,tcp_flags=syn|ack"),
        ("tcp,tcp_flags=0x2/0x12", "tcp,tcp_flags=+syn-ack"),
        ("ipv6,ipv6_dst=fe80::1/64", "ipv6,ipv6_dst=fe80::/64"),
        ("ipv6,ipv6_label=3/7", "ipv6,ipv6_label=0x00003/0x00007"),
        ("icmp,icmp_type=8", "icmp,icmp_type=8"),
        ("icmp6,icmp_type=135,nd_target=fe80::2", "icmp6,icmp_type=135,nd_target=fe80::2"),
        ("icmp6,icmpv6_type=136,nd_tll=02:00:00:00:00:01", "icmp6,icmp_type=136,nd_tll=02:00:00:00:00:01"),
        ("ip,nw_frag=no", "ip,nw_frag=no"),
        ("ip,nw_frag=not_later", "ip,nw_frag=not_later"),
        ("ip,nw_tos=32,nw_ecn=1,nw_ttl=64", "ip,nw_tos=32,nw_ecn=1,nw_ttl=64"),
        ("ip,ip_dscp=8", "ip,nw_tos=32"),
        ("ip,nw_proto=47", "ip,nw_proto=47"),
        ("dl_type=0x88cc", "dl_type=0x88cc"),
    ] {
        let flow_match = parsed(text);
        assert_eq!(format_match(&flow_match, &Named), printed, "{text}");
        assert_eq!(parsed(printed), flow_match, "{printed}");
    }
}

#[test]
fn wrong_matches_say_what_would_be_right() {
    for (text, token, hint) in [
        ("tp_dst=80", "tp_dst=80", "add tcp, udp"),
        ("ip,tcp_dst=80", "tcp_dst=80", "add tcp"),
        ("nw_src=10.0.0.1", "nw_src=10.0.0.1", "add ip"),
        ("ip,ipv6_src=::1", "ipv6_src=::1", "add ipv6"),
        ("icmp_type=8", "icmp_type=8", "add icmp"),
        ("arp_op=1", "arp_op=1", "add arp"),
        ("icmp6,nd_target=::1", "nd_target=::1", "icmp_type=135"),
        ("ip,nw_src=10.0.0", "nw_src=10.0.0", "10.0.0.1"),
        ("ip,nw_src=10.0.0.0/33", "nw_src=10.0.0.0/33", "0 to 32"),
        ("tcp,tp_dst=65536", "tp_dst=65536", "0 to 65535"),
        ("tcp,udp", "udp", "contradicts"),
        ("dl_vlan=4096", "dl_vlan=4096", "4095"),
        ("in_port=nosuch", "nosuch", "port of the bridge"),
        ("nw_srt=1", "nw_srt=1", "nw_src"),
        ("bogus", "bogus", "field=value"),
        ("tp_dst", "tp_dst", "without a value"),
        ("ip,nw_proto=6/1", "nw_proto=6/1", "mask"),
        ("ip,nw_tos=3", "nw_tos=3", "nw_ecn"),
        ("tcp,tcp_flags=+syn-foo", "tcp_flags=+syn-foo", "fin syn"),
        ("ip,nw_frag=some", "nw_frag=some", "not_later"),
        ("icmp,icmp_type=256", "icmp_type=256", "255"),
        ("dl_src=02:00:00:00:01", "dl_src=02:00:00:00:01", "02:00:00:00:00:01"),
    ] {
        let error = parse_match(text, &Named).expect_err(text);
        assert_eq!(error.token, token, "{text}");
        assert!(error.to_string().contains(hint), "{text}: {error}");
    }
}

#[test]
fn actions_print_as_ovs_ofctl_does() {
    let flow_match = parsed("tcp,dl_vlan=5");
    for (text, printed) in [
        ("drop", "drop"),
        ("", "drop"),
        ("output:1", "output:eth0"),
        ("1", "output:eth0"),
        ("vm-1", "output:\"vm-1\""),
        ("\"vm-1\",9", "output:\"vm-1\",output:9"),
        ("normal", "NORMAL"),
        ("output:NORMAL", "NORMAL"),
        ("flood,all,in_port,local", "FLOOD,ALL,IN_PORT,LOCAL"),
        ("output(port=3,max_len=100)", "output(port=3,max_len=100)"),
        ("mod_dl_src:02:00:00:00:00:01", "mod_dl_src:02:00:00:00:00:01"),
        ("mod_nw_src:10.0.0.1 mod_nw_dst:10.0.0.2", "mod_nw_src:10.0.0.1,mod_nw_dst:10.0.0.2"),
        ("mod_nw_tos:32,mod_tp_src:80,mod_tp_dst:81", "mod_nw_tos:32,mod_tp_src:80,mod_tp_dst:81"),
        ("mod_vlan_vid:7,mod_vlan_pcp:3,strip_vlan", "mod_vlan_vid:7,mod_vlan_pcp:3,strip_vlan"),
        ("pop_vlan,push_vlan:0x8100,2", "strip_vlan,push_vlan:0x8100,output:\"vm-1\""),
        ("set_field:10.0.0.1->ip_src", "mod_nw_src:10.0.0.1"),
        ("set_field:10.0.0.0/8->nw_src", "set_field:10.0.0.0/8->nw_src"),
        ("set_field:80->tcp_dst", "mod_tp_dst:80"),
        ("set_field:5->vlan_vid", "set_field:4101->vlan_vid"),
        ("set_field:4101->vlan_vid", "set_field:4101->vlan_vid"),
        ("dec_ttl,local", "dec_ttl,LOCAL"),
    ] {
        let actions = parse_actions(text, &flow_match, &Named).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(format_actions(&actions, &Named), printed, "{text}");
        assert_eq!(parse_actions(printed, &flow_match, &Named).unwrap(), actions);
    }
    let udp6 = parse_actions("mod_tp_dst:5", &parsed("udp6"), &Named).unwrap();
    assert_eq!(udp6, [RuleAction::set(SetField::exact(Field::UdpDst, 5))]);
}

#[test]
fn wrong_actions_say_what_would_be_right() {
    for (flow, actions, hint) in [
        ("", "drop,1", "not alone"),
        ("", "mod_tp_dst:80", "add tcp"),
        ("", "dec_ttl", "add ip"),
        ("", "set_field:5->vlan_vid", "push_vlan"),
        ("dl_vlan=5", "strip_vlan,set_field:5->vlan_vid", "push_vlan"),
        ("", "mod_nw_src:10.0.0.1", "add ip"),
        ("", "push_vlan:0x0800", "0x8100"),
        ("", "resubmit(,1)", "not supported"),
        ("", "controller", "not supported"),
        ("", "output:nosuch", "port of the bridge"),
        ("", "fly", "neither"),
        ("", "output(port=1,max_len=3)", "14"),
        ("", "output:0", "1 to 65279"),
        ("ip", "set_field:6->nw_proto", "cannot be set"),
        ("", "set_field:6", "->"),
    ] {
        let error = parse_actions(actions, &parsed(flow), &Named).expect_err(actions);
        assert!(error.to_string().contains(hint), "{actions}: {error}");
    }
}

#[test]
fn whole_flows() {
    let text = "table=0,priority=100,cookie=0x1,idle_timeout=10,hard_timeout=30,in_port=1,ip,nw_src=10.0.0.0/8, \
                actions=mod_vlan_vid:5,output:2";
    let rule = parse_flow(text, &PortNumbers, 5000).unwrap();
    assert_eq!((rule.table_id, rule.priority, rule.cookie, rule.created_ms), (0, 100, 1, 5000));
    assert_eq!((rule.idle_timeout_s, rule.hard_timeout_s), (10, 30));
    let printed = "cookie=0x1, idle_timeout=10, hard_timeout=30, \
                   priority=100,ip,in_port=1,nw_src=10.0.0.0/8 actions=mod_vlan_vid:5,output:2";
    assert_eq!(format_rule(&rule, &PortNumbers), printed);
    assert_eq!(parse_flow(printed, &PortNumbers, 0).unwrap(), rule);

    rule.stats.credit(3, 180, 7500);
    let dump = format_rule_with_stats(&rule, &PortNumbers, 10_250);
    assert_eq!(
        dump,
        "cookie=0x1, duration=5.250s, table=0, n_packets=3, n_bytes=180, idle_timeout=10, hard_timeout=30, \
         idle_age=2, priority=100,ip,in_port=1,nw_src=10.0.0.0/8 actions=mod_vlan_vid:5,output:2"
    );
    assert_eq!(parse_flow(&dump, &PortNumbers, 0).unwrap(), rule);

    let elsewhere = parse_flow("table=1,actions=drop", &PortNumbers, 0).unwrap_err();
    assert!(elsewhere.to_string().starts_with("table=1: "), "{elsewhere}");
    assert!(parse_flow("table=255,actions=drop", &PortNumbers, 0).is_err());

    let default = Rule::new(DEFAULT_PRIORITY, FlowMatch::any(), vec![RuleAction::Normal], 0);
    assert_eq!(format_rule(&default, &PortNumbers), "actions=NORMAL");
    assert_eq!(parse_flow("actions=normal", &PortNumbers, 0).unwrap(), default);
}

#[test]
fn selections() {
    let filter = parse_flow_match("table=2,cookie=0x10/0xf0,out_port=3,ip", &PortNumbers, false).unwrap();
    assert_eq!((filter.table_id, filter.cookie, filter.cookie_mask), (Some(2), 0x10, 0xf0));
    assert_eq!(filter.out_port, Some(3));
    assert_eq!(parse_flow_match("cookie=1/-1", &PortNumbers, false).unwrap().cookie_mask, u64::MAX);
    assert_eq!(parse_flow_match("", &PortNumbers, false).unwrap(), crate::rules::RuleFilter::default());
    assert!(parse_flow_match("priority=5", &PortNumbers, false).is_err());
    assert_eq!(parse_flow_match("priority=5", &PortNumbers, true).unwrap().priority, Some(5));
    assert!(parse_flow_match("actions=drop", &PortNumbers, false).is_err());
    assert!(parse_flow("ip", &PortNumbers, 0).is_err());
    assert!(parse_flow("out_port=1,actions=drop", &PortNumbers, 0).is_err());
    assert!(parse_flow("send_flow_rem,actions=drop", &PortNumbers, 0).is_err());
}

/// A match with random conditions on fields that its kind of packet has.
fn any_match() -> impl Strategy<Value = FlowMatch> {
    let field =
        (any::<u8>(), any::<u128>(), prop_oneof![Just(u128::MAX), any::<u128>()], 0..129u32, any::<bool>());
    let fields = prop::collection::vec(field, FIELDS.len());
    (prop::sample::select(&PROTOCOLS[..]), fields).prop_map(|((_, eth_type, proto), choices)| {
        let mut flow_match = FlowMatch::any();
        for (spec, (keep, value, mask, prefix, by_prefix)) in FIELDS.iter().zip(choices) {
            let field = spec.field;
            let (value, mask) = match field {
                Field::EthType if keep % 8 != 0 => (u128::from(eth_type), u128::MAX),
                Field::IpProto if proto.is_some() => (proto.unwrap().into(), u128::MAX),
                Field::Icmpv6Type if keep % 2 == 0 => (135 + value % 2, u128::MAX),
                Field::IcmpType | Field::IcmpCode | Field::Icmpv6Type | Field::Icmpv6Code => {
                    (value % 256, mask)
                }
                Field::InPort => (value % 65536, mask),
                // These are said through others.
                Field::VlanVid | Field::VlanPcp | Field::IpTos | Field::Ipv6Tclass | Field::Ipv6Hlimit => {
                    continue;
                }
                _ if keep % 3 == 0 => (value, mask),
                _ => continue,
            };
            let mask = match spec.maskable {
                false => field.ones(),
                true if by_prefix => field.ones() & !field.ones().checked_shr(prefix).unwrap_or(0),
                true => mask & field.ones(),
            };
            if PacketKind::of(&flow_match).meets(spec.prerequisite) {
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
    fn any_text_gets_an_answer(text in ".{0,60}", tail in "[a-z_]{0,8}[=:(][0-9a-fx:./+|>-]{0,20}\\)?") {
        for text in [text.clone(), tail.clone(), format!("ip,tcp,{tail}"), format!("tcp,actions={tail},{text}")] {
            let _ = parse_match(&text, &Named);
            let _ = parse_actions(&text, &FlowMatch::any(), &Named);
            let _ = parse_flow(&text, &Named, 0);
            let _ = parse_flow_match(&text, &Named, true);
        }
    }
}

/// Fields that can be set in a packet of `tcp,dl_vlan=5` or `icmp6,icmp_type=135` and come back by the same name.
fn settable(ipv6: bool) -> Vec<Field> {
    use Field::*;
    let mut fields = vec![EthSrc, EthDst, VlanTci, VlanPcp, IpDscp, IpEcn, IpTtl];
    fields.extend(if ipv6 {
        [Ipv6Src, Ipv6Dst, Ipv6Label, NdTarget, Icmpv6Code]
    } else {
        [IpSrc, IpDst, IpTos, TcpSrc, TcpDst]
    });
    fields
}

fn any_action(ipv6: bool) -> impl Strategy<Value = RuleAction> {
    let set = (prop::sample::select(settable(ipv6)), any::<u128>(), any::<u128>(), any::<bool>());
    let set = set.prop_map(|(field, value, mask, whole)| {
        let mask = if whole { field.ones() } else { mask | 1 };
        match field {
            Field::VlanTci => SetField::masked(field, value | 0x1000, mask),
            Field::Icmpv6Code => SetField::masked(field, value & 0xff, mask),
            _ => SetField::masked(field, value, mask),
        }
    });
    let port = || prop_oneof![1..4u16, 1..=0xfeffu16];
    prop_oneof![
        4 => set.prop_map(RuleAction::set),
        1 => port().prop_map(|port| RuleAction::Output { port, max_len: None }),
        1 => (port(), 14..2000u32).prop_map(|(port, len)| RuleAction::Output { port, max_len: Some(len) }),
        1 => (0..4096u16).prop_map(RuleAction::SetVlanVid),
        1 => (0..8u8).prop_map(RuleAction::SetVlanPcp),
        1 => prop_oneof![Just(0x8100), Just(0x88a8)].prop_map(RuleAction::PushVlan),
        1 => prop::sample::select(vec![
            RuleAction::Normal,
            RuleAction::Flood,
            RuleAction::InPort,
            RuleAction::All,
            RuleAction::Local,
            RuleAction::DecTtl,
        ]),
    ]
}

proptest! {
    #[test]
    fn printed_actions_parse_back(
        (ipv6, actions) in any::<bool>().prop_flat_map(|v6| (Just(v6), prop::collection::vec(any_action(v6), 0..6))),
    ) {
        let flow_match = parsed(if ipv6 { "icmp6,icmp_type=135,dl_vlan=5" } else { "tcp,dl_vlan=5" });
        for ports in [&PortNumbers as &dyn PortNames, &Named] {
            let text = format_actions(&actions, ports);
            let again = parse_actions(&text, &flow_match, ports);
            let again = again.map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert_eq!(&again, &actions, "{}", text);
        }
    }
}
