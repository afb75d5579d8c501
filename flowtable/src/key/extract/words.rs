//! The words of a key that come from headers, put together in registers.

use zerocopy::big_endian::U16;

// Words of the key that are stored whole; flow_key.rs fixes the layout.
pub(super) const W_ETH: usize = 0;
pub(super) const W_NW_SRC: usize = 2;
pub(super) const W_NW_DST: usize = 4;
pub(super) const W_NW: usize = 6;
pub(super) const W_REST: usize = 7;
pub(super) const W_PORT: usize = 8;
pub(super) const W_TPID: usize = 9;

/// Two host-order 32-bit fields as one word, the first one first in memory. By shifts: put together from eight bytes, the compiler
/// loads the fields by bytes too.
#[inline(always)]
pub(super) fn pair(first: u32, second: u32) -> u64 {
    let (low, high) = if cfg!(target_endian = "little") { (first, second) } else { (second, first) };
    u64::from(low) | u64::from(high) << 32
}

/// What ports add to the word of protocol and ports; as four bytes in memory order.
#[inline(always)]
pub(super) fn ports_word(ports: u32) -> u64 {
    pair(0, ports)
}

/// What the label adds to the last word of the first line.
#[inline(always)]
pub(super) fn label_word(label: u32) -> u64 {
    let [a, b, c, d] = label.to_be_bytes();
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}

/// What TCP flags add to it.
#[inline(always)]
pub(super) fn flags_word(tcp_flags: u16) -> u64 {
    let [a, b] = tcp_flags.to_be_bytes();
    u64::from_ne_bytes([0, 0, 0, 0, a, b, 0, 0])
}

/// What the inner tag adds to it.
pub(super) fn inner_tci_word(tci: u16) -> u64 {
    let [a, b] = tci.to_be_bytes();
    u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a, b])
}

/// Two fields of a transport header in the form [`ports_word`] takes.
#[inline(always)]
pub(super) fn ports(src: U16, dst: U16) -> u32 {
    zerocopy::transmute!([src, dst])
}

/// The word of protocol, TOS, TTL, fragment bits and ports, without the ports.
#[inline(always)]
pub(super) fn network_word(protocol: u8, tos: u8, ttl: u8, frag: u8) -> u64 {
    u64::from_ne_bytes([protocol, tos, ttl, frag, 0, 0, 0, 0])
}

/// An IPv4 address in the first half of an address field.
#[inline(always)]
pub(super) fn ipv4_word(address: [u8; 4]) -> u64 {
    pair(u32::from_ne_bytes(address), 0)
}

/// An IPv6 address as the two words of an address field.
#[inline(always)]
pub(super) fn ipv6_words(address: &[u8; 16]) -> [u64; 2] {
    zerocopy::transmute!(*address)
}
