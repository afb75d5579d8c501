//! Advanced transmit descriptors, data and context (82576 datasheet, 7.2.2): those of the 82576 and of its virtual functions.
//! What is received is [`super::Received`].

use super::Format;
#[cfg(test)]
use super::model::{Context, Sent};

/// The descriptors of these cards.
pub(crate) struct Advanced;

const LAST: u64 = 1 << 24;
const ADD_CRC: u64 = 1 << 25;
const EXTENDED: u64 = 1 << 29;
/// Kinds: context and data.
const KIND_CONTEXT: u64 = 2 << 20;
const KIND_DATA: u64 = 3 << 20;
/// Of a context: the transport is TCP; without it, UDP.
const TCP: u64 = 1 << 11;
/// Option: insert the transport checksum.
const CHECKSUM: u64 = 1 << (32 + 9);

/// Bytes of an Ethernet header. What is more before the transport header, tags included, counts as IP header: for a transport checksum only
/// the sum of both matters.
const MAC_HEADER: u16 = 14;
/// Longest IP header the card can name.
const LONGEST_IP_HEADER: u16 = 511;
/// Where TCP and UDP have their checksum.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

impl Format for Advanced {
    fn can_sum(start: u16, offset: u16) -> bool {
        (MAC_HEADER..=MAC_HEADER + LONGEST_IP_HEADER).contains(&start)
            && matches!(offset, TCP_CHECKSUM | UDP_CHECKSUM)
    }

    fn context(start: u16, offset: u16) -> [u64; 2] {
        let lengths = u64::from(start.saturating_sub(MAC_HEADER)) | u64::from(MAC_HEADER) << 9;
        let transport = if offset == TCP_CHECKSUM { TCP } else { 0 };
        [lengths, EXTENDED | KIND_CONTEXT | transport]
    }

    fn data(len: usize, total: usize, last: bool, checksum: bool) -> u64 {
        let bit = |set: bool, bits: u64| if set { bits } else { 0 };
        let whole = (total as u64) << (32 + 14);
        len as u64 | whole | EXTENDED | KIND_DATA | ADD_CRC | bit(last, LAST) | bit(checksum, CHECKSUM)
    }
}

/// What a card reads from a descriptor.
#[cfg(test)]
pub(crate) fn sent(words: [u64; 2]) -> Sent {
    assert_ne!(words[1] & EXTENDED, 0, "legacy descriptor");
    if words[1] & KIND_DATA == KIND_CONTEXT {
        let start = ((words[0] & 0x1ff) + (words[0] >> 9 & 0x7f)) as u16;
        let offset = if words[1] & TCP != 0 { TCP_CHECKSUM } else { UDP_CHECKSUM };
        return Sent::Context(Context { start, offset });
    }
    Sent::Data {
        len: (words[1] & 0xffff) as usize,
        total: Some((words[1] >> 46) as usize),
        last: words[1] & LAST != 0,
        checksum: words[1] & CHECKSUM != 0,
        report: words[1] & super::TX_REPORT != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_words() {
        let data = Advanced::data(60, 9000, true, true);
        assert_eq!(
            sent([0, data]),
            Sent::Data { len: 60, total: Some(9000), last: true, checksum: true, report: false }
        );
        // As the manual draws it: command byte DEXT 0x20, IFCS 0x02, EOP 0x01, kind 3; options TXSM at bit 9 of the upper half.
        assert_eq!(data, 9000 << 46 | 0x0000_0200_2330_003c);
        assert_eq!(sent(Advanced::context(34, 16)), Sent::Context(Context { start: 34, offset: 16 }));
        assert_eq!(sent(Advanced::context(58, 6)), Sent::Context(Context { start: 58, offset: 6 }));
        assert!(Advanced::can_sum(34, 16) && !Advanced::can_sum(34, 8) && !Advanced::can_sum(600, 16));
    }
}
