//! Advanced transmit descriptors, data and context (82576 datasheet, 7.2.2): those of the 82576 and of its virtual functions.
//! What is received is [`super::Received`].

use super::format::{Context, Cut, Format};
#[cfg(test)]
use super::model::{Data, Sent};

/// The descriptors of these cards.
pub(crate) struct Advanced;

const LAST: u64 = 1 << 24;
const ADD_CRC: u64 = 1 << 25;
const EXTENDED: u64 = 1 << 29;
/// Kinds: context and data.
const KIND_CONTEXT: u64 = 2 << 20;
const KIND_DATA: u64 = 3 << 20;
/// Of a context: the network is IPv4; the transport is TCP, without it UDP.
const IPV4: u64 = 1 << 10;
const TCP: u64 = 1 << 11;
/// Of data: cut into segments. Options: insert the checksum of the IPv4 header, and that of the transport.
const SEGMENT: u64 = 1 << 31;
const IP_CHECKSUM: u64 = 1 << (32 + 8);
const CHECKSUM: u64 = 1 << (32 + 9);

/// Bytes of an Ethernet header. What is more before the transport header, tags included, counts as IP header: for a transport checksum only
/// the sum of both matters.
const MAC_HEADER: u16 = 14;
/// Longest IP header the card can name.
const LONGEST_IP_HEADER: u16 = 511;
const LONGEST_TCP_HEADER: u16 = 255;
/// An IPv6 header without extensions, behind which the card is left to find TCP.
const IPV6_HEADER: u16 = 40;
/// Where TCP and UDP have their checksum.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

impl Format for Advanced {
    const CUT_STAYS: bool = true;

    fn can_sum(start: u16, offset: u16) -> bool {
        (MAC_HEADER..=MAC_HEADER + LONGEST_IP_HEADER).contains(&start)
            && matches!(offset, TCP_CHECKSUM | UDP_CHECKSUM)
    }

    fn can_cut(cut: &Cut) -> bool {
        let (ip_header, tcp_header) = (cut.l4 - cut.l3, cut.headers - cut.l4);
        ip_header <= LONGEST_IP_HEADER
            && tcp_header <= LONGEST_TCP_HEADER
            && (!cut.is_v6 || ip_header == IPV6_HEADER)
    }

    fn context(context: &Context, _total: usize) -> [u64; 2] {
        let lengths = |mac: u16, ip: u16| u64::from(ip) | u64::from(mac) << 9;
        match *context {
            Context::Sum { start, offset } => {
                let transport = if offset == TCP_CHECKSUM { TCP } else { 0 };
                let lengths = lengths(MAC_HEADER, start.saturating_sub(MAC_HEADER));
                [lengths, EXTENDED | KIND_CONTEXT | transport]
            }
            Context::Cut(Cut { l3, l4, headers, size, is_v6 }) => {
                let network = if is_v6 { 0 } else { IPV4 };
                let sizes = u64::from(headers - l4) << 40 | u64::from(size) << 48;
                [lengths(l3, l4 - l3), EXTENDED | KIND_CONTEXT | TCP | network | sizes]
            }
        }
    }

    fn data(len: usize, total: usize, last: bool, context: Option<&Context>) -> u64 {
        let (what, headers) = match context {
            None => (0, 0),
            Some(Context::Sum { .. }) => (CHECKSUM, 0),
            Some(Context::Cut(cut)) => {
                let ip = if cut.is_v6 { 0 } else { IP_CHECKSUM };
                (SEGMENT | CHECKSUM | ip, usize::from(cut.headers))
            }
        };
        // Of a frame to be cut, only what is cut counts.
        let whole = (total.saturating_sub(headers) as u64) << (32 + 14);
        len as u64 | whole | EXTENDED | KIND_DATA | ADD_CRC | what | if last { LAST } else { 0 }
    }
}

/// What a card reads from a descriptor.
#[cfg(test)]
pub(crate) fn sent(words: [u64; 2]) -> Sent {
    assert_ne!(words[1] & EXTENDED, 0, "legacy descriptor");
    let has = |bit: u64| words[1] & bit != 0;
    if words[1] & KIND_DATA == KIND_CONTEXT {
        let [mac, ip] = [words[0] >> 9 & 0x7f, words[0] & 0x1ff].map(|len| len as u16);
        let [l4_len, size] = [words[1] >> 40 & 0xff, words[1] >> 48].map(|field| field as u16);
        let context = if size == 0 {
            Context::Sum { start: mac + ip, offset: if has(TCP) { TCP_CHECKSUM } else { UDP_CHECKSUM } }
        } else {
            assert!(has(TCP));
            let l4 = mac + ip;
            Context::Cut(Cut { l3: mac, l4, headers: l4 + l4_len, size, is_v6: !has(IPV4) })
        };
        return Sent::Context { context, payload: None };
    }
    Sent::Data(Data {
        len: (words[1] & 0xffff) as usize,
        payload: Some((words[1] >> 46) as usize),
        last: has(LAST),
        checksum: has(CHECKSUM),
        ip_checksum: has(IP_CHECKSUM),
        cut: has(SEGMENT),
        report: has(super::TX_REPORT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_words() {
        let sum = |start, offset| Context::Sum { start, offset };
        // As the manual draws it: command byte DEXT 0x20, IFCS 0x02, EOP 0x01, kind 3; options TXSM at bit 9 of the upper half.
        let data = Advanced::data(60, 9000, true, Some(&sum(34, 16)));
        assert_eq!(data, 9000 << 46 | 0x0000_0200_2330_003c);
        for context in [sum(34, 16), sum(58, 6)] {
            assert_eq!(sent(Advanced::context(&context, 60)), Sent::Context { context, payload: None });
        }
        assert!(Advanced::can_sum(34, 16) && !Advanced::can_sum(34, 8) && !Advanced::can_sum(600, 16));
    }

    #[test]
    fn words_of_what_is_cut() {
        let cut = Cut { l3: 18, l4: 38, headers: 70, size: 1448, is_v6: false };
        let context = Context::Cut(cut);
        // MACLEN, IPLEN; DEXT, kind 2, TCP, IPv4; L4LEN, MSS.
        let words = [18 << 9 | 20, 0x2020_0c00 | 32 << 40 | 1448 << 48];
        assert_eq!(Advanced::context(&context, 60_000), words);
        assert_eq!(sent(words), Sent::Context { context, payload: None });
        // TSE 0x80 beside DEXT and IFCS; both sums; what is left without headers.
        let data = Advanced::data(2048, 60_070, false, Some(&context));
        assert_eq!(data, 60_000 << 46 | 0x0000_0300_a230_0800);
        let v6 = Context::Cut(Cut { l4: 58, headers: 90, is_v6: true, ..cut });
        assert_eq!(Advanced::context(&v6, 60_000)[1] & IPV4, 0);
        assert_eq!(Advanced::data(2048, 60_090, false, Some(&v6)), 60_000 << 46 | 0x0000_0200_a230_0800);
        assert!(
            Advanced::can_cut(&cut) && Advanced::can_cut(&Cut { l4: 58, headers: 90, is_v6: true, ..cut })
        );
        assert!(
            !Advanced::can_cut(&Cut { l4: 66, headers: 98, is_v6: true, ..cut }),
            "IPv6 with an extension"
        );
    }
}
