//! Finding the headers that segmentation rewrites.

use crate::packet::{Gso, Offload};
use crate::port::DropReason;

const ETH_LEN: usize = 14;
const TAG_LEN: usize = 4;
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const TAG_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Where the headers of a frame to be cut lie. All of them are in the head, in this order, and not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Headers {
    /// IP header.
    pub(super) l3: usize,
    /// TCP or UDP header.
    pub(super) l4: usize,
    /// First byte of the transport's payload.
    pub(super) payload: usize,
    /// End of what every fragment repeats: the IPv4 header, or the IPv6 header and its hop-by-hop options.
    pub(super) unfragmentable: usize,
    /// Where that part says what follows it: the IPv4 protocol, or the last next-header field.
    pub(super) next_header: usize,
    pub(super) is_v6: bool,
    pub(super) protocol: u8,
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Finds and checks the headers of a frame of `frame_len` bytes that asks for segmentation.
///
/// The headers themselves say where the transport begins, and a partial checksum must agree. The lengths in the IP header
/// are not looked at: they are rewritten, and some senders leave them zero before segmentation.
pub(super) fn locate(head: &[u8], frame_len: usize, offload: &Offload) -> Result<Headers, DropReason> {
    let bad = DropReason::RxBadOffload;
    let (l3, eth_type) = network_header(head).ok_or(bad)?;
    let protocol = match offload.gso {
        Gso::TcpV4 | Gso::TcpV6 => TCP,
        Gso::Udp | Gso::UdpL4 => UDP,
        Gso::None => return Err(bad),
    };
    let (l4, is_v6) = match eth_type {
        ETH_IPV4 if offload.gso != Gso::TcpV6 => (ipv4_end(head, l3, protocol).ok_or(bad)?, false),
        ETH_IPV6 if offload.gso != Gso::TcpV4 => (ipv6_end(head, l3, protocol)?, true),
        _ => return Err(bad),
    };
    let (unfragmentable, next_header) = match (is_v6, head.get(l3 + 6)) {
        (false, _) => (l4, l3 + 9),
        // `ipv6_end` has walked over it, so its length byte is there.
        (true, Some(&HOP_BY_HOP)) => (l3 + 48 + usize::from(head[l3 + 41]) * 8, l3 + 40),
        (true, _) => (l3 + 40, l3 + 6),
    };
    if offload.needs_csum && l4 != usize::from(offload.csum_start) {
        return Err(bad);
    }
    let transport_len = match (protocol, head.get(l4 + 12)) {
        (TCP, Some(offset)) => usize::from(offset >> 4) * 4,
        // Only as a lower bound; the check below fails then.
        (TCP, None) => 20,
        _ => 8,
    };
    let payload = l4 + transport_len;
    if (protocol == TCP && transport_len < 20) || payload > frame_len {
        return Err(bad);
    }
    if payload > head.len() {
        return Err(DropReason::TxNoOffload);
    }
    Ok(Headers { l3, l4, payload, unfragmentable, next_header, is_v6, protocol })
}

fn network_header(head: &[u8]) -> Option<(usize, u16)> {
    let mut at = ETH_LEN;
    let mut eth_type = be16(head, at - 2)?;
    for _ in 0..2 {
        if !TAG_TYPES.contains(&eth_type) {
            break;
        }
        at += TAG_LEN;
        eth_type = be16(head, at - 2)?;
    }
    Some((at, eth_type))
}

/// Where the transport of a frame begins that is TCP or UDP, and which; of the outermost IP packet, unfragmented.
pub(super) fn transport(head: &[u8]) -> Option<(usize, u8)> {
    let (l3, eth_type) = network_header(head)?;
    [TCP, UDP].into_iter().find_map(|protocol| {
        let l4 = match eth_type {
            ETH_IPV4 => ipv4_end(head, l3, protocol),
            ETH_IPV6 => ipv6_end(head, l3, protocol).ok(),
            _ => None,
        };
        l4.map(|l4| (l4, protocol))
    })
}

/// End of the IPv4 header, if it is one and carries `protocol` unfragmented.
fn ipv4_end(head: &[u8], l3: usize, protocol: u8) -> Option<usize> {
    let header = head.get(l3..l3 + 20)?;
    let len = usize::from(header[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    (header[0] >> 4 == 4 && len >= 20 && header[9] == protocol && fragment == 0).then_some(l3 + len)
}

/// End of the IPv6 header and its extensions (RFC 8200, section 4), if `protocol` follows them.
///
/// A routing header changes the address that checksums cover, and a fragment or encrypted packet cannot be cut: those are
/// left undone.
fn ipv6_end(head: &[u8], l3: usize, protocol: u8) -> Result<usize, DropReason> {
    let bad = DropReason::RxBadOffload;
    let header = head.get(l3..l3 + 40).ok_or(bad)?;
    if header[0] >> 4 != 6 {
        return Err(bad);
    }
    let (mut next, mut at) = (header[6], l3 + 40);
    while next != protocol {
        if ![HOP_BY_HOP, DESTINATION_OPTIONS].contains(&next) {
            return Err(if [ROUTING, FRAGMENT, AUTHENTICATION].contains(&next) {
                DropReason::TxNoOffload
            } else {
                bad
            });
        }
        // Each step is 8 bytes or more, so the head's end ends the walk.
        let Some(&[after, units]) = head.get(at..at + 2) else { return Err(DropReason::TxNoOffload) };
        next = after;
        at += 8 + usize::from(units) * 8;
    }
    Ok(at)
}
