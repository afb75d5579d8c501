//! The internet checksum: whole (RFC 1071), incremental (RFC 1624) and with pseudo-headers.
//!
//! Checksums are plain `u16` values as `U16::get` reads them from a header, so `field.set(checksum)` stores one.
//! The incremental forms use equation 3 of RFC 1624 (`~(~C + ~m + m')`), which gives the value that a full
//! computation by the sender would have given, all-ones and zero included as long as the data is not all zero.
//!
//! Cost: [`Sum::bytes`] takes 4 bytes per addition into a 64-bit accumulator, in a loop the compiler makes wide; an
//! update is a handful of additions whatever the length of the packet.

use super::IP_PROTO_UDP;

/// A running one's-complement sum over bytes that come in pieces of any length.
///
/// A piece of odd length is fine anywhere: the next piece continues in the low half of the open 16-bit word.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Sum of big-endian 16-bit words, kept below 2^33 between calls.
    acc: u64,
    /// Whether an odd number of bytes went in so far.
    odd: bool,
}

impl Sum {
    /// Nothing summed yet.
    pub const fn new() -> Sum {
        Sum { acc: 0, odd: false }
    }

    /// Goes on from a folded, not complemented sum, such as a partial checksum with the pseudo-header only.
    pub const fn from_folded(sum: u16) -> Sum {
        Sum { acc: sum as u64, odd: false }
    }

    /// Adds bytes of the packet.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let piece = sum_words(bytes);
        // A byte moves between the halves of its word when the piece begins at an odd place: RFC 1071 (2)(B).
        let piece = if self.odd { piece.swap_bytes() } else { piece };
        Sum { acc: self.acc + u64::from(piece), odd: self.odd ^ (bytes.len() % 2 == 1) }.settle()
    }

    /// Adds one 16-bit value. The bytes so far must be even in number, as in any header.
    #[inline]
    #[must_use]
    pub fn word(self, value: u16) -> Sum {
        debug_assert!(!self.odd);
        Sum { acc: self.acc + u64::from(value), ..self }.settle()
    }

    /// The sum in 16 bits, carries added back, not complemented.
    #[inline]
    pub fn fold(self) -> u16 {
        fold(self.acc)
    }

    /// The checksum: the complement of [`Sum::fold`].
    #[inline]
    pub fn finish(self) -> u16 {
        !self.fold()
    }

    fn settle(self) -> Sum {
        Sum { acc: (self.acc & 0xffff_ffff) + (self.acc >> 32), ..self }
    }
}

/// Folds a sum of 16-bit words into 16 bits by adding the carries back in.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Folded sum of the bytes as big-endian 16-bit words, a last odd byte in the high half.
///
/// The sum does not care about byte order until the end (RFC 1071 (2)(B)), so words are added as the machine
/// reads them and swapped once.
fn sum_words(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut acc: u64 = words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum();
    let mut tail = [0; 4];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
    acc += u64::from(u32::from_ne_bytes(tail));
    u16::from_be(fold(acc))
}

/// The internet checksum of one slice (ICMP; any header whose checksum field is zero).
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).finish()
}

/// The checksum of an IPv4 header with its options; the checksum field's own bytes do not count.
#[inline]
pub fn ipv4_header(header: &[u8]) -> u16 {
    match (header.get(..10), header.get(12..)) {
        (Some(front), Some(back)) => Sum::new().bytes(front).bytes(back).finish(),
        _ => checksum(header),
    }
}

/// Sum of the IPv4 pseudo-header. `len` is the length of transport header and payload.
#[inline]
pub fn pseudo_ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, len: u16) -> Sum {
    Sum::new().bytes(&src).bytes(&dst).word(u16::from(protocol)).word(len)
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1). `len` is the length of transport header and payload.
#[inline]
pub fn pseudo_ipv6(src: &[u8; 16], dst: &[u8; 16], protocol: u8, len: u32) -> Sum {
    Sum::new().bytes(src).bytes(dst).bytes(&len.to_be_bytes()).word(u16::from(protocol))
}

/// The checksum field of a TCP or UDP segment over IPv4, whose own checksum field must be zero.
///
/// For UDP a computed zero becomes `0xffff`: zero would say "no checksum" (RFC 768).
pub fn transport_ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, segment: &[u8]) -> u16 {
    let sum = pseudo_ipv4(src, dst, protocol, segment.len() as u16).bytes(segment).finish();
    never_zero_for_udp(protocol, sum)
}

/// The checksum field of a TCP, UDP or ICMPv6 segment over IPv6, whose own checksum field must be zero.
///
/// For UDP a computed zero becomes `0xffff`, as in [`transport_ipv4`].
pub fn transport_ipv6(src: &[u8; 16], dst: &[u8; 16], protocol: u8, segment: &[u8]) -> u16 {
    let sum = pseudo_ipv6(src, dst, protocol, segment.len() as u32).bytes(segment).finish();
    never_zero_for_udp(protocol, sum)
}

/// What to store for a checksum of `protocol`: UDP sends zero as all ones.
#[inline]
pub fn never_zero_for_udp(protocol: u8, checksum: u16) -> u16 {
    if protocol == IP_PROTO_UDP && checksum == 0 { 0xffff } else { checksum }
}

/// The checksum after one 16-bit word it covers went from `old` to `new`.
#[inline]
#[must_use]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The checksum after 32 bits it covers, beginning at an even place, went from `old` to `new`.
#[inline]
#[must_use]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The checksum after bytes it covers, beginning at an even place, went from `old` to `new`.
///
/// The two may differ in length as long as what follows them stays at an even place.
#[inline]
#[must_use]
pub fn update_bytes(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let old = !sum_words(old);
    !fold(u64::from(!checksum) + u64::from(old) + u64::from(sum_words(new)))
}

#[cfg(test)]
mod tests;
