//! Boundary: management. Flow rules and datapath matches are texts that a client of the management socket sends.
//!
//! Property: every text gets an answer, and what was understood can be printed and understood again as the same thing:
//! parse, print, parse gives the same rule (and, in datapath syntax, the same match and actions); printing is stable.

use flowtable::key::PortNo;
use flowtable::text::openflow::{format_rule, parse_flow, parse_flow_match};
use flowtable::text::{PortNames, datapath};

/// Some ports have names, one of them an awkward one.
struct Ports;

const NAMES: [(u32, &str); 3] = [(1, "eth0"), (2, "vm-a.1"), (3, "drop")];

impl PortNames for Ports {
    fn name(&self, port: PortNo) -> Option<String> {
        NAMES.iter().find(|(number, _)| *number == port.0).map(|(_, name)| (*name).to_owned())
    }

    fn number(&self, name: &str) -> Option<PortNo> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(number, _)| PortNo(*number))
    }
}

/// Runs one input: a text, as bytes that should be UTF-8.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(rule) = parse_flow(text, &Ports, 0) {
        let printed = format_rule(&rule, &Ports);
        let again =
            parse_flow(&printed, &Ports, 0).unwrap_or_else(|e| panic!("{text:?} -> {printed:?}: {e}"));
        assert_eq!(again, rule, "{text:?} -> {printed:?}");
        assert_eq!(format_rule(&again, &Ports), printed);
    }
    for strict in [false, true] {
        let _ = parse_flow_match(text, &Ports, strict);
    }
    if let Ok(flow_match) = datapath::parse_match(text, &Ports) {
        let printed = datapath::format_match(&flow_match, &Ports);
        let again = datapath::parse_match(&printed, &Ports)
            .unwrap_or_else(|e| panic!("{text:?} -> {printed:?}: {e}"));
        assert_eq!(again, flow_match, "{text:?} -> {printed:?}");
    }
    if let Ok(actions) = datapath::parse_actions(text, &Ports) {
        let printed = datapath::format_actions(&actions, &Ports);
        let again = datapath::parse_actions(&printed, &Ports)
            .unwrap_or_else(|e| panic!("{text:?} -> {printed:?}: {e}"));
        assert_eq!(again, actions, "{text:?} -> {printed:?}");
    }
}

/// Texts with every keyword.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "table=0,priority=100,cookie=0x1,idle_timeout=10,hard_timeout=30,in_port=1,tcp,nw_src=10.0.0.0/8,tp_dst=80,\
         tcp_flags=+syn-ack,actions=mod_vlan_vid:5,output:2",
        "udp6,ipv6_src=fe80::/64,ipv6_label=0x12345,tp_src=53,nw_tos=32,nw_ecn=1,nw_ttl=64,actions=dec_ttl,mod_tp_dst:5,NORMAL",
        "arp,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,arp_sha=02:00:00:00:00:01,arp_tha=00:00:00:00:00:00,actions=flood",
        "icmp6,icmp_type=135,icmp_code=0,nd_target=fe80::1,nd_sll=02:00:00:00:00:01,actions=in_port",
        "dl_vlan=5,dl_vlan_pcp=3,dl_src=02:00:00:00:00:00/ff:00:00:00:00:00,actions=strip_vlan,\"drop\"",
        "vlan_tci=0x1005/0x1fff,dl_type=0x88cc,actions=push_vlan:0x88a8,set_field:4101->vlan_vid,LOCAL",
        "ip,nw_frag=later,nw_proto=132,actions=mod_nw_src:1.2.3.4,mod_nw_dst:4.3.2.1,mod_nw_tos:4,output(port=1,max_len=100)",
        "sctp,tp_src=7/0xff,actions=set_field:02:00:00:00:00:05->eth_dst,set_field:9->sctp_dst,all",
        "in_port=\"vm-a.1\",actions=drop",
        "recirc_id(0),in_port(2),eth(src=02:00:00:00:00:02,dst=02:00:00:00:00:01),eth_type(0x0800),\
         ipv4(src=10.0.0.0/255.0.0.0,dst=10.0.0.2,proto=6,tos=0/0x3,ttl=64,frag=no),tcp(src=1,dst=80),tcp_flags(0x2/0xfff)",
        "in_port(eth0),eth_type(0x8100),vlan(vid=5,pcp=1),encap(eth_type(0x86dd),ipv6(src=fe80::1,dst=::,label=0x1/0xff,\
         proto=58,tclass=0,hlimit=255,frag=no),icmpv6(type=135,code=0),nd(target=fe80::2,sll=02:00:00:00:00:01))",
        "eth_type(0x0806),arp(sip=10.0.0.1,tip=10.0.0.2,op=1,sha=02:00:00:00:00:01,tha=00:00:00:00:00:00)",
        "vlan(any),eth_type(0x0800),ipv4(proto=17),udp(src=1/0xff)",
        "eth_type(0x88a8),vlan(vid=7),encap(eth_type(0x8100),vlan(vid=5),encap(eth_type(0x0800),ipv4(proto=1),icmp(type=8,code=0)))",
        "push_vlan(vid=5,pcp=3),trunc(100),2,pop_vlan,set(ipv4(src=1.2.3.4,ttl=63)),set(eth(dst=02:00:00:00:00:09)),eth0",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
