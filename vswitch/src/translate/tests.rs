//! Fates by example. `properties` has the invariants.

mod naive;
mod properties;

use flowtable::actions::{Action, SetField};
use flowtable::key::{Field, FlowKey, FlowMatch, PortNo, VLAN_PRESENT};
use flowtable::rules::{Rule, RuleAction};

use super::*;
use crate::bridge::{BridgeConfig, BridgePortConfig, Clock, FailMode, VlanConfig, VlanMode};

pub(super) const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub(super) const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// A bridge "br" with ports 1, 2, … of the given VLANs; datapath numbers are 10 more.
pub(super) fn bridge(ports: &[VlanConfig]) -> Bridges {
    let bridges = Bridges::with_clock(Clock::new(|| 0));
    bridges.set_bridge(BridgeConfig::new("br")).unwrap();
    for (vlan, number) in ports.iter().zip(1u32..) {
        let config = BridgePortConfig {
            vlan: vlan.clone(),
            ..BridgePortConfig::new(format!("p{number}"), PortNo(10 + number))
        };
        assert_eq!(bridges.add_port("br", config), Ok(number as u16));
    }
    bridges
}

fn plain(ports: usize) -> Bridges {
    bridge(&vec![VlanConfig::default(); ports])
}

/// A frame from datapath port `in_port`, A to B, with these VIDs as tags.
fn frame(in_port: u32, vids: &[u16]) -> FlowKey {
    let mut key =
        FlowKey { in_port, eth_src: A, eth_dst: B, eth_type: 0x0800u16.into(), ..FlowKey::default() };
    if let Some(vid) = vids.first() {
        key.vlan_tci = (vid | VLAN_PRESENT).into();
        key.vlan_tpid = 0x8100u16.into();
    }
    if let Some(vid) = vids.get(1) {
        key.vlan2_tci = (vid | VLAN_PRESENT).into();
        key.vlan2_tpid = 0x8100u16.into();
    }
    key.nw_proto = 6;
    key.nw_ttl = 64;
    key
}

fn out(port: u32) -> Action {
    Action::Output(PortNo(port))
}

fn push(vid: u16) -> Action {
    Action::PushVlan { tpid: 0x8100, tci: vid }
}

fn fate(bridges: &Bridges, key: &FlowKey) -> Vec<Action> {
    translate(bridges, key).actions.to_vec()
}

fn learn(bridges: &Bridges, key: &FlowKey) {
    let translation = translate(bridges, key);
    for learn in &translation.learns {
        bridges.learn(learn, translation.epoch, 0);
    }
}

fn with_rule(bridges: &Bridges, actions: Vec<RuleAction>) {
    bridges.add_rules("br", vec![Rule::new(10, FlowMatch::any(), actions, 0)]).unwrap();
}

fn send(port: u16) -> RuleAction {
    RuleAction::Output { port, max_len: None }
}

#[test]
fn unknown_floods_known_goes_one_way() {
    let bridges = plain(3);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12), out(13)]);
    learn(&bridges, &FlowKey { eth_src: B, eth_dst: A, ..frame(13, &[]) });
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(13)]);
    assert_eq!(fate(&bridges, &frame(13, &[])), [], "it came from where it would go");
}

#[test]
fn normal_looks_at_macs_and_vlan_only() {
    let translation = translate(&plain(2), &frame(11, &[]));
    let mut expected = FlowMask::EXACT_BASE;
    expected.set_exact(Field::EthSrc);
    expected.set_exact(Field::EthDst);
    expected.set_exact(Field::VlanVid);
    assert_eq!(translation.mask, expected);
    assert_eq!(translation.learns.len(), 1);
}

#[test]
fn a_port_of_no_bridge_drops() {
    let translation = translate(&plain(2), &frame(99, &[]));
    assert!(translation.actions.is_drop());
    assert_eq!(translation.drop_reason, DropReason::UpcallNoBridge);
}

#[test]
fn reserved_groups_stay_unless_asked_for() {
    let bridges = plain(2);
    let bpdu = FlowKey { eth_dst: [1, 0x80, 0xc2, 0, 0, 0], ..frame(11, &[]) };
    assert_eq!(fate(&bridges, &bpdu), []);
    bridges.set_bridge(BridgeConfig { forward_bpdu: true, ..BridgeConfig::new("br") }).unwrap();
    assert_eq!(fate(&bridges, &bpdu), [out(12)]);
    let above = FlowKey { eth_dst: [1, 0x80, 0xc2, 0, 0, 0x10], ..bpdu };
    bridges.set_bridge(BridgeConfig::new("br")).unwrap();
    assert_eq!(fate(&bridges, &above), [out(12)]);
    let cdp = FlowKey { eth_dst: [1, 0, 0xc, 0xcc, 0xcc, 0xcc], ..bpdu };
    assert_eq!(fate(&bridges, &cdp), []);
    let kin = FlowKey { eth_dst: [1, 0, 0xc, 0xcc, 0xcc, 0xce], ..bpdu };
    assert_eq!(fate(&bridges, &kin), [out(12)]);
}

#[test]
fn access_to_trunk_and_back() {
    let bridges =
        bridge(&[VlanConfig::access(5), VlanConfig::default(), VlanConfig::access(5), VlanConfig::access(6)]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(13), push(5), out(12)], "unchanged frames first");
    assert_eq!(fate(&bridges, &frame(12, &[5])), [Action::PopVlan, out(11), out(13)]);
    assert_eq!(fate(&bridges, &frame(12, &[7])), []);
    let tagged_on_access = translate(&bridges, &frame(11, &[5]));
    assert!(tagged_on_access.actions.is_drop());
    assert_eq!(tagged_on_access.drop_reason, DropReason::VlanNotAllowed);
}

#[test]
fn native_vlan_leaves_as_the_mode_says() {
    let native = |mode, tag| VlanConfig { mode: Some(mode), tag: Some(tag), trunks: vec![] };
    let bridges = bridge(&[
        VlanConfig::access(5),
        native(VlanMode::NativeTagged, 5),
        native(VlanMode::NativeUntagged, 5),
    ]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(13), push(5), out(12)]);
    assert_eq!(fate(&bridges, &frame(13, &[])), [out(11), push(5), out(12)]);
    assert_eq!(fate(&bridges, &frame(13, &[9])), [out(12)], "trunked but not native");
}

#[test]
fn a_priority_tag_is_no_tag_but_keeps_its_priority() {
    let bridges = bridge(&[VlanConfig::access(5), VlanConfig::default(), VlanConfig::access(5)]);
    let mut key = frame(11, &[0]);
    key.vlan_tci = (0x6000 | VLAN_PRESENT).into();
    let pushed = Action::PushVlan { tpid: 0x8100, tci: 0x6005 };
    let actions = fate(&bridges, &key);
    assert_eq!(actions, [Action::PopVlan, out(13), pushed, out(12)]);

    // In VLAN 0 the priority is all the tag says: without one it goes, with one it stays where VLANs leave tagged.
    let bridges = bridge(&[VlanConfig::default(), VlanConfig::default(), VlanConfig::access(0)]);
    assert_eq!(fate(&bridges, &key), [out(12), Action::PopVlan, out(13)]);
    assert_eq!(fate(&bridges, &frame(11, &[0])), [Action::PopVlan, out(12), out(13)]);
}

#[test]
fn a_service_tag_is_an_outer_tag() {
    let bridges = bridge(&[VlanConfig::default(), VlanConfig::access(5), VlanConfig::trunk([5])]);
    let mut key = frame(11, &[5, 9]);
    key.vlan_tpid = 0x88a8u16.into();
    assert_eq!(fate(&bridges, &key), [out(13), Action::PopVlan, out(12)], "the inner tag is payload");
}

#[test]
fn vlans_learn_apart() {
    let bridges = bridge(&[VlanConfig::default(), VlanConfig::default(), VlanConfig::default()]);
    learn(&bridges, &FlowKey { eth_src: B, ..frame(12, &[5]) });
    assert_eq!(fate(&bridges, &frame(11, &[5])), [out(12)]);
    assert_eq!(fate(&bridges, &frame(11, &[6])), [out(12), out(13)]);
}

#[test]
fn a_flood_vlan_neither_learns_nor_looks_up() {
    let bridges = plain(3);
    bridges.set_bridge(BridgeConfig { flood_vlans: vec![5], ..BridgeConfig::new("br") }).unwrap();
    let translation = translate(&bridges, &frame(11, &[5]));
    assert_eq!(translation.actions.to_vec(), [out(12), out(13)]);
    assert!(translation.learns.is_empty() && translation.lookups.is_empty());
}

#[test]
fn no_flood_ports_are_left_out() {
    let bridges = plain(3);
    bridges.set_port_no_flood("p2", true).unwrap();
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(13)]);
    with_rule(&bridges, vec![RuleAction::Flood]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(13)]);
    with_rule(&bridges, vec![RuleAction::All]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12), out(13)]);
}

#[test]
fn floods_leave_out_ports_without_a_link() {
    let bridges = plain(3);
    bridges.set_port_link("p2", false).unwrap();
    for all in [RuleAction::Normal, RuleAction::Flood, RuleAction::All] {
        with_rule(&bridges, vec![all]);
        assert_eq!(fate(&bridges, &frame(11, &[])), [out(13)]);
    }
    with_rule(&bridges, vec![send(2)]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12)], "who names the port means it");
    let epoch = bridges.epoch();
    bridges.set_port_link("p2", false).unwrap();
    assert_eq!(bridges.epoch(), epoch, "no news, no flow to be looked at again");
    bridges.set_port_link("p2", true).unwrap();
    with_rule(&bridges, vec![RuleAction::Normal]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12), out(13)]);
}

#[test]
fn output_never_goes_back_but_in_port_does() {
    let bridges = plain(2);
    with_rule(&bridges, vec![send(1), send(2), send(77), RuleAction::InPort, RuleAction::Local]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12), out(11)]);
    let local = BridgePortConfig { local: true, ..BridgePortConfig::new("br", PortNo(20)) };
    assert_eq!(bridges.add_port("br", local), Ok(0xfffe));
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12), out(11), out(20)]);
}

#[test]
fn max_len_cuts_one_output() {
    let bridges = plain(2);
    with_rule(&bridges, vec![RuleAction::Output { port: 2, max_len: Some(64) }, send(2)]);
    assert_eq!(fate(&bridges, &frame(11, &[])), [Action::Truncate(64), out(12), out(12)]);
}

#[test]
fn changes_nobody_sees_cost_nothing() {
    let bridges = plain(2);
    let set_dst = RuleAction::set(SetField::exact(Field::EthDst, 1));
    with_rule(&bridges, vec![RuleAction::PushVlan(0x8100), RuleAction::PopVlan, send(2), set_dst]);
    let translation = translate(&bridges, &frame(11, &[]));
    assert_eq!(translation.actions.to_vec(), [out(12)]);
    assert_eq!(translation.mask, FlowMask::EXACT_BASE);
}

#[test]
fn a_field_that_is_set_is_not_matched() {
    let bridges = plain(2);
    let set = SetField::exact(Field::EthDst, 7);
    with_rule(&bridges, vec![RuleAction::set(set), send(2)]);
    let translation = translate(&bridges, &frame(11, &[]));
    assert_eq!(translation.actions.to_vec(), [Action::set(set), out(12)]);
    assert_eq!(translation.mask, FlowMask::EXACT_BASE);
}

#[test]
fn a_field_known_to_have_the_value_is_not_set() {
    let bridges = plain(2);
    let b = SetField::exact(Field::EthDst, 0x0200_0000_000b);
    let flow_match = {
        let mut mask = FlowMask::WILDCARD;
        mask.set_exact(Field::EthDst);
        FlowMatch::new(frame(1, &[]), mask)
    };
    let rule = Rule::new(10, flow_match, vec![RuleAction::set(b), send(2)], 0);
    bridges.add_rules("br", vec![rule]).unwrap();
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12)]);
}

#[test]
fn fields_a_packet_does_not_have_stay() {
    let bridges = plain(2);
    let set = |field| RuleAction::set(SetField::exact(field, 1));
    with_rule(
        &bridges,
        vec![set(Field::UdpDst), set(Field::ArpSpa), set(Field::Ipv6Label), set(Field::VlanVid), send(2)],
    );
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12)]);
    let fragment = FlowKey { nw_frag: 3, ..frame(11, &[]) };
    with_rule(&bridges, vec![set(Field::TcpDst), send(2)]);
    assert_eq!(fate(&bridges, &fragment), [out(12)]);
}

#[test]
fn ttl_goes_down_until_it_ends() {
    let bridges = plain(3);
    with_rule(&bridges, vec![send(2), RuleAction::DecTtl, send(3)]);
    let ttl = |ttl| FlowKey { nw_ttl: ttl, ..frame(11, &[]) };
    let lowered = Action::set(SetField::exact(Field::IpTtl, 63));
    assert_eq!(fate(&bridges, &ttl(64)), [out(12), lowered, out(13)]);
    assert_eq!(fate(&bridges, &ttl(1)), [out(12)]);
    let arp = FlowKey { eth_type: 0x0806u16.into(), nw_proto: 1, nw_ttl: 0, ..frame(11, &[]) };
    assert_eq!(fate(&bridges, &arp), [out(12), out(13)]);
}

#[test]
fn tags_are_set_changed_and_taken() {
    let bridges = plain(2);
    with_rule(&bridges, vec![RuleAction::SetVlanVid(5), RuleAction::SetVlanPcp(1), send(2)]);
    let tagged = Action::PushVlan { tpid: 0x8100, tci: 0x2005 };
    assert_eq!(fate(&bridges, &frame(11, &[])), [tagged.clone(), out(12)]);
    assert_eq!(fate(&bridges, &frame(11, &[9])), [Action::PopVlan, tagged, out(12)]);
    with_rule(&bridges, vec![RuleAction::PopVlan, RuleAction::PopVlan, RuleAction::PopVlan, send(2)]);
    assert_eq!(fate(&bridges, &frame(11, &[9, 8])), [Action::PopVlan, Action::PopVlan, out(12)]);
}

#[test]
fn a_tag_comes_back_after_an_untagged_output() {
    let bridges = bridge(&[VlanConfig::default(), VlanConfig::access(5), VlanConfig::default()]);
    with_rule(&bridges, vec![RuleAction::Normal, send(3)]);
    let actions = fate(&bridges, &frame(11, &[5]));
    assert_eq!(actions, [out(13), Action::PopVlan, out(12), push(5), out(13)]);
}

#[test]
fn rules_know_ports_by_openflow_number() {
    let bridges = plain(2);
    let mut mask = FlowMask::WILDCARD;
    mask.set_exact(Field::InPort);
    let from_2 = FlowMatch::new(FlowKey { in_port: 2, ..FlowKey::default() }, mask);
    bridges.add_rules("br", vec![Rule::new(9, from_2, vec![], 0)]).unwrap();
    assert_eq!(fate(&bridges, &frame(12, &[])), []);
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12)]);
}

#[test]
fn a_secure_bridge_forwards_nothing_by_itself() {
    let bridges = Bridges::with_clock(Clock::new(|| 0));
    let config = BridgeConfig { fail_mode: FailMode::Secure, ..BridgeConfig::new("br") };
    bridges.set_bridge(config).unwrap();
    bridges.add_port("br", BridgePortConfig::new("p1", PortNo(11))).unwrap();
    bridges.add_port("br", BridgePortConfig::new("p2", PortNo(12))).unwrap();
    let translation = translate(&bridges, &frame(11, &[]));
    assert!(translation.actions.is_drop());
    assert_eq!(translation.mask, FlowMask::EXACT_BASE);
}

#[test]
fn bridges_are_apart() {
    let bridges = plain(2);
    bridges.set_bridge(BridgeConfig::new("other")).unwrap();
    bridges.add_port("other", BridgePortConfig::new("q1", PortNo(21))).unwrap();
    bridges.add_port("other", BridgePortConfig::new("q2", PortNo(22))).unwrap();
    assert_eq!(fate(&bridges, &frame(21, &[])), [out(22)]);
    learn(&bridges, &FlowKey { eth_src: B, ..frame(21, &[]) });
    assert_eq!(fate(&bridges, &frame(11, &[])), [out(12)]);
}
