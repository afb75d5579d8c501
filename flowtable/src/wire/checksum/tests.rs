//! The checksum against the definition, byte pair by byte pair.

use proptest::prelude::*;

use super::*;

/// RFC 1071 word for word.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Both forms of zero are the same number to a receiver.
fn same(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

#[test]
fn rfc_1071_example() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::new().bytes(&bytes).fold(), 0xddf2);
    assert_eq!(checksum(&bytes), !0xddf2);
}

#[test]
fn rfc_1624_example() {
    // Section 4: the case in which equation 2 gives 0xffff and equation 3 the right 0x0000.
    assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn ipv4_header_of_a_real_packet() {
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
        0xa8, 0x00, 0xc7,
    ];
    assert_eq!(ipv4_header(&header), 0xb861);
    assert_eq!(checksum(&header), 0);
    assert_eq!(ipv4_header(&header[..5]), checksum(&header[..5]));
}

#[test]
fn udp_never_sends_zero() {
    // Addresses zero, protocol 17, length 8 twice: a source port that makes the sum all ones.
    let fill = 0xffff - 17 - 8 - 8;
    let mut segment = [0u8; 8];
    segment[..2].copy_from_slice(&u16::to_be_bytes(fill));
    segment[5] = 8;
    assert_eq!(transport_ipv4([0; 4], [0; 4], 17, &segment), 0xffff);
    assert_eq!(transport_ipv6(&[0; 16], &[0; 16], 17, &segment), 0xffff);
}

proptest! {
    #[test]
    fn whole_agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(checksum(&bytes), naive(&bytes));
    }

    #[test]
    fn pieces_agree_with_whole(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(0usize..300, 0..6)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.push(0);
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let sum = cuts.windows(2).fold(Sum::new(), |s, w| s.bytes(&bytes[w[0]..w[1]]));
        prop_assert!(same(sum.finish(), naive(&bytes)), "{:04x} {:04x}", sum.finish(), naive(&bytes));
    }

    #[test]
    fn update_agrees_with_recompute(
        mut bytes in prop::collection::vec(any::<u8>(), 2..200), at in any::<prop::sample::Index>(),
        new in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        // A first byte that stays keeps the data from being all zero, where zero has two forms.
        bytes[0] |= 1;
        let before = naive(&bytes);
        let start = (2 + at.index(bytes.len())) & !1;
        let end = (start + new.len()).min(bytes.len());
        prop_assume!(start < end);
        let old = bytes[start..end].to_vec();
        let new = &new[..end - start];
        bytes[start..end].copy_from_slice(new);
        prop_assert_eq!(update_bytes(before, &old, new), naive(&bytes));
    }

    #[test]
    fn word_updates_agree_with_bytes(checksum: u16, old: u32, new: u32) {
        let (old_bytes, new_bytes) = (old.to_be_bytes(), new.to_be_bytes());
        prop_assert_eq!(update32(checksum, old, new), update_bytes(checksum, &old_bytes, &new_bytes));
        let (old, new) = (old as u16, new as u16);
        prop_assert_eq!(update16(checksum, old, new), update_bytes(checksum, &old.to_be_bytes(), &new.to_be_bytes()));
    }

    #[test]
    fn a_receiver_accepts_transport_checksums(
        src: [u8; 16], dst: [u8; 16], tcp: bool, mut segment in prop::collection::vec(any::<u8>(), 20..200),
    ) {
        let (protocol, field) = if tcp { (6, 16) } else { (17, 6) };
        segment[field] = 0;
        segment[field + 1] = 0;
        let (src4, dst4) = ([src[0], src[1], src[2], src[3]], [dst[0], dst[1], dst[2], dst[3]]);
        let sum = transport_ipv4(src4, dst4, protocol, &segment);
        let mut filled = segment.clone();
        filled[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        prop_assert_eq!(pseudo_ipv4(src4, dst4, protocol, filled.len() as u16).bytes(&filled).fold(), 0xffff);
        let sum = transport_ipv6(&src, &dst, protocol, &segment);
        filled[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        prop_assert_eq!(pseudo_ipv6(&src, &dst, protocol, filled.len() as u32).bytes(&filled).fold(), 0xffff);
    }
}
