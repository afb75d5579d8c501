//! Row identifiers: 128 bits in the usual 8-4-4-4-12 text.
//!
//! Random ones are drawn from the standard library's keyed hash (SipHash under keys the kernel seeded)
//! over a counter: unguessable enough for names, unique for the life of the universe, and no I/O that
//! could fail in the middle of a transaction.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A row's identity. Orders by value.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(u128);

impl Uuid {
    /// All zeros: the default of a mandatory reference, never the name of a row.
    pub const ZERO: Uuid = Uuid(0);

    /// A fresh version-4 (random) identifier.
    pub fn random() -> Uuid {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let keys = RandomState::new();
        let high = keys.hash_one((count, 0u8));
        let low = keys.hash_one((count, 1u8));
        let bits = (u128::from(high) << 64) | u128::from(low);
        let version = (bits & !(0xf << 76)) | (4 << 76);
        Uuid((version & !(3 << 62)) | (2 << 62))
    }

    /// The identifier with these bits.
    pub const fn from_u128(bits: u128) -> Uuid {
        Uuid(bits)
    }

    /// Reads the 36-character text form, either case. `None` for anything else.
    pub fn parse(text: &str) -> Option<Uuid> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return None;
        }
        let mut bits: u128 = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return None;
                }
                continue;
            }
            let digit = char::from(byte).to_digit(16)?;
            bits = (bits << 4) | u128::from(digit);
        }
        Some(Uuid(bits))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            b >> 96,
            (b >> 80) & 0xffff,
            (b >> 64) & 0xffff,
            (b >> 48) & 0xffff,
            b & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        for _ in 0..100 {
            let id = Uuid::random();
            let text = id.to_string();
            assert_eq!(Uuid::parse(&text), Some(id));
            assert_eq!(&text[14..15], "4", "version nibble");
            assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "variant bits");
        }
        assert_eq!(
            Uuid::parse("36bef046-7da7-43a5-905a-c17899216fcb").map(|u| u.to_string()).as_deref(),
            Some("36bef046-7da7-43a5-905a-c17899216fcb")
        );
    }

    #[test]
    fn rejects_other_text() {
        for bad in [
            "",
            "36bef046",
            "36bef0467-da7-43a5-905a-c17899216fcb",
            "g6bef046-7da7-43a5-905a-c17899216fcb",
            "36bef046-7da7-43a5-905a-c17899216fcb0",
            "36bef046-7da7-43a5-905a-c1789921é",
        ] {
            assert_eq!(Uuid::parse(bad), None, "{bad}");
        }
    }
}
