//! Header fields of a packet while a rule's actions change them.

use flowtable::actions::rewrite::is_settable;
use flowtable::actions::{Action, SetField};
use flowtable::key::{Field, FlowKey, FlowMask, Prerequisite, VLAN_PRESENT};

use super::tags;
use super::walk::Walk;

const ETH_IPV4: u128 = 0x0800;
const ETH_IPV6: u128 = 0x86dd;
const ETH_ARP: u128 = 0x0806;
const PROTO_ICMP: u128 = 1;
const PROTO_TCP: u128 = 6;
const PROTO_UDP: u128 = 17;
const PROTO_ICMPV6: u128 = 58;
const PROTO_SCTP: u128 = 132;
const ND_SOLICIT: u128 = 135;
const ND_ADVERT: u128 = 136;
/// The packet is a fragment other than the first: it has no transport header.
const LATER_FRAGMENT: u128 = 2;

/// Header fields as wanted and as emitted. Tags are not among them: see [`super::tags`].
pub(super) struct Fields {
    /// As the actions want them.
    wanted: FlowKey,
    /// As the datapath actions emitted so far leave them.
    emitted: FlowKey,
    /// Bits that actions wrote: constants, whatever the packet.
    written: FlowMask,
    /// Bits of `emitted` that are constants.
    committed: FlowMask,
    /// What was written since the last commit.
    pending: Vec<(Field, u128)>,
}

impl Fields {
    pub(super) fn new(key: &FlowKey) -> Fields {
        Fields {
            wanted: *key,
            emitted: *key,
            written: FlowMask::WILDCARD,
            committed: FlowMask::WILDCARD,
            pending: Vec::new(),
        }
    }

    /// The value of a field; the bits that come from the packet are added to `mask`.
    pub(super) fn look(&self, field: Field, mask: &mut FlowMask) -> u128 {
        mask.add_bits(field, field.ones() & !field.get_mask(&self.written));
        field.get(&self.wanted)
    }

    /// Writes bits of a field.
    pub(super) fn set(&mut self, field: Field, value: u128, bits: u128) {
        SetField::masked(field, value, bits).apply_to_key(&mut self.wanted);
        self.written.add_bits(field, bits);
        match self.pending.iter_mut().find(|(pending, _)| *pending == field) {
            Some((_, pending)) => *pending |= bits,
            None => self.pending.push((field, bits)),
        }
    }

    /// Emits what makes the frame's fields the wanted ones.
    pub(super) fn commit(&mut self, mask: &FlowMask, actions: &mut Vec<Action>) {
        for (field, bits) in self.pending.drain(..) {
            let wanted = field.get(&self.wanted) & bits;
            let known = field.get_mask(mask) | field.get_mask(&self.committed);
            if bits & !known == 0 && field.get(&self.emitted) & bits == wanted {
                continue;
            }
            let set = SetField::masked(field, wanted, bits);
            set.apply_to_key(&mut self.emitted);
            self.committed.add_bits(field, bits);
            actions.push(Action::set(set));
        }
    }
}

impl Walk<'_> {
    /// Carries out a `set_field`. Nothing happens to a packet that does not have the field.
    pub(super) fn set_field(&mut self, set: &SetField) {
        if !self.has_field(set.field) {
            return;
        }
        match set.field {
            Field::VlanTci => self.set_vlan_tci(set),
            Field::VlanVid => self.set_outer_tag(set, 0),
            Field::VlanPcp => self.set_outer_tag(set, tags::PCP_SHIFT),
            field if is_settable(field) => self.fields.set(field, set.value, set.mask),
            _ => {}
        }
    }

    /// Whether the packet has a field.
    pub(super) fn has_field(&mut self, field: Field) -> bool {
        let ip = |walk: &mut Walk<'_>| {
            let eth_type = walk.look(Field::EthType);
            eth_type == ETH_IPV4 || eth_type == ETH_IPV6
        };
        match field.spec().prerequisite {
            Prerequisite::None => match field {
                Field::VlanVid => self.tags.is_tagged(self.key, &mut self.mask),
                _ => true,
            },
            Prerequisite::Vlan => self.tags.is_tagged(self.key, &mut self.mask),
            Prerequisite::Arp => self.look(Field::EthType) == ETH_ARP,
            Prerequisite::Ipv4 => self.look(Field::EthType) == ETH_IPV4,
            Prerequisite::Ipv6 => self.look(Field::EthType) == ETH_IPV6,
            Prerequisite::Ip => ip(self),
            Prerequisite::Tcp => ip(self) && self.has_transport(PROTO_TCP),
            Prerequisite::Udp => ip(self) && self.has_transport(PROTO_UDP),
            Prerequisite::Sctp => ip(self) && self.has_transport(PROTO_SCTP),
            Prerequisite::Icmp => self.look(Field::EthType) == ETH_IPV4 && self.has_transport(PROTO_ICMP),
            Prerequisite::Icmpv6 => self.is_icmpv6(),
            Prerequisite::Nd => {
                self.is_icmpv6() && matches!(self.look(Field::Icmpv6Type), ND_SOLICIT | ND_ADVERT)
            }
            Prerequisite::NdSolicit => self.is_icmpv6() && self.look(Field::Icmpv6Type) == ND_SOLICIT,
            Prerequisite::NdAdvert => self.is_icmpv6() && self.look(Field::Icmpv6Type) == ND_ADVERT,
        }
    }

    pub(super) fn look(&mut self, field: Field) -> u128 {
        self.fields.look(field, &mut self.mask)
    }

    fn has_transport(&mut self, proto: u128) -> bool {
        self.look(Field::IpFrag) & LATER_FRAGMENT == 0 && self.look(Field::IpProto) == proto
    }

    fn is_icmpv6(&mut self) -> bool {
        self.look(Field::EthType) == ETH_IPV6 && self.has_transport(PROTO_ICMPV6)
    }

    fn set_outer_tag(&mut self, set: &SetField, shift: u32) {
        let in_tci = |bits: u128| (bits << shift) as u16;
        self.tags.set_bits(self.key, &mut self.mask, in_tci(set.value), in_tci(set.mask));
    }

    /// The whole TCI with the "present" bit: a value without that bit takes the tag away.
    fn set_vlan_tci(&mut self, set: &SetField) {
        let (value, bits) = (set.value as u16, set.mask as u16);
        if bits & VLAN_PRESENT != 0 && value & VLAN_PRESENT == 0 {
            self.tags.pop(self.key, &mut self.mask);
        } else if bits & VLAN_PRESENT != 0 || self.tags.is_tagged(self.key, &mut self.mask) {
            self.tags.set_bits(self.key, &mut self.mask, value, bits);
        }
    }
}
