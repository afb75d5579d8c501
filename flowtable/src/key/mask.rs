//! Operations on masks: apply, match, join, compare, and the sparse form a subtable works with.
//!
//! A [`FlowMask`] has the shape of a key and is what the slow path fills in field by field. A table that looks
//! up thousands of packets through one mask wants only the few words that mask touches: [`SparseMask`].

use zerocopy::big_endian::{U16, U32};

use super::hash::{finish, mix, salt};
use super::{FlowKey, FlowMask, KEY_WORDS};

/// A key of all wildcards in `const` form.
const WILDCARDS: FlowKey = FlowKey {
    eth_dst: [0; 6],
    eth_src: [0; 6],
    eth_type: U16::ZERO,
    vlan_tci: U16::ZERO,
    nw_src: [0; 16],
    nw_dst: [0; 16],
    nw_proto: 0,
    nw_tos: 0,
    nw_ttl: 0,
    nw_frag: 0,
    tp_src: U16::ZERO,
    tp_dst: U16::ZERO,
    ipv6_label: U32::ZERO,
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

/// Index of a key word, as a type with no other values: so the compiler knows the range and checks no index.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
#[rustfmt::skip]
enum WordIndex {
    W00, W01, W02, W03, W04, W05, W06, W07, W08, W09, W10, W11,
    W12, W13, W14, W15, W16, W17, W18, W19, W20, W21, W22, W23,
}

impl WordIndex {
    #[rustfmt::skip]
    const ALL: [WordIndex; KEY_WORDS] = {
        use WordIndex::*;
        [
            W00, W01, W02, W03, W04, W05, W06, W07, W08, W09, W10, W11,
            W12, W13, W14, W15, W16, W17, W18, W19, W20, W21, W22, W23,
        ]
    };
}

/// A mask as the list of the words it touches: what a subtable hashes and compares.
///
/// The number of words is a constant, so that what is done word by word is unrolled and kept in registers. A mask that
/// touches fewer fills up with words of which no bit counts.
#[derive(Clone, Copy, Debug)]
pub struct SparseMask<const N: usize> {
    /// Indexes into the key's words.
    index: [WordIndex; N],
    /// Bits of those words that count.
    mask: [u64; N],
    /// What the hash mixes them with.
    salt: [u64; N],
    /// What it mixes an odd last one with.
    tail: u64,
}

impl<const N: usize> SparseMask<N> {
    /// The words of `mask`, and the salts of the hash from a `seed`. `None` if the mask touches more than `N` words.
    pub fn new(mask: &FlowMask, seed: u64) -> Option<SparseMask<N>> {
        let mut sparse = SparseMask {
            index: [WordIndex::W00; N],
            mask: [0; N],
            salt: core::array::from_fn(|i| salt(seed, i)),
            tail: salt(seed, N),
        };
        let mut touched = mask.touched_words();
        for ((index, bits), word) in sparse.index.iter_mut().zip(&mut sparse.mask).zip(&mut touched) {
            (*index, *bits) = (WordIndex::ALL[word], mask.words()[word]);
        }
        touched.next().is_none().then_some(sparse)
    }

    /// The words of a key that count, masked: what an entry keeps of its key.
    #[inline(always)]
    pub fn masked(&self, key: &FlowKey) -> [u64; N] {
        let words = key.words();
        core::array::from_fn(|i| words[self.index[i] as usize] & self.mask[i])
    }

    /// Hash of what [`SparseMask::masked`] gives. Who does not know the seed cannot make keys that collide.
    #[inline(always)]
    pub fn hash(&self, masked: &[u64; N]) -> u32 {
        let mut sum = 0u64;
        let mut i = 0;
        while i + 1 < N {
            sum = sum.wrapping_add(mix(masked[i] ^ self.salt[i], masked[i + 1] ^ self.salt[i + 1]));
            i += 2;
        }
        if i < N {
            sum = sum.wrapping_add(mix(masked[i] ^ self.salt[i], self.tail));
        }
        finish(sum)
    }

    /// The full form.
    pub fn to_mask(&self) -> FlowMask {
        FlowMask { fields: self.expand(&self.mask) }
    }

    /// A key from masked words.
    pub fn expand(&self, masked: &[u64; N]) -> FlowKey {
        let mut key = WILDCARDS;
        for (index, value) in self.index.iter().zip(masked) {
            key.words_mut()[*index as usize] |= value;
        }
        key
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
            let touched = mask.touched_words().count();
            let sparse = SparseMask::<KEY_WORDS>::new(&mask, 0).unwrap();
            prop_assert_eq!(sparse.to_mask(), mask);
            prop_assert_eq!(SparseMask::<7>::new(&mask, 0).is_some(), touched <= 7);
            let words = sparse.masked(&packet);
            prop_assert_eq!(sparse.expand(&words), mask.apply(&packet));
            prop_assert_eq!(sparse.masked(&other) == words, mask.apply(&packet) == mask.apply(&other));
        }
    }
}
