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

/// Where the headers of a frame to be cut lie. All of them are in the head, in this order, and not empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    /// IP header.
    pub(super) l3: usize,
    /// TCP or UDP header.
    pub(super) l4: usize,
    /// First byte of the transport's payload.
    pub(super) payload: usize,
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

/// Finds and checks the headers of a frame that asks for segmentation.
///
/// The transport header is where `csum_start` says, so IPv6 extension headers need no walk; what the IP header says must
/// agree with it.
pub(super) fn locate(head: &[u8], offload: &Offload) -> Result<Headers, DropReason> {
    let bad = DropReason::RxBadOffload;
    let (l3, eth_type) = network_header(head).ok_or(bad)?;
    let protocol = match offload.gso {
        Gso::TcpV4 | Gso::TcpV6 => TCP,
        Gso::Udp | Gso::UdpL4 => UDP,
        Gso::None => return Err(bad),
    };
    let (l4, is_v6) = match eth_type {
        ETH_IPV4 if offload.gso != Gso::TcpV6 => (ipv4_end(head, l3, protocol).ok_or(bad)?, false),
        ETH_IPV6 if offload.gso != Gso::TcpV4 => {
            let plain = l3 + 40;
            let first = *head.get(l3 + 6).ok_or(bad)?;
            // Without a partial checksum (old UDP fragmentation) only a plain header tells where UDP begins.
            let l4 = if offload.needs_csum { usize::from(offload.csum_start) } else { plain };
            if head[l3] >> 4 != 6 || l4 < plain || (l4 == plain) != (first == protocol) {
                return Err(bad);
            }
            (l4, true)
        }
        _ => return Err(bad),
    };
    if offload.needs_csum && l4 != usize::from(offload.csum_start) {
        return Err(bad);
    }
    let transport_len = if protocol == TCP { usize::from(head.get(l4 + 12).ok_or(bad)? >> 4) * 4 } else { 8 };
    let payload = l4 + transport_len;
    if (protocol == TCP && transport_len < 20) || payload > head.len() {
        return Err(bad);
    }
    Ok(Headers { l3, l4, payload, is_v6, protocol })
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

/// End of the IPv4 header, if it is one and carries `protocol` unfragmented.
fn ipv4_end(head: &[u8], l3: usize, protocol: u8) -> Option<usize> {
    let header = head.get(l3..l3 + 20)?;
    let len = usize::from(header[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    (header[0] >> 4 == 4 && len >= 20 && header[9] == protocol && fragment == 0).then_some(l3 + len)
}
