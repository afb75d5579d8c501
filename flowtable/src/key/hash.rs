//! Hashes over flow keys: for the signature cache, for subtables, for spreading flows.
//!
//! All are built from one step, the folded 64×64→128-bit product of two words: one multiply and one exclusive-or.
//! Each pair of words gets salts of its own, so the products do not wait for each other and the result is their sum.
//!
//! None is cryptographic. A table whose entries a peer can choose takes its salts from a secret seed, and stays
//! correct (only slower) under collisions; see [`crate::megaflow`].

use super::{FlowKey, KEY_WORDS, PLAIN_WORDS};

/// The salts of the hashes that need no seed: odd, and without a pattern.
static SALT: [u64; KEY_WORDS] = {
    let mut salt = [0; KEY_WORDS];
    let mut i = 0;
    while i < KEY_WORDS {
        salt[i] = splitmix(i as u64 + 1) | 1;
        i += 1;
    }
    salt
};

/// The i-th output of the SplitMix64 generator (Steele, Lea, Flood 2014) started at zero.
const fn splitmix(i: u64) -> u64 {
    let z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// High and low half of the product, folded together.
#[inline(always)]
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The last step: the sum in 32 bits, by the high half of one more product. The sum's own halves folded together
/// leave some fields half as much again of their share in a box (`any_two_bytes_of_the_key_spread` shows it).
#[inline(always)]
pub(super) fn finish(sum: u64) -> u32 {
    (sum.wrapping_mul(0x9fb2_1c65_1e98_df25) >> 32) as u32
}

/// Whether every word from [`PLAIN_WORDS`] on is zero.
#[inline(always)]
fn is_plain(key: &FlowKey) -> bool {
    key.words()[PLAIN_WORDS..].iter().fold(0, |all, word| all | word) == 0
}

/// Hash of the whole key, for the signature cache.
///
/// A plain packet costs six multiplies; ARP, ND and keys with tunnel or conntrack fields pay for the rest.
#[inline]
pub fn hash_key(key: &FlowKey) -> u32 {
    let sum = sum_pairs(key, 0, PLAIN_WORDS);
    if is_plain(key) { finish(sum) } else { finish(sum.wrapping_add(sum_rest(key))) }
}

/// Apart, so that the common case need not keep the rest of the key in registers.
#[inline(never)]
fn sum_rest(key: &FlowKey) -> u64 {
    sum_pairs(key, PLAIN_WORDS, KEY_WORDS)
}

#[inline(always)]
fn sum_pairs(key: &FlowKey, from: usize, to: usize) -> u64 {
    let words = key.words();
    let mut sum = 0u64;
    let mut i = from;
    while i + 1 < to {
        sum = sum.wrapping_add(mix(words[i] ^ SALT[i], words[i + 1] ^ SALT[i + 1]));
        i += 2;
    }
    sum
}

/// The i-th salt of a table with that seed.
pub(super) fn salt(seed: u64, i: usize) -> u64 {
    splitmix(seed.wrapping_add(splitmix(i as u64 + 1))) | 1
}

/// Hash of addresses, protocol and ports: the same for all packets of a connection in one direction, whatever
/// their MACs, TTL or flags, and for all fragments of one datagram (ports do not count in a fragment).
#[inline]
pub fn flow_hash(key: &FlowKey) -> u32 {
    let words = key.words();
    let mut ports = (u32::from(key.tp_src.get()) << 16) | u32::from(key.tp_dst.get());
    if key.nw_frag != 0 {
        ports = 0;
    }
    let tail = (u64::from(ports) << 8) | u64::from(key.nw_proto);
    let sum = mix(words[2] ^ SALT[2], words[3] ^ SALT[3])
        .wrapping_add(mix(words[4] ^ SALT[4], words[5] ^ SALT[5]))
        .wrapping_add(mix(tail ^ SALT[6], SALT[7]));
    finish(sum)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::*;
    use crate::key::{FlowMask, SparseMask};

    /// Hash of what the mask leaves of a key, as a subtable of `N` words takes it.
    fn hash_masked<const N: usize>(key: &FlowKey, mask: &SparseMask<N>) -> u32 {
        mask.hash(&mask.masked(key))
    }

    fn flow(i: u32) -> FlowKey {
        let mut key = FlowKey { in_port: 1 + i % 3, ..FlowKey::default() };
        key.nw_src[..4].copy_from_slice(&(0x0a00_0000 + i % 251).to_be_bytes());
        key.nw_dst[..4].copy_from_slice(&(0x0a01_0000 + i / 251).to_be_bytes());
        key.tp_src.set(1024 + (i % 7) as u16);
        key
    }

    /// Most of the fullest of 1024 boxes: a good hash puts about 64 of 65536 flows into each.
    fn fullest(hash: impl Fn(&FlowKey) -> u32, shift: u32) -> usize {
        let mut boxes = [0usize; 1024];
        for i in 0..65_536 {
            boxes[(hash(&flow(i)) >> shift) as usize % 1024] += 1;
        }
        boxes.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn neighbouring_flows_spread() {
        let sparse = SparseMask::<7>::new(&FlowMask::EXACT_FIVE_TUPLE, 0).unwrap();
        for shift in [0, 11, 21] {
            assert!(fullest(hash_key, shift) < 110);
            assert!(fullest(flow_hash, shift) < 110);
            assert!(fullest(|key| hash_masked(key, &sparse), shift) < 110);
        }
    }

    #[test]
    fn any_two_bytes_of_the_key_spread() {
        // An even and an odd number of words, which ends otherwise.
        const ODD: usize = 7;
        let mut mask = FlowMask { fields: FlowKey::read_from_bytes(&[0xff; KEY_WORDS * 8]).unwrap() };
        let even = SparseMask::<KEY_WORDS>::new(&mask, 5).unwrap();
        mask.words_mut()[ODD..].fill(0);
        let odd = SparseMask::<ODD>::new(&mask, 5).unwrap();
        type Hash<'a> = &'a dyn Fn(&FlowKey) -> u32;
        let hashes: [(Hash<'_>, usize); 3] = [
            (&hash_key, KEY_WORDS),
            (&|key| hash_masked(key, &even), KEY_WORDS),
            (&|key| hash_masked(key, &odd), ODD),
        ];
        let places = |(hash, words)| (0..words * 8).map(move |at| (hash, words * 8, at));
        for (hash, len, at) in hashes.into_iter().flat_map(places) {
            let (mut low, mut high) = ([0usize; 64], [0usize; 64]);
            for i in 0..4096u32 {
                let mut bytes = [0; KEY_WORDS * 8];
                bytes[at] = (i % 64) as u8;
                bytes[(at + 13) % len] = (i / 64) as u8;
                let hash = hash(&FlowKey::read_from_bytes(&bytes).unwrap());
                low[hash as usize % 64] += 1;
                high[(hash >> 16) as usize % 64] += 1;
            }
            let fullest = low.into_iter().chain(high).max().unwrap_or(0);
            assert!(fullest < 110, "bytes {at} and {}: {fullest} of 4096 in one of 64 boxes", at + 13);
        }
    }

    #[test]
    fn every_word_counts() {
        let mut seen = HashSet::from([hash_key(&FlowKey::default())]);
        for word in 0..KEY_WORDS {
            for bit in [0, 31, 63] {
                let mut key = FlowKey::default();
                key.words_mut()[word] = 1 << bit;
                assert!(seen.insert(hash_key(&key)), "word {word} bit {bit}");
            }
        }
    }

    #[test]
    fn fragments_of_a_datagram_stay_together() {
        let mut first = FlowKey { nw_proto: 17, nw_frag: 1, ..flow(1) };
        let later = FlowKey { nw_frag: 3, ..first };
        first.tp_src.set(7);
        assert_eq!(flow_hash(&first), flow_hash(&later));
        let whole = FlowKey { nw_frag: 0, ..first };
        assert_ne!(flow_hash(&first), flow_hash(&whole));
    }

    #[test]
    fn seeds_give_different_hashes() {
        let hash =
            |seed| hash_masked(&flow(1), &SparseMask::<KEY_WORDS>::new(&FlowMask::EXACT, seed).unwrap());
        let hashes: HashSet<u32> = (0..100).map(hash).collect();
        assert_eq!(hashes.len(), 100);
    }

    proptest! {
        #[test]
        fn wildcarded_bits_do_not_count(a: u32, b: u32, seed: u64) {
            let sparse = SparseMask::<7>::new(&FlowMask::EXACT_FIVE_TUPLE, seed).unwrap();
            let (mut a, b) = (flow(a), flow(b));
            a.nw_src = b.nw_src;
            a.nw_dst = b.nw_dst;
            a.tp_src = b.tp_src;
            a.nw_ttl = 9;
            prop_assert_eq!(hash_masked(&a, &sparse), hash_masked(&b, &sparse));
            prop_assert_eq!(flow_hash(&a), flow_hash(&b));
        }
    }
}
