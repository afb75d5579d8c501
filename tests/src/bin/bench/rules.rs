//! Rules that make the flow table work as a row wants it, and what of them shows in the megaflows.
//!
//! Both switches get the same text: `ovs-ofctl`'s syntax, ports 1 (A) and 2 (B). `vsgen` numbers its flows from 0: flow i
//! of A comes from 10.(i>>16).(i>>8).(i) port 1024 + i mod 50 000 and goes to 11.(i mod K).0.1 port 5000.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Everything from A to B and back.
pub(crate) fn cross_connect() -> String {
    "priority=10,in_port=1,actions=output:2\npriority=10,in_port=2,actions=output:1\n".to_owned()
}

/// A rule of its own for each of A's first `count` flows, so that each needs a megaflow of its own; the way back is plain.
pub(crate) fn five_tuples(count: u32) -> String {
    let mut text = String::from("priority=10,in_port=2,actions=output:1\n");
    for flow in 0..count {
        let [_, a, b, c] = flow.to_be_bytes();
        let port = 1024 + flow % 50_000;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "priority=100,udp,in_port=1,nw_src=10.{a}.{b}.{c},nw_dst=11.0.0.1,tp_src={port},tp_dst=5000,actions=output:2"
        );
    }
    text
}

/// Rules whose traffic to `count` destinations needs a megaflow mask per destination: prefixes of 16 to 32 bits, each of
/// another second octet; beyond these 17, full addresses together with more and more other fields.
pub(crate) fn masks(count: u32) -> String {
    const FURTHER: [&str; 3] = ["ip,nw_src=10.0.0.0/8,", "udp,", "udp,tp_dst=5000,"];
    let mut text = String::from("priority=10,in_port=2,actions=output:1\n");
    for k in 0..count {
        let fields = k.checked_sub(17).and_then(|i| FURTHER.get(i as usize)).copied().unwrap_or("ip,");
        let length = (16 + k).min(32);
        let _ = writeln!(text, "priority=100,in_port=1,{fields}nw_dst=11.{k}.0.1/{length},actions=output:2");
    }
    text
}

/// The plain cross-connect below a rule that no frame matches, but that looks at the 24 bits in which new flows differ:
/// whoever wants to know that it does not match has looked at them, so each new flow needs a megaflow of its own. The mask is
/// no prefix, so no prefix tree answers with fewer bits.
pub(crate) fn new_flows() -> String {
    format!("priority=200,ip,in_port=1,nw_src=0.255.255.255/0.255.255.255,actions=drop\n{}", cross_connect())
}

/// How many different masks lines of a flow dump have, of flows that come in by a port: values are left out, masks
/// compared.
pub(crate) fn distinct_masks<'a>(flows: impl Iterator<Item = &'a str>) -> usize {
    flows.map(shape).collect::<BTreeSet<_>>().len()
}

/// A match without its values: `in_port(1),ipv4(dst=11.3.0.0/255.255.0.0)` becomes `in_port ipv4 dst/255.255.0.0`.
fn shape(flow: &str) -> String {
    // Behind the match stand counters, which differ.
    let end = flow.find(", packets:").or_else(|| flow.find(", actions:")).unwrap_or(flow.len());
    let of_match = flow.get(..end).unwrap_or(flow);
    let field = |word: &str| {
        let (name, value) = word.split_once('=')?;
        let mask = value.split_once('/').map_or("", |(_, mask)| mask);
        Some(format!("{name}/{mask}"))
    };
    of_match.split(['(', ')', ',']).filter_map(|word| field(word.trim())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{distinct_masks, five_tuples, masks, shape};

    #[test]
    fn rules_follow_the_numbers_of_the_generator() {
        let text = five_tuples(70_000);
        assert_eq!(text.lines().count(), 70_001);
        let last = text.lines().last().unwrap();
        // 69 999 = 0x1116f, and 69 999 - 50 000 + 1024 = 21 023.
        assert!(last.contains("nw_src=10.1.17.111,") && last.contains("tp_src=21023,"), "{last}");
    }

    #[test]
    fn each_destination_has_a_mask_of_its_own() {
        let text = masks(20);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let forms = lines.iter().map(|l| {
            let fields: Vec<&str> = l.split(',').filter(|f| !f.starts_with("nw_dst")).collect();
            (fields.join(","), l.split('/').nth_back(0).map(str::to_owned))
        });
        assert_eq!(forms.collect::<std::collections::BTreeSet<_>>().len(), 20);
    }

    #[test]
    fn masks_are_told_apart_and_values_are_not() {
        let flows = [
            "recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth_type(0x0800),ipv4(dst=11.1.0.0/255.254.0.0,frag=no), packets:9, actions:2",
            "recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth_type(0x0800),ipv4(dst=11.5.0.0/255.254.0.0,frag=no), packets:1, actions:2",
            "recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth_type(0x0800),ipv4(dst=11.6.0.0/255.255.0.0,frag=no), packets:1, actions:2",
        ];
        assert_eq!(distinct_masks(flows.into_iter()), 2);
        assert_eq!(shape("ipv4(src=1.2.3.4,dst=5.6.7.8/255.0.0.0)"), "src/ dst/255.0.0.0");
    }
}
