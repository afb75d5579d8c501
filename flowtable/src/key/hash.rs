//! Hashes over flow keys: for the exact-match cache, for subtables, for spreading flows.
//!
//! All are built from one step, the folded 64×64→128-bit product of two words: one multiply and one exclusive-or,
//! every input bit reaching every output bit. Each pair of words gets constants of its own, so the products do not
//! wait for each other and the result is their sum.
//!
//! None is cryptographic. Tables whose entries a peer can choose take a seed and stay correct (only slower) under
//! collisions; see [`crate::megaflow`].

use super::{FlowKey, KEY_WORDS, SparseMask};

/// Odd constants with no pattern: the binary digits of the fractional part of the golden ratio, run through
/// [`splitmix`].
const SALT: [u64; KEY_WORDS] = {
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
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The last step: all of the sum into 32 bits.
#[inline(always)]
fn finish(sum: u64) -> u32 {
    let h = mix(sum ^ SALT[0], SALT[1]);
    (h ^ (h >> 32)) as u32
}

/// Index of the first key word that is zero for a plain packet: one that is neither ARP nor ND and comes from no
/// tunnel and no conntrack.
pub(crate) const PLAIN_WORDS: usize = 10;

/// Whether every word from [`PLAIN_WORDS`] on is zero.
#[inline(always)]
pub(crate) fn is_plain(key: &FlowKey) -> bool {
    key.words()[PLAIN_WORDS..].iter().fold(0, |all, word| all | word) == 0
}

/// Hash of the whole key, for the exact-match cache.
///
/// A plain packet costs six multiplies; ARP, ND and keys with tunnel or conntrack fields pay for the rest.
#[inline]
pub fn hash_key(key: &FlowKey) -> u32 {
    let sum = sum_pairs(key, 0, PLAIN_WORDS);
    if is_plain(key) { finish(sum) } else { finish(sum.wrapping_add(sum_pairs(key, PLAIN_WORDS, KEY_WORDS))) }
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

/// Hash of the words a mask touches, under that mask.
#[inline]
pub fn hash_masked(key: &FlowKey, mask: &SparseMask, seed: u64) -> u32 {
    let mut sum = seed;
    for (word, salt) in mask.masked(key).zip(SALT) {
        sum = sum.wrapping_add(mix(word ^ salt, salt));
    }
    finish(sum)
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
