//! What rules and bridges mean, done at once and on whole frames: the oracle for lazy translation.

use flowtable::actions::Action;
use flowtable::actions::rewrite::is_settable;
use flowtable::key::{Field, FlowKey, Prerequisite, VLAN_PRESENT};
use flowtable::rules::{OFPORT_LOCAL, RuleAction};

use crate::bridge::{Bridge, BridgePort, MacKey, State};

/// A frame: header fields behind the tags, and any number of tags, outermost last.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Frame {
    pub(super) fields: Vec<(Field, u128)>,
    pub(super) tags: Vec<(u16, u16)>,
}

/// Fields that are neither tags nor metadata, each part of the key once.
const PLAIN: [Field; 17] = [
    Field::EthSrc,
    Field::EthDst,
    Field::EthType,
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::Ipv6Label,
    Field::IpProto,
    Field::IpTos,
    Field::IpTtl,
    Field::IpFrag,
    Field::TcpSrc,
    Field::TcpDst,
    Field::TcpFlags,
    Field::ArpSha,
    Field::ArpTha,
    Field::NdTarget,
    Field::RecircId,
];

/// What was sent: port, frame, limit of length.
pub(super) type Sent = (u32, Frame, Option<u32>);

fn view(key: &FlowKey, tags: &[(u16, u16)]) -> Frame {
    let fields = PLAIN.iter().map(|&field| (field, field.get(key))).collect();
    Frame { fields, tags: tags.to_vec() }
}

fn own_tags(key: &FlowKey) -> Vec<(u16, u16)> {
    let both = [(key.vlan2_tpid, key.vlan2_tci), (key.vlan_tpid, key.vlan_tci)];
    both.iter()
        .filter(|(_, tci)| tci.get() & VLAN_PRESENT != 0)
        .map(|(tpid, tci)| (tpid.get(), tci.get() & !VLAN_PRESENT))
        .collect()
}

/// Carries datapath actions out.
pub(super) fn execute(actions: &[Action], key: &FlowKey) -> Vec<Sent> {
    let (mut key, mut tags, mut limit, mut sent) = (*key, own_tags(key), None, Vec::new());
    for action in actions {
        match action {
            Action::Output(port) => sent.push((port.0, view(&key, &tags), limit.take())),
            Action::PushVlan { tpid, tci } => tags.push((*tpid, tci & !VLAN_PRESENT)),
            Action::PopVlan => assert!(tags.pop().is_some(), "a pop without a tag"),
            Action::Set(set) => set.apply_to_key(&mut key),
            Action::Truncate(len) => limit = Some(*len),
        }
    }
    sent
}

/// Carries rule actions out.
pub(super) fn interpret(state: &State, key: &FlowKey) -> Vec<Sent> {
    let Some((bridge, in_port)) = state.port(flowtable::key::PortNo(key.in_port)) else { return Vec::new() };
    let rule_key = FlowKey { in_port: u32::from(in_port.ofport), ..*key };
    let Some(rule) = bridge.rules.iter().find(|rule| rule.flow_match.matches(&rule_key)) else {
        return Vec::new();
    };
    let mut run = Run { bridge, in_port, key: *key, tags: own_tags(key), sent: Vec::new() };
    for action in &rule.actions {
        if !run.step(action) {
            break;
        }
    }
    run.sent
}

struct Run<'a> {
    bridge: &'a Bridge,
    in_port: &'a BridgePort,
    key: FlowKey,
    tags: Vec<(u16, u16)>,
    sent: Vec<Sent>,
}

impl Run<'_> {
    fn send(&mut self, port: &BridgePort, limit: Option<u32>) {
        self.sent.push((port.dp.0, view(&self.key, &self.tags), limit));
    }

    fn step(&mut self, action: &RuleAction) -> bool {
        let others = |run: &Self| {
            let others = run.bridge.ports.values();
            others.filter(|port| port.ofport != run.in_port.ofport).collect::<Vec<_>>()
        };
        match action {
            RuleAction::Output { port, max_len } => {
                for port in others(self).into_iter().filter(|other| other.ofport == *port) {
                    self.send(port, *max_len);
                }
            }
            RuleAction::Local => return self.step(&RuleAction::Output { port: OFPORT_LOCAL, max_len: None }),
            RuleAction::InPort => self.send(self.in_port, None),
            RuleAction::All => others(self).into_iter().for_each(|port| self.send(port, None)),
            RuleAction::Flood => {
                others(self).into_iter().filter(|port| !port.no_flood).for_each(|port| self.send(port, None));
            }
            RuleAction::Normal => self.normal(),
            RuleAction::PushVlan(tpid) => self.tags.push((*tpid, 0)),
            RuleAction::PopVlan => drop(self.tags.pop()),
            RuleAction::SetVlanVid(vid) => self.set_tag(*vid, 0x0fff),
            RuleAction::SetVlanPcp(pcp) => self.set_tag(u16::from(*pcp) << 13, 0xe000),
            RuleAction::SetField(set) => match set.field {
                Field::VlanVid | Field::VlanPcp | Field::VlanTci => {
                    let shift = if set.field == Field::VlanPcp { 13 } else { 0 };
                    if !self.tags.is_empty() {
                        self.set_tag((set.value as u16) << shift, (set.mask as u16) << shift & !VLAN_PRESENT);
                    }
                }
                field if self.has(field) && is_settable(field) => set.apply_to_key(&mut self.key),
                _ => {}
            },
            RuleAction::DecTtl if self.has(Field::IpTtl) => {
                if self.key.nw_ttl <= 1 {
                    return false;
                }
                self.key.nw_ttl -= 1;
            }
            RuleAction::DecTtl => {}
        }
        true
    }

    fn set_tag(&mut self, value: u16, bits: u16) {
        if self.tags.is_empty() {
            self.tags.push((0x8100, 0));
        }
        let tag = self.tags.last_mut().unwrap();
        tag.1 = tag.1 & !bits | value & bits;
    }

    fn has(&self, field: Field) -> bool {
        let eth = self.key.eth_type.get();
        let ip = eth == 0x0800 || eth == 0x86dd;
        let l4 = |proto| ip && self.key.nw_frag & 2 == 0 && self.key.nw_proto == proto;
        let nd = |types: &[u16]| eth == 0x86dd && l4(58) && types.contains(&self.key.tp_src.get());
        match field.spec().prerequisite {
            Prerequisite::None => true,
            Prerequisite::Vlan => !self.tags.is_empty(),
            Prerequisite::Arp => eth == 0x0806,
            Prerequisite::Ipv4 => eth == 0x0800,
            Prerequisite::Ipv6 => eth == 0x86dd,
            Prerequisite::Ip => ip,
            Prerequisite::Tcp => l4(6),
            Prerequisite::Udp => l4(17),
            Prerequisite::Sctp => l4(132),
            Prerequisite::Icmp => eth == 0x0800 && l4(1),
            Prerequisite::Icmpv6 => eth == 0x86dd && l4(58),
            Prerequisite::Nd => nd(&[135, 136]),
            Prerequisite::NdSolicit => nd(&[135]),
            Prerequisite::NdAdvert => nd(&[136]),
        }
    }

    fn normal(&mut self) {
        let (src, dst) = (self.key.eth_src, self.key.eth_dst);
        let vid = self.tags.last().map_or(0, |tag| tag.1 & 0x0fff);
        let Some(vlan) = self.in_port.vlans.admit(vid) else { return };
        let reserved = dst[..5] == [1, 0x80, 0xc2, 0, 0] && dst[5] < 16
            || dst[..5] == [1, 0, 0xc, 0xcc, 0xcc] && [0xcc, 0xcd].contains(&dst[5]);
        if reserved {
            return;
        }
        let unicast = dst[0] & 1 == 0 && !self.bridge.flood_vlans.contains(vlan);
        let known = match self.bridge.macs().lookup(MacKey { vlan, mac: dst }) {
            _ if !unicast => None,
            _ if src == dst && src != [0; 6] => return,
            known => known,
        };
        for port in self.bridge.ports.values().filter(|port| port.ofport != self.in_port.ofport) {
            let wanted = match known {
                Some(known) => port.ofport == known,
                None => !port.no_flood && port.vlans.carries(vlan),
            };
            if wanted {
                self.send_in_vlan(port, vlan);
            }
        }
    }

    fn send_in_vlan(&mut self, port: &BridgePort, vlan: u16) {
        let before = self.tags.clone();
        match port.vlans.egress_vid(vlan) {
            0 if port.vlans.keeps_priority() && self.tags.last().is_some_and(|tag| tag.1 & 0xe000 != 0) => {
                self.set_tag(0, 0x0fff);
            }
            0 => drop(self.tags.pop()),
            vid => self.set_tag(vid, 0x0fff),
        }
        self.send(port, None);
        self.tags = before;
    }
}
