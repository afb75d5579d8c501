//! Operations on masks: apply, match, join, compare, and the sparse form a subtable works with.
//!
//! A [`FlowMask`] has the shape of a key and is what the slow path fills in field by field. A table that looks
//! up thousands of packets through one mask wants only the few words that mask touches: [`SparseMask`].

use zerocopy::big_endian::{U16, U32};

use super::{FlowKey, FlowMask, KEY_WORDS, hash::salt_pair};

/// A key of all wildcards in `const` form.
const WILDCARDS: FlowKey = FlowKey {
    eth_dst: [0; 6],
    eth_src: [0; 6],
    eth_type: U16::ZERO,
    vlan_tci: U16::ZERO,
    nw_src: [0; 16],
    nw_dst: [0; 16],
    ipv6_label: U32::ZERO,
    nw_proto: 0,
    nw_tos: 0,
    nw_ttl: 0,
    nw_frag: 0,
    tp_src: U16::ZERO,
    tp_dst: U16::ZERO,
    tcp_flags: U16::ZERO,
    vlan2_tci: U16::ZERO,
    in_port: 0,
    recirc_id: 0,
    vlan_tpid: U16::ZERO,
    vlan2_tpid: U16::ZERO,
    spare_tunnel: [0; 32],
    spare_ct: [0; 20],
    arp_sha: [0; 6],
    arp_tha: [0; 6],
    spare_pad: [0; 4],
    nd_target: [0; 16],
    spare_extra: [0; 32],
};

const ONES: U16 = U16::MAX_VALUE;

impl FlowMask {
    /// Matches every packet.
    pub const WILDCARD: FlowMask = FlowMask { fields: WILDCARDS };

    /// What every megaflow compares: the port, the recirculation round, the EtherType, the fragment bits. Without
    /// them the other fields have no meaning of their own.
    pub const EXACT_BASE: FlowMask = FlowMask {
        fields: FlowKey { in_port: u32::MAX, recirc_id: u32::MAX, eth_type: ONES, nw_frag: 3, ..WILDCARDS },
    };

    /// Both MAC addresses.
    pub const EXACT_MACS: FlowMask =
        FlowMask { fields: FlowKey { eth_dst: [0xff; 6], eth_src: [0xff; 6], ..WILDCARDS } };

    /// Both tags: TCI and EtherType of each.
    pub const EXACT_VLANS: FlowMask = FlowMask {
        fields: FlowKey { vlan_tci: ONES, vlan2_tci: ONES, vlan_tpid: ONES, vlan2_tpid: ONES, ..WILDCARDS },
    };

    /// Addresses, protocol and ports.
    pub const EXACT_FIVE_TUPLE: FlowMask = FlowMask {
        fields: FlowKey {
            nw_src: [0xff; 16],
            nw_dst: [0xff; 16],
            nw_proto: 0xff,
            tp_src: ONES,
            tp_dst: ONES,
            ..WILDCARDS
        },
    };

    /// Every bit of every field. Spare bytes stay zero, as in any key.
    pub const EXACT: FlowMask = FlowMask {
        fields: FlowKey {
            eth_dst: [0xff; 6],
            eth_src: [0xff; 6],
            eth_type: ONES,
            vlan_tci: ONES,
            nw_src: [0xff; 16],
            nw_dst: [0xff; 16],
            ipv6_label: U32::new(0x000f_ffff),
            nw_proto: 0xff,
            nw_tos: 0xff,
            nw_ttl: 0xff,
            nw_frag: 3,
            tp_src: ONES,
            tp_dst: ONES,
            tcp_flags: U16::new(0x0fff),
            vlan2_tci: ONES,
            in_port: u32::MAX,
            recirc_id: u32::MAX,
            vlan_tpid: ONES,
            vlan2_tpid: ONES,
            arp_sha: [0xff; 6],
            arp_tha: [0xff; 6],
            nd_target: [0xff; 16],
            ..WILDCARDS
        },
    };

    /// The key with every wildcarded bit zero: the form in which keys of one mask are compared.
    #[must_use]
    pub fn apply(&self, key: &FlowKey) -> FlowKey {
        let mut masked = *key;
        for (word, mask) in masked.words_mut().iter_mut().zip(self.words()) {
            *word &= mask;
        }
        masked
    }

    /// Whether a packet's key equals `masked` (a key this mask was applied to) in every bit that counts.
    pub fn matches(&self, packet: &FlowKey, masked: &FlowKey) -> bool {
        let words = packet.words().iter().zip(masked.words()).zip(self.words());
        words.fold(0, |differ, ((p, m), mask)| differ | ((p & mask) ^ m)) == 0
    }

    /// Makes every bit count that counts in `other`.
    pub fn union(&mut self, other: &FlowMask) {
        for (word, more) in self.words_mut().iter_mut().zip(other.words()) {
            *word |= more;
        }
    }

    /// Whether every bit that counts here counts in `other` too.
    pub fn is_subset_of(&self, other: &FlowMask) -> bool {
        self.words().iter().zip(other.words()).all(|(mine, theirs)| mine & !theirs == 0)
    }

    /// Whether no bit counts.
    pub fn is_wildcard(&self) -> bool {
        self.words().iter().all(|word| *word == 0)
    }

    /// Indexes of the key words in which some bit counts, in order.
    pub fn touched_words(&self) -> impl Iterator<Item = usize> + '_ {
        self.words().iter().enumerate().filter(|(_, mask)| **mask != 0).map(|(index, _)| index)
    }
}

/// Two words of a [`SparseMask`].
#[derive(Clone, Copy, Debug)]
pub(super) struct MaskPair {
    /// Indexes into the key's words.
    index: [usize; 2],
    /// Bits of those words that count.
    mask: [u64; 2],
    /// What the hash mixes them with.
    pub(super) salt: [u64; 2],
}

/// A mask as the list of the words it touches: what a subtable hashes and compares.
///
/// Words come in pairs, since a hash takes two at a time; an odd last one is paired with a word of which no bit
/// counts.
#[derive(Clone, Debug)]
pub struct SparseMask {
    pub(super) pairs: Vec<MaskPair>,
}

impl SparseMask {
    /// The words of `mask`, and the salts for [`hash_masked`](super::hash_masked) from a `seed`.
    pub fn new(mask: &FlowMask, seed: u64) -> SparseMask {
        let touched: Vec<usize> = mask.touched_words().collect();
        let pairs = touched.chunks(2).enumerate().map(|(i, pair)| {
            let (first, second) = (pair[0], pair.get(1).copied());
            MaskPair {
                index: [first, second.unwrap_or(first)],
                mask: [mask.words()[first], second.map_or(0, |second| mask.words()[second])],
                salt: salt_pair(seed, i),
            }
        });
        SparseMask { pairs: pairs.collect() }
    }

    /// Number of words a masked key has in this form: those the mask touches, made even.
    pub fn stride(&self) -> usize {
        self.pairs.len() * 2
    }

    /// The masked words of a key, pair by pair.
    #[inline(always)]
    pub fn masked<'a>(&'a self, key: &'a FlowKey) -> impl Iterator<Item = [u64; 2]> + 'a {
        let words = key.words();
        self.pairs.iter().map(|pair| pair.masked(words))
    }

    /// Whether a packet's key equals a masked key that is given by its words as [`SparseMask::masked`] gives them.
    #[inline(always)]
    pub fn equals(&self, key: &FlowKey, masked: &[u64]) -> bool {
        let (masked, _) = masked.as_chunks::<2>();
        let differ = self
            .masked(key)
            .zip(masked)
            .fold(0, |differ, (have, want)| differ | (have[0] ^ want[0]) | (have[1] ^ want[1]));
        differ == 0
    }

    /// The full form.
    pub fn to_mask(&self) -> FlowMask {
        let mut mask = FlowMask::WILDCARD;
        for pair in &self.pairs {
            pair.put(pair.mask, &mut mask.fields);
        }
        mask
    }

    /// A key from masked words as [`SparseMask::masked`] gives them.
    pub fn expand(&self, masked: &[u64]) -> FlowKey {
        let mut key = WILDCARDS;
        for (pair, values) in self.pairs.iter().zip(masked.as_chunks().0) {
            pair.put(*values, &mut key);
        }
        key
    }
}

impl MaskPair {
    /// The two words of a key, under the mask.
    #[inline(always)]
    pub(super) fn masked(&self, words: &[u64; KEY_WORDS]) -> [u64; 2] {
        [words[self.index[0]] & self.mask[0], words[self.index[1]] & self.mask[1]]
    }

    /// Joins two words into a key that has none of their bits.
    fn put(&self, values: [u64; 2], key: &mut FlowKey) {
        for (index, value) in self.index.into_iter().zip(values) {
            key.words_mut()[index] |= value;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = FlowKey> {
        // Few distinct bytes, so that keys often agree in some words.
        let word = prop_oneof![Just(0u64), Just(u64::MAX), 0u64..4, any::<u64>()];
        prop::collection::vec(word, KEY_WORDS).prop_map(|words| {
            let mut key = FlowKey::default();
            key.words_mut().copy_from_slice(&words);
            key
        })
    }

    #[test]
    fn exact_leaves_only_spare_bytes_out() {
        let mut mask = FlowMask::EXACT;
        for field in
            [&mut mask.fields.spare_tunnel[..], &mut mask.fields.spare_ct, &mut mask.fields.spare_pad]
        {
            assert!(field.iter().all(|b| *b == 0));
            field.fill(0xff);
        }
        mask.fields.spare_extra = [0xff; 32];
        mask.fields.nw_frag = 0xff;
        mask.fields.tcp_flags = ONES;
        mask.fields.ipv6_label = U32::MAX_VALUE;
        assert_eq!(mask.words(), &[u64::MAX; KEY_WORDS]);
    }

    #[test]
    fn helpers_are_parts_of_exact() {
        for part in
            [FlowMask::EXACT_BASE, FlowMask::EXACT_MACS, FlowMask::EXACT_VLANS, FlowMask::EXACT_FIVE_TUPLE]
        {
            assert!(part.is_subset_of(&FlowMask::EXACT));
            assert!(!part.is_wildcard());
            assert!(!FlowMask::EXACT.is_subset_of(&part));
        }
    }

    #[test]
    fn touched_words_of_a_bridge_megaflow() {
        let mut mask = FlowMask::EXACT_BASE;
        mask.union(&FlowMask::EXACT_MACS);
        assert_eq!(mask.touched_words().collect::<Vec<_>>(), [0, 1, 6, 8]);
    }

    proptest! {
        #[test]
        fn matching_is_equality_under_the_mask(packet in key(), rule in key(), mask in key()) {
            let mask = FlowMask { fields: mask };
            let masked = mask.apply(&rule);
            prop_assert_eq!(mask.matches(&packet, &masked), mask.apply(&packet) == masked);
            prop_assert!(mask.matches(&rule, &masked));
        }

        #[test]
        fn union_is_the_least_upper_bound(a in key(), b in key()) {
            let (a, b) = (FlowMask { fields: a }, FlowMask { fields: b });
            let mut joined = a;
            joined.union(&b);
            prop_assert!(a.is_subset_of(&joined) && b.is_subset_of(&joined));
            prop_assert_eq!(a.is_subset_of(&b), joined == b);
        }

        #[test]
        fn sparse_and_full_form_agree(packet in key(), other in key(), mask in key()) {
            let mask = FlowMask { fields: mask };
            let sparse = SparseMask::new(&mask, 0);
            prop_assert_eq!(sparse.to_mask(), mask);
            prop_assert_eq!(sparse.stride(), mask.touched_words().count().next_multiple_of(2));
            let words: Vec<u64> = sparse.masked(&packet).flatten().collect();
            prop_assert_eq!(sparse.expand(&words), mask.apply(&packet));
            prop_assert!(sparse.equals(&packet, &words));
            prop_assert_eq!(sparse.equals(&other, &words), mask.apply(&packet) == mask.apply(&other));
        }
    }
}
