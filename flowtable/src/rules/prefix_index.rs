//! How much of a field proves that no rule wants its value.
//!
//! A subtable whose rules want `10.1.0.0/16` and `10.2.0.0/16` must not cost a packet to 192.168.0.1 all sixteen
//! bits: the first one tells it from both. So the values of a field are kept in order. If the packet's value is not
//! among them, the values right below and above it share the longest beginnings with it, and one bit more than
//! the longer of the two beginnings tells the packet from all of them. That is what a trie would find, without
//! its nodes.
//!
//! Cost: a look-up in a `BTreeMap` per field and subtable.

use std::collections::BTreeMap;

use crate::key::{Field, FlowKey, FlowMask};

/// The fields that are worth it: addresses, matched by prefix, and ports. The names stand for the places in the key;
/// IPv4 and ARP addresses are in the first 32 bits of the IPv6 fields.
pub(super) const PREFIX_FIELDS: [Field; 4] = [Field::Ipv6Src, Field::Ipv6Dst, Field::TcpSrc, Field::TcpDst];

/// The values of one field in the rules of one subtable.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    field: Field,
    /// The subtable's mask of the field: a prefix.
    mask: u128,
    /// Each value with the number of rules that want it.
    values: BTreeMap<u128, usize>,
}

impl PrefixIndex {
    /// An index for the rules of `mask`, unless they do not match on a prefix of the field.
    pub(super) fn new(field: Field, mask: &FlowMask) -> Option<PrefixIndex> {
        let mask = field.get_mask(mask);
        let unmatched = field.ones() & !mask;
        let is_prefix = mask != 0 && unmatched & unmatched.wrapping_add(1) == 0;
        is_prefix.then(|| PrefixIndex { field, mask, values: BTreeMap::new() })
    }

    pub(super) fn field(&self) -> Field {
        self.field
    }

    pub(super) fn mask(&self) -> u128 {
        self.mask
    }

    pub(super) fn add(&mut self, key: &FlowKey) {
        *self.values.entry(self.field.get(key) & self.mask).or_insert(0) += 1;
    }

    pub(super) fn remove(&mut self, key: &FlowKey) {
        let value = self.field.get(key) & self.mask;
        if let Some(count) = self.values.get_mut(&value) {
            *count -= 1;
            if *count == 0 {
                self.values.remove(&value);
            }
        }
    }

    /// If no rule wants the value in `key`, the leading bits of the field that prove it.
    pub(super) fn refutes(&self, key: &FlowKey) -> Option<u128> {
        let value = self.field.get(key) & self.mask;
        if self.values.contains_key(&value) {
            return None;
        }
        let below = self.values.range(..value).next_back();
        let above = self.values.range(value..).next();
        // The highest bit in which a neighbour differs; the lower of the two is the one needed.
        let lowest = [below, above].into_iter().flatten().map(|(near, _)| (near ^ value).ilog2()).min()?;
        Some(self.field.ones() >> lowest << lowest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(port: u16) -> FlowKey {
        let mut key = FlowKey::default();
        key.tp_dst.set(port);
        key
    }

    proptest! {
        /// Exactly the fewest leading bits that no wanted value shares.
        #[test]
        fn proof_is_sound_and_shortest(values in prop::collection::vec(any::<u16>(), 1..20), len in 1..17u32, port: u16) {
            let bits = !(0xffffu32 >> len) as u16;
            let mut mask = FlowMask::default();
            Field::TcpDst.set_mask(&mut mask, bits.into());
            let mut index = PrefixIndex::new(Field::TcpDst, &mask).unwrap();
            for value in &values {
                index.add(&key(*value));
            }
            let shared = |bits: u16| values.iter().any(|value| (value ^ port) & bits == 0);
            match index.refutes(&key(port)) {
                None => prop_assert!(shared(bits)),
                Some(proof) => {
                    let proof = proof as u16;
                    prop_assert!(!shared(proof) && proof & !bits == 0);
                    prop_assert!(shared(proof << 1), "one bit fewer does not do");
                }
            }
            for value in &values {
                index.remove(&key(*value));
            }
            prop_assert!(index.values.is_empty());
        }
    }

    #[test]
    fn only_prefixes_are_indexed() {
        let mut mask = FlowMask::default();
        assert!(PrefixIndex::new(Field::TcpDst, &mask).is_none());
        Field::TcpDst.set_mask(&mut mask, 0x00ff);
        assert!(PrefixIndex::new(Field::TcpDst, &mask).is_none());
        Field::TcpDst.set_mask(&mut mask, 0xffff);
        assert!(PrefixIndex::new(Field::TcpDst, &mask).is_some());
        mask.set_exact(Field::Ipv6Src);
        assert!(PrefixIndex::new(Field::Ipv6Src, &mask).is_some());
    }
}
