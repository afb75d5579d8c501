//! Header changes on the bytes of a frame, checksums kept right.
//!
//! Everything works on the head of a frame, its first contiguous bytes, and on the header offsets that key
//! extraction found. A field is first located: which bytes hold it, how far it is shifted in them, and which
//! checksums cover them. The change itself is then the same few lines for every field, and checksums are
//! updated by the difference (RFC 1624), so a packet that came in with a wrong checksum leaves with a wrong
//! one, and payload that is not in the head is not needed.
//!
//! - A UDP checksum of zero ("none") stays zero; a computed zero is stored as 0xffff.
//! - With `csum_partial` the L4 checksum field holds the un-complemented sum of the pseudo-header, as in a
//!   packet with `VIRTIO_NET_HDR_F_NEEDS_CSUM`: only addresses change it.
//! - A later fragment has no L4 header ([`Layers::l4`] is `None`), so nothing of L4 is touched.
//! - The CRC32c of SCTP is linear: its change follows from the changed bytes and their distance from the end,
//!   which the IP header tells. Only a fragment does not tell, and is an error.
//! - With a routing header that has segments left, an IPv6 destination is not part of the pseudo-header.
//!
//! Nothing here panics, whatever the bytes: a header that is not all there is an error and the frame is
//! unchanged.

use super::{SetField, crc32c};
use crate::{
    key::{Field, Layers, VLAN_PRESENT},
    wire::{
        IP_PROTO_AH, IP_PROTO_DSTOPTS, IP_PROTO_FRAGMENT, IP_PROTO_HOPOPTS, IP_PROTO_ICMP, IP_PROTO_ICMPV6,
        IP_PROTO_ROUTING, IP_PROTO_SCTP, IP_PROTO_TCP, IP_PROTO_UDP, checksum, is_vlan_type,
    },
};

/// Offset of the EtherType, and so of the outer tag.
const ETH_TYPE_AT: usize = 12;
/// Length of a VLAN tag.
const TAG_LEN: usize = 4;
/// IPv6 extension headers that are followed; extraction gives up at the same number.
const MAX_EXTENSIONS: usize = 8;

/// Why a frame was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RewriteError {
    /// The frame has no such header.
    #[error("the frame has no {}", .0.name())]
    Absent(Field),
    /// The header ends beyond the head of the frame.
    #[error("the header with {} is cut off", .0.name())]
    Truncated(Field),
    /// No action sets this field.
    #[error("{} cannot be set", .0.name())]
    NotSettable(Field),
    /// The CRC of a fragmented SCTP packet cannot be brought up to date.
    #[error("the SCTP checksum of a fragment cannot be updated")]
    SctpFragment,
    /// No room for a tag in front of the frame.
    #[error("no headroom for a VLAN tag")]
    NoHeadroom,
    /// The frame ends before its EtherType.
    #[error("the Ethernet header is cut off")]
    NoEthernet,
}

/// The head of a packet that can get longer and shorter at its front.
pub trait HeadMut {
    /// The bytes as they are now.
    fn bytes(&mut self) -> &mut [u8];
    /// Adds `n` bytes of any content at the front; false, and nothing done, if there is no room.
    fn grow_front(&mut self, n: usize) -> bool;
    /// Drops `n` bytes at the front; false, and nothing done, if there are fewer.
    fn shrink_front(&mut self, n: usize) -> bool;
}

/// Puts a tag between the MAC addresses and the EtherType, and moves `layers` along.
///
/// `tci` is priority and VLAN id; bit 12, which keys use for "present", goes out as zero.
pub fn push_vlan<H: HeadMut + ?Sized>(
    head: &mut H,
    layers: &mut Layers,
    tpid: u16,
    tci: u16,
) -> Result<(), RewriteError> {
    if head.bytes().len() < ETH_TYPE_AT + 2 {
        return Err(RewriteError::NoEthernet);
    }
    if !head.grow_front(TAG_LEN) {
        return Err(RewriteError::NoHeadroom);
    }
    let bytes = head.bytes();
    let Some(front) = bytes.get_mut(..ETH_TYPE_AT + TAG_LEN) else { return Err(RewriteError::NoEthernet) };
    front.copy_within(TAG_LEN.., 0);
    let [t0, t1] = tpid.to_be_bytes();
    let [c0, c1] = (tci & !VLAN_PRESENT).to_be_bytes();
    front[ETH_TYPE_AT..].copy_from_slice(&[t0, t1, c0, c1]);
    *layers = Layers { l3: moved(layers.l3(), 4), l4: moved(layers.l4(), 4) };
    Ok(())
}

/// Takes the outer tag away and moves `layers` along; false if there was none.
pub fn pop_vlan<H: HeadMut + ?Sized>(head: &mut H, layers: &mut Layers) -> Result<bool, RewriteError> {
    let bytes = head.bytes();
    if be16(bytes, ETH_TYPE_AT).is_none_or(|eth_type| !is_vlan_type(eth_type)) {
        return Ok(false);
    }
    if bytes.len() < ETH_TYPE_AT + TAG_LEN + 2 {
        return Err(RewriteError::Truncated(Field::VlanTci));
    }
    bytes.copy_within(..ETH_TYPE_AT, TAG_LEN);
    if !head.shrink_front(TAG_LEN) {
        return Err(RewriteError::Truncated(Field::VlanTci));
    }
    *layers = Layers { l3: moved(layers.l3(), -4), l4: moved(layers.l4(), -4) };
    Ok(true)
}

fn moved(at: Option<usize>, by: isize) -> u16 {
    at.and_then(|at| at.checked_add_signed(by))
        .and_then(|at| u16::try_from(at).ok())
        .unwrap_or(Layers::ABSENT)
}

/// Whether [`apply_set`] can set the field in a frame that has it.
pub fn is_settable(field: Field) -> bool {
    use Field::*;
    matches!(
        field,
        EthSrc | EthDst | VlanTci | VlanVid | VlanPcp | IpSrc | IpDst | IpTos | IpDscp | IpEcn | IpTtl
    ) || matches!(field, Ipv6Src | Ipv6Dst | Ipv6Tclass | Ipv6Hlimit | Ipv6Label | NdTarget)
        || matches!(field, TcpSrc | TcpDst | UdpSrc | UdpDst | SctpSrc | SctpDst)
        || matches!(field, IcmpType | IcmpCode | Icmpv6Type | Icmpv6Code)
        || matches!(field, ArpOp | ArpSpa | ArpTpa | ArpSha | ArpTha)
}

/// Sets a field and brings the checksums that cover it up to date. On an error the frame is unchanged.
///
/// `layers` is where extraction found the headers of this very head; `csum_partial` says that the L4 checksum is
/// left to the receiver (see the module's text).
pub fn apply_set(
    head: &mut [u8],
    layers: &Layers,
    set: &SetField,
    csum_partial: bool,
) -> Result<(), RewriteError> {
    let frame = Frame { head, layers };
    let place = frame.locate(set.field)?;
    let l4_checksum = frame.l4_checksum(&place, set.field, csum_partial)?;
    let ip_checksum = place.ipv4_checksum_at;

    let cut_off = RewriteError::Truncated(set.field);
    let old = load(head, place.at, place.width).ok_or(cut_off)?;
    let bits = if place.bits >= 128 { u128::MAX } else { (1 << place.bits) - 1 };
    // Bit 12 of a TCI means "present" in a key and "drop eligible" on the wire: it stays as it is.
    let keep = if set.field == Field::VlanTci { u128::from(VLAN_PRESENT) } else { 0 };
    let old_value = (old >> place.shift) & bits;
    let value = (set.apply_to(old_value) & bits & !keep) | (old_value & keep);
    let new = (old & !(bits << place.shift)) | (value << place.shift);
    if old == new {
        return Ok(());
    }

    let updated = |sum| checksum::update16(sum, sum_words(old), sum_words(new));
    if let Some(at) = ip_checksum {
        let sum = be16(head, at).ok_or(cut_off)?;
        store16(head, at, updated(sum));
    }
    match l4_checksum {
        L4Checksum::None => {}
        L4Checksum::Internet { at, udp } => {
            let sum = be16(head, at).ok_or(cut_off)?;
            if !(udp && sum == 0) {
                let protocol = if udp { IP_PROTO_UDP } else { 0 };
                store16(head, at, checksum::never_zero_for_udp(protocol, updated(sum)));
            }
        }
        L4Checksum::Partial { at } => {
            let sum = be16(head, at).ok_or(cut_off)?;
            store16(head, at, !updated(!sum));
        }
        L4Checksum::Crc { at, behind } => {
            let field = head.get_mut(at..at + 4).ok_or(cut_off)?;
            let change = crc32c::change((old ^ new) as u32 & 0xffff, behind).to_le_bytes();
            field.iter_mut().zip(change).for_each(|(byte, bits)| *byte ^= bits);
        }
    }
    store(head, place.at, place.width, new);
    Ok(())
}

/// Which L4 checksum changes with a field, and where it is.
enum L4Checksum {
    None,
    /// Internet checksum; for UDP zero means none.
    Internet {
        at: usize,
        udp: bool,
    },
    /// Un-complemented sum of the pseudo-header.
    Partial {
        at: usize,
    },
    /// CRC32c, with the number of bytes between the changed word and the end of the packet.
    Crc {
        at: usize,
        behind: usize,
    },
}

/// Which L4 checksum covers a field.
#[derive(Clone, Copy, PartialEq)]
enum Covered {
    No,
    /// By the pseudo-header.
    Pseudo,
    /// As part of the L4 header.
    L4,
}

/// Where a field is.
struct Place {
    at: usize,
    /// Bytes to read; even in number, and beginning at an even place of what a checksum covers, if one does.
    width: usize,
    /// Lowest bit of the field in those bytes.
    shift: u32,
    bits: u32,
    covered: Covered,
    /// Offset of the IPv4 header checksum when the field is in that header.
    ipv4_checksum_at: Option<usize>,
}

impl Place {
    fn plain(at: usize, width: usize) -> Place {
        Place { at, width, shift: 0, bits: width as u32 * 8, covered: Covered::No, ipv4_checksum_at: None }
    }

    fn part(self, shift: u32, bits: u32) -> Place {
        Place { shift, bits, ..self }
    }

    fn covered(self, covered: Covered) -> Place {
        Place { covered, ..self }
    }
}

struct Frame<'a> {
    head: &'a [u8],
    layers: &'a Layers,
}

/// What stands behind the IP header.
struct Upper {
    protocol: u8,
    /// A routing header with segments left came before it.
    routed: bool,
    fragment: bool,
}

impl Frame<'_> {
    fn locate(&self, field: Field) -> Result<Place, RewriteError> {
        use Field::*;
        match field {
            // Without its EtherType extraction sees no Ethernet header either.
            EthDst | EthSrc if self.head.len() < ETH_TYPE_AT + 2 => Err(RewriteError::NoEthernet),
            EthDst => Ok(Place::plain(0, 6)),
            EthSrc => Ok(Place::plain(6, 6)),
            VlanTci | VlanVid | VlanPcp => self.locate_vlan(field),
            IpSrc | IpDst | IpTos | IpDscp | IpEcn | IpTtl | Ipv6Src | Ipv6Dst | Ipv6Tclass | Ipv6Hlimit
            | Ipv6Label => self.locate_ip(field),
            ArpOp | ArpSpa | ArpTpa | ArpSha | ArpTha => self.locate_arp(field),
            TcpSrc | TcpDst | UdpSrc | UdpDst | SctpSrc | SctpDst | IcmpType | IcmpCode | Icmpv6Type
            | Icmpv6Code | NdTarget => self.locate_l4(field),
            _ => Err(RewriteError::NotSettable(field)),
        }
    }

    fn locate_vlan(&self, field: Field) -> Result<Place, RewriteError> {
        let eth_type = be16(self.head, ETH_TYPE_AT).ok_or(RewriteError::NoEthernet)?;
        if !is_vlan_type(eth_type) {
            return Err(RewriteError::Absent(field));
        }
        let tci = Place::plain(ETH_TYPE_AT + 2, 2);
        match field {
            Field::VlanVid => Ok(tci.part(0, 12)),
            Field::VlanPcp => Ok(tci.part(13, 3)),
            _ => Ok(tci),
        }
    }

    fn l3(&self, field: Field) -> Result<usize, RewriteError> {
        self.layers.l3().ok_or(RewriteError::Absent(field))
    }

    /// 4, 6 or, for ARP and nonsense, something else.
    fn ip_version(&self, l3: usize) -> u8 {
        // ARP begins with the hardware type, whose first byte is never 0x4_ or 0x6_ for Ethernet.
        self.head.get(l3).map_or(0, |byte| byte >> 4)
    }

    fn locate_ip(&self, field: Field) -> Result<Place, RewriteError> {
        let l3 = self.l3(field)?;
        let place = match self.ip_version(l3) {
            4 => {
                let place = match field {
                    Field::IpSrc => Place::plain(l3 + 12, 4).covered(Covered::Pseudo),
                    Field::IpDst => Place::plain(l3 + 16, 4).covered(Covered::Pseudo),
                    Field::IpTos => Place::plain(l3, 2).part(0, 8),
                    Field::IpDscp => Place::plain(l3, 2).part(2, 6),
                    Field::IpEcn => Place::plain(l3, 2).part(0, 2),
                    Field::IpTtl => Place::plain(l3 + 8, 2).part(8, 8),
                    _ => return Err(RewriteError::Absent(field)),
                };
                Place { ipv4_checksum_at: Some(l3 + 10), ..place }
            }
            6 => match field {
                Field::Ipv6Src => Place::plain(l3 + 8, 16).covered(Covered::Pseudo),
                Field::Ipv6Dst => Place::plain(l3 + 24, 16).covered(Covered::Pseudo),
                Field::IpTos | Field::Ipv6Tclass => Place::plain(l3, 2).part(4, 8),
                Field::IpDscp => Place::plain(l3, 2).part(6, 6),
                Field::IpEcn => Place::plain(l3, 2).part(4, 2),
                Field::IpTtl | Field::Ipv6Hlimit => Place::plain(l3 + 7, 1),
                Field::Ipv6Label => Place::plain(l3, 4).part(0, 20),
                _ => return Err(RewriteError::Absent(field)),
            },
            _ => return Err(RewriteError::Absent(field)),
        };
        Ok(place)
    }

    fn locate_arp(&self, field: Field) -> Result<Place, RewriteError> {
        let l3 = self.l3(field)?;
        // Ethernet hardware, IPv4 protocol and their address lengths.
        match self.head.get(l3..l3 + 6) {
            Some([0, 1, 8, 0, 6, 4]) => {}
            Some(_) => return Err(RewriteError::Absent(field)),
            None => return Err(RewriteError::Truncated(field)),
        }
        Ok(match field {
            Field::ArpSha => Place::plain(l3 + 8, 6),
            Field::ArpSpa => Place::plain(l3 + 14, 4),
            Field::ArpTha => Place::plain(l3 + 18, 6),
            Field::ArpTpa => Place::plain(l3 + 24, 4),
            _ => Place::plain(l3 + 6, 2),
        })
    }

    fn locate_l4(&self, field: Field) -> Result<Place, RewriteError> {
        use Field::*;
        let absent = RewriteError::Absent(field);
        let l4 = self.layers.l4().ok_or(absent)?;
        let protocol = self.upper().ok_or(absent)?.protocol;
        let (wanted, place) = match field {
            TcpSrc => (IP_PROTO_TCP, Place::plain(l4, 2)),
            TcpDst => (IP_PROTO_TCP, Place::plain(l4 + 2, 2)),
            UdpSrc => (IP_PROTO_UDP, Place::plain(l4, 2)),
            UdpDst => (IP_PROTO_UDP, Place::plain(l4 + 2, 2)),
            SctpSrc => (IP_PROTO_SCTP, Place::plain(l4, 2)),
            SctpDst => (IP_PROTO_SCTP, Place::plain(l4 + 2, 2)),
            IcmpType => (IP_PROTO_ICMP, Place::plain(l4, 2).part(8, 8)),
            IcmpCode => (IP_PROTO_ICMP, Place::plain(l4, 2).part(0, 8)),
            Icmpv6Type => (IP_PROTO_ICMPV6, Place::plain(l4, 2).part(8, 8)),
            Icmpv6Code => (IP_PROTO_ICMPV6, Place::plain(l4, 2).part(0, 8)),
            _ => (IP_PROTO_ICMPV6, Place::plain(l4 + 8, 16)),
        };
        if protocol != wanted {
            return Err(absent);
        }
        if field == NdTarget && !matches!(self.head.get(l4), Some(135 | 136)) {
            return Err(absent);
        }
        Ok(place.covered(Covered::L4))
    }

    /// The upper protocol of the IP packet.
    fn upper(&self) -> Option<Upper> {
        let l3 = self.layers.l3()?;
        match self.ip_version(l3) {
            4 => Some(Upper {
                protocol: *self.head.get(l3 + 9)?,
                routed: false,
                fragment: be16(self.head, l3 + 6)? & 0x3fff != 0,
            }),
            6 => self.upper_ipv6(l3),
            _ => None,
        }
    }

    fn upper_ipv6(&self, l3: usize) -> Option<Upper> {
        let mut upper = Upper { protocol: *self.head.get(l3 + 6)?, routed: false, fragment: false };
        let mut at = l3 + 40;
        for _ in 0..=MAX_EXTENSIONS {
            let len = match upper.protocol {
                IP_PROTO_HOPOPTS | IP_PROTO_DSTOPTS | IP_PROTO_ROUTING => {
                    (usize::from(*self.head.get(at + 1)?) + 1) * 8
                }
                IP_PROTO_AH => (usize::from(*self.head.get(at + 1)?) + 2) * 4,
                IP_PROTO_FRAGMENT => 8,
                _ => return Some(upper),
            };
            if upper.protocol == IP_PROTO_ROUTING && *self.head.get(at + 3)? != 0 {
                upper.routed = true;
            }
            if upper.protocol == IP_PROTO_FRAGMENT && be16(self.head, at + 2)? & 0xfff9 != 0 {
                upper.fragment = true;
            }
            upper.protocol = *self.head.get(at)?;
            at += len;
        }
        None
    }

    /// Which L4 checksum must follow a change of `place`.
    fn l4_checksum(&self, place: &Place, field: Field, partial: bool) -> Result<L4Checksum, RewriteError> {
        let (Some(l4), Some(upper)) = (self.layers.l4(), self.upper()) else { return Ok(L4Checksum::None) };
        let pseudo = place.covered == Covered::Pseudo;
        if place.covered == Covered::No || (pseudo && field == Field::Ipv6Dst && upper.routed) {
            return Ok(L4Checksum::None);
        }
        let at = match upper.protocol {
            IP_PROTO_TCP => l4 + 16,
            IP_PROTO_UDP => l4 + 6,
            IP_PROTO_ICMPV6 => l4 + 2,
            IP_PROTO_ICMP if !pseudo => l4 + 2,
            IP_PROTO_SCTP if !pseudo && !partial => return self.sctp_crc(place, l4, &upper),
            _ => return Ok(L4Checksum::None),
        };
        if self.head.len() < at + 2 {
            return Err(RewriteError::Truncated(field));
        }
        Ok(match (partial, pseudo) {
            (false, _) => L4Checksum::Internet { at, udp: upper.protocol == IP_PROTO_UDP },
            (true, true) => L4Checksum::Partial { at },
            (true, false) => L4Checksum::None,
        })
    }

    fn sctp_crc(&self, place: &Place, l4: usize, upper: &Upper) -> Result<L4Checksum, RewriteError> {
        if upper.fragment {
            return Err(RewriteError::SctpFragment);
        }
        let l3 = self.l3(Field::SctpSrc)?;
        let length_at = if self.ip_version(l3) == 4 { (l3, l3 + 2) } else { (l3 + 40, l3 + 4) };
        let len = be16(self.head, length_at.1).ok_or(RewriteError::Truncated(Field::SctpSrc))?;
        let end = length_at.0 + usize::from(len);
        let behind =
            end.checked_sub(place.at + place.width).ok_or(RewriteError::Truncated(Field::SctpSrc))?;
        if self.head.len() < l4 + 12 {
            return Err(RewriteError::Truncated(Field::SctpSrc));
        }
        Ok(L4Checksum::Crc { at: l4 + 8, behind })
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

fn store16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(to) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *to = value.to_be_bytes();
    }
}

/// `width` bytes as a number. One arm per width in use: copies of a length known to the compiler are single loads.
fn load(bytes: &[u8], at: usize, width: usize) -> Option<u128> {
    let bytes = bytes.get(at..)?;
    match width {
        1 => bytes.first().map(|byte| u128::from(*byte)),
        2 => bytes.first_chunk().map(|word| u16::from_be_bytes(*word).into()),
        4 => bytes.first_chunk().map(|word| u32::from_be_bytes(*word).into()),
        6 => bytes
            .first_chunk()
            .map(|[a, b, c, d, e, f]| u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]).into()),
        16 => bytes.first_chunk().map(|word| u128::from_be_bytes(*word)),
        _ => None,
    }
}

/// Stores what [`load`] loads.
fn store(bytes: &mut [u8], at: usize, width: usize, value: u128) {
    let Some(bytes) = bytes.get_mut(at..at + width) else { return };
    match width {
        1 => bytes.copy_from_slice(&[value as u8]),
        2 => bytes.copy_from_slice(&(value as u16).to_be_bytes()),
        4 => bytes.copy_from_slice(&(value as u32).to_be_bytes()),
        6 => {
            let [_, _, mac @ ..] = (value as u64).to_be_bytes();
            bytes.copy_from_slice(&mac);
        }
        _ => bytes.copy_from_slice(&value.to_be_bytes()),
    }
}

/// The one's-complement sum of the 16-bit words of a number.
fn sum_words(value: u128) -> u16 {
    let (high, low) = ((value >> 64) as u64, value as u64);
    checksum::fold((high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff))
}

#[cfg(test)]
mod tests;
