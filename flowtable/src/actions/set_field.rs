//! A change of one header field.

use crate::key::{Field, FlowKey, VLAN_PRESENT};

/// "Make the bits `mask` of `field` those of `value`."
///
/// Values are numbers as [`Field::get`] gives them. The same type serves rules and the datapath.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SetField {
    /// What to change.
    pub field: Field,
    /// The new bits; zero wherever `mask` is.
    pub value: u128,
    /// Which bits to change.
    pub mask: u128,
}

impl SetField {
    /// Sets the whole field.
    pub fn exact(field: Field, value: u128) -> SetField {
        SetField::masked(field, value, field.ones())
    }

    /// Sets the bits `mask`.
    pub fn masked(field: Field, value: u128, mask: u128) -> SetField {
        let mask = mask & field.ones();
        SetField { field, value: value & mask, mask }
    }

    /// Whether every bit of the field is set.
    pub fn is_exact(&self) -> bool {
        self.mask == self.field.ones()
    }

    /// The new value of a field that is now `old`.
    pub fn apply_to(&self, old: u128) -> u128 {
        (old & !self.mask) | self.value
    }

    /// The same change in the terms of the datapath: rules have names for parts of the TOS byte and the TCI, and
    /// one name for what IPv4 and IPv6 both have; datapath flows name whole fields of one protocol.
    #[must_use]
    pub fn to_datapath(&self, is_ipv6: bool) -> SetField {
        let (tos, ttl) =
            if is_ipv6 { (Field::Ipv6Tclass, Field::Ipv6Hlimit) } else { (Field::IpTos, Field::IpTtl) };
        let present = u128::from(VLAN_PRESENT);
        match self.field {
            Field::IpDscp => SetField::masked(tos, self.value << 2, self.mask << 2),
            Field::IpTos | Field::Ipv6Tclass | Field::IpEcn => SetField::masked(tos, self.value, self.mask),
            Field::IpTtl | Field::Ipv6Hlimit => SetField::masked(ttl, self.value, self.mask),
            Field::VlanTci | Field::VlanVid => {
                SetField::masked(Field::VlanTci, self.value | present, self.mask | present)
            }
            Field::VlanPcp => {
                SetField::masked(Field::VlanTci, (self.value << 13) | present, (self.mask << 13) | present)
            }
            _ => *self,
        }
    }

    /// Makes the change in a key, as the slow path does to learn what later steps will see.
    pub fn apply_to_key(&self, key: &mut FlowKey) {
        let old = self.field.get(key);
        self.field.set(key, self.apply_to(old));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Both names of a change do the same to a packet that has the field.
        #[test]
        fn datapath_names_mean_the_same(index in 0..crate::key::FIELDS.len(), value: u128, mask: u128, words: [u64; 24], v6: bool) {
            let field = crate::key::FIELDS[index].field;
            let present = u128::from(VLAN_PRESENT);
            // Rules set a TCI or VLAN id with the bit that says there is a tag.
            let kept = if matches!(field, Field::VlanTci | Field::VlanVid) { present } else { 0 };
            let set = SetField::masked(field, value | kept, mask | kept);
            let mut key = FlowKey::default();
            key.words_mut().copy_from_slice(&words);
            let tci = Field::VlanTci.get(&key);
            Field::VlanTci.set(&mut key, tci | present);
            let mut by_datapath = key;
            set.apply_to_key(&mut key);
            set.to_datapath(v6).apply_to_key(&mut by_datapath);
            prop_assert!(key == by_datapath);
        }
    }
}
