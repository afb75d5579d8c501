//! Hash maps for the slow path: fast, and seeded so that nobody can choose keys that collide.
//!
//! The standard hasher is made for keys of any length from anywhere and costs several hundred instructions for a flow
//! key. Here a word or two cost one folded product, as in [`crate::key`]'s hashes. It is not cryptographic: each map draws its
//! secret from the standard library's random state, so a peer that sees no hashes cannot aim for one bucket.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map with [`SeededState`]. Made with `default()`.
pub type SeededMap<K, V> = HashMap<K, V, SeededState>;

/// Makes hashers that share a secret.
#[derive(Clone, Debug)]
pub struct SeededState {
    start: u64,
    salt: u64,
}

impl Default for SeededState {
    fn default() -> SeededState {
        let random = RandomState::new();
        SeededState { start: random.hash_one(0), salt: random.hash_one(1) | 1 }
    }
}

impl BuildHasher for SeededState {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher { state: self.start, salt: self.salt }
    }
}

/// A hash under way.
#[derive(Clone, Debug)]
pub struct SeededHasher {
    state: u64,
    salt: u64,
}

impl SeededHasher {
    #[inline(always)]
    fn mix(&mut self, first: u64, second: u64) {
        let product = u128::from(self.state ^ first) * u128::from(self.salt ^ second);
        // Folded in, not put in place: a product of zero does not forget what came before.
        self.state = self.state.rotate_left(23) ^ (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for SeededHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (pairs, rest) = bytes.as_chunks::<16>();
        for pair in pairs {
            let pair = u128::from_le_bytes(*pair);
            self.mix(pair as u64, (pair >> 64) as u64);
        }
        if !rest.is_empty() {
            let mut last = [0; 16];
            last[..rest.len()].copy_from_slice(rest);
            let last = u128::from_le_bytes(last);
            self.mix(last as u64, (last >> 64) as u64 ^ rest.len() as u64);
        }
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.mix(value.into(), 0);
    }

    #[inline]
    fn write_u16(&mut self, value: u16) {
        self.mix(value.into(), 0);
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.mix(value.into(), 0);
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.mix(value, 0);
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64, 0);
    }

    #[inline]
    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * u128::from(self.salt);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_spread_over_buckets() {
        let state = SeededState::default();
        let mut buckets = [0u32; 256];
        for n in 0..65_536u64 {
            let mut key = [0u64; 24];
            key[(n % 24) as usize] = n << 8;
            buckets[(state.hash_one(key) & 255) as usize] += 1;
        }
        assert!(buckets.iter().all(|n| (128..512).contains(n)), "{buckets:?}");
        let tops: std::collections::HashSet<u64> =
            (0..4096u64).map(|n| state.hash_one(n as u16) >> 57).collect();
        assert!(tops.len() > 100, "the map compares the upper bits first: {}", tops.len());
    }

    #[test]
    fn two_maps_do_not_share_their_secret() {
        let (one, other) = (SeededState::default(), SeededState::default());
        let same = (0..1000u64).filter(|n| one.hash_one(n) == other.hash_one(n)).count();
        assert!(same < 10, "{same}");
    }

    #[test]
    fn lengths_and_places_count() {
        let state = SeededState::default();
        let hashes: std::collections::HashSet<u64> =
            (0..64).map(|len| state.hash_one(vec![0u8; len])).collect();
        assert_eq!(hashes.len(), 64);
        assert_ne!(state.hash_one([1u64, 2, 3, 4]), state.hash_one([3u64, 4, 1, 2]));
    }
}
