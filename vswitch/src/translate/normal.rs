//! `normal`: forwarding as a learning bridge with VLANs does it.

use flowtable::key::Field;
use pmd::port::DropReason;

use super::walk::Walk;
use crate::bridge::{BridgePort, Learn, MacKey};

/// Addresses of protocols between neighbouring bridges, not forwarded unless `forward-bpdu` says so. First and last of each range; the
/// same as in Open vSwitch.
const RESERVED: [([u8; 6], [u8; 6]); 8] = [
    // IEEE 802.1Q, table 8-1: STP, pause frames, LACP, LLDP.
    ([0x01, 0x80, 0xc2, 0x00, 0x00, 0x00], [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0f]),
    // Extreme Networks: EDP, EAPS, EAPS.
    ([0x00, 0xe0, 0x2b, 0x00, 0x00, 0x00], [0x00, 0xe0, 0x2b, 0x00, 0x00, 0x00]),
    ([0x00, 0xe0, 0x2b, 0x00, 0x00, 0x04], [0x00, 0xe0, 0x2b, 0x00, 0x00, 0x04]),
    ([0x00, 0xe0, 0x2b, 0x00, 0x00, 0x06], [0x00, 0xe0, 0x2b, 0x00, 0x00, 0x06]),
    // Cisco: ISL; CFM; CDP, VTP and their kin, PVST+; STP uplink fast.
    ([0x01, 0x00, 0x0c, 0x00, 0x00, 0x00], [0x01, 0x00, 0x0c, 0x00, 0x00, 0x00]),
    ([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xc0], [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xc7]),
    ([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc], [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd]),
    ([0x01, 0x00, 0x0c, 0xcd, 0xcd, 0xcd], [0x01, 0x00, 0x0c, 0xcd, 0xcd, 0xcd]),
];

/// Where a frame goes.
enum Destination<'a> {
    One(&'a BridgePort),
    Flood,
    /// It came from where it would go.
    Nowhere,
}

impl<'a> Walk<'a> {
    /// Admits the frame to its VLAN, recommends to learn its sender, and sends it where its destination was heard,
    /// or floods.
    pub(super) fn normal(&mut self) {
        let src = mac(self.look(Field::EthSrc));
        let dst = mac(self.look(Field::EthDst));
        let vid = self.tags.vid(self.key, &mut self.mask);
        let Some(vlan) = self.in_port.vlans.admit(vid) else {
            self.drop_reason = DropReason::VlanNotAllowed;
            return;
        };
        if !self.bridge.config.forward_bpdu && is_reserved(dst) {
            return;
        }
        let learns = !self.bridge.flood_vlans.contains(vlan);
        if learns {
            let key = MacKey { vlan, mac: src };
            self.learns.push(Learn { bridge: self.bridge.id, key, port: self.in_port.ofport });
        }
        let destination = if learns && dst[0] & 1 == 0 {
            self.destination(MacKey { vlan, mac: dst }, src)
        } else {
            Destination::Flood
        };
        match destination {
            Destination::One(port) => self.output_in_vlan(&[port], vid, vlan),
            Destination::Flood => self.flood(vid, vlan),
            Destination::Nowhere => {}
        }
    }

    fn destination(&mut self, dst: MacKey, src: [u8; 6]) -> Destination<'a> {
        // The sender is learned with this packet, so a frame to itself goes nowhere.
        if dst.mac == src && src != [0; 6] {
            return Destination::Nowhere;
        }
        self.lookups.push(dst);
        let bridge = self.bridge;
        let known = bridge.macs().lookup(dst);
        match known.and_then(|port| bridge.ports.get(&port)) {
            None => Destination::Flood,
            Some(port) if port.ofport == self.in_port.ofport => Destination::Nowhere,
            Some(port) => Destination::One(port),
        }
    }

    fn flood(&mut self, vid: u16, vlan: u16) {
        self.floods = true;
        let members = self.bridge.ports.values().filter(|port| {
            port.ofport != self.in_port.ofport && !port.no_flood && !port.no_link && port.vlans.carries(vlan)
        });
        let mut members: Vec<&BridgePort> = members.collect();
        // Ports that take the frame as it is come first, so that the others cost one change of tags.
        members.sort_by_key(|port| port.vlans.egress_vid(vlan) != vid);
        self.output_in_vlan(&members, vid, vlan);
    }

    /// Sends to each port with the tag its VLAN settings ask for. Actions that follow see the frame as it was.
    fn output_in_vlan(&mut self, ports: &[&BridgePort], vid: u16, vlan: u16) {
        let before = self.tags.save();
        for port in ports {
            let egress = port.vlans.egress_vid(vlan);
            // A tag that stays as it is need not be looked at again, but one without VID may have to go.
            if egress != vid || vid == 0 {
                let keep_priority = port.vlans.keeps_priority();
                self.tags.set_egress_vid(self.key, &mut self.mask, egress, keep_priority);
            }
            self.emit_output(port.dp);
            self.tags.restore(&before);
        }
    }
}

fn mac(value: u128) -> [u8; 6] {
    let [.., a, b, c, d, e, f] = value.to_be_bytes();
    [a, b, c, d, e, f]
}

fn is_reserved(dst: [u8; 6]) -> bool {
    RESERVED.iter().any(|(first, last)| (*first..=*last).contains(&dst))
}
