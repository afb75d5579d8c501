//! Extended transmit descriptors, data and context (82574 datasheet, 7.2.10). What is received is [`crate::nic::intel::Received`].

#[cfg(test)]
use crate::nic::intel::model::{Data, Sent};
use crate::nic::intel::{Context, Cut, Format};

/// The descriptors of this card.
pub(super) struct Extended;

/// Command bits of a transmit descriptor, in the upper half of the low part of its second word.
const TX_LAST: u64 = 1 << 24;
const TX_ADD_CRC: u64 = 1 << 25;
const TX_EXTENDED: u64 = 1 << 29;
/// Kind of an extended descriptor: data. A context is kind zero.
const TX_DATA: u64 = 1 << 20;
/// Command of both kinds: cut into segments.
const TX_SEGMENT: u64 = 1 << 26;
/// Commands of a context that segments: TCP, in IPv4.
const TX_TCP: u64 = 1 << 24;
const TX_IPV4: u64 = 1 << 25;
/// Options: insert the checksum of the IPv4 header, and that of the transport, which the last context describes.
const TX_IP_CHECKSUM: u64 = 1 << 40;
const TX_CHECKSUM: u64 = 1 << (40 + 1);

/// The last place the card can name.
const LAST_PLACE: u16 = 255;
/// Where the checksums are, from the start of their headers.
const IP_CHECKSUM: u16 = 10;
const TCP_CHECKSUM: u16 = 16;
/// An IPv6 header without extensions, behind which the card is left to find TCP.
const IPV6_HEADER: u16 = 40;

impl Format for Extended {
    // It has the length of the frame in it.
    const CUT_STAYS: bool = false;

    fn can_sum(start: u16, offset: u16) -> bool {
        start.saturating_add(offset) <= LAST_PLACE
    }

    fn can_cut(cut: &Cut) -> bool {
        cut.headers <= LAST_PLACE && (!cut.is_v6 || cut.l4 == cut.l3 + IPV6_HEADER)
    }

    fn context(context: &Context, total: usize) -> [u64; 2] {
        let sum = |start: u16, at: u16| u64::from(start.min(LAST_PLACE)) << 32 | u64::from(at) << 40;
        match *context {
            Context::Sum { start, offset } => {
                [sum(start, start.saturating_add(offset).min(LAST_PLACE)), TX_EXTENDED]
            }
            Context::Cut(Cut { l3, l4, headers, size, is_v6 }) => {
                let ip = u64::from(l3);
                // Where the sum of the IPv4 header goes, and its last byte.
                let ipv4 = u64::from(l3 + IP_CHECKSUM) << 8 | u64::from(l4 - 1) << 16;
                let (ip, network) = if is_v6 { (ip, 0) } else { (ip | ipv4, TX_IPV4) };
                let payload = total.saturating_sub(headers.into()) as u64;
                let sizes = payload | u64::from(headers) << 40 | u64::from(size) << 48;
                [ip | sum(l4, l4 + TCP_CHECKSUM), TX_EXTENDED | TX_SEGMENT | TX_TCP | network | sizes]
            }
        }
    }

    fn data(len: usize, _total: usize, last: bool, context: Option<&Context>) -> u64 {
        let what = match context {
            None => 0,
            Some(Context::Sum { .. }) => TX_CHECKSUM,
            Some(Context::Cut(Cut { is_v6: true, .. })) => TX_SEGMENT | TX_CHECKSUM,
            Some(Context::Cut(_)) => TX_SEGMENT | TX_CHECKSUM | TX_IP_CHECKSUM,
        };
        len as u64 | TX_DATA | TX_EXTENDED | TX_ADD_CRC | what | if last { TX_LAST } else { 0 }
    }
}

/// What a card reads from a transmit descriptor.
#[cfg(test)]
pub(super) fn sent(words: [u64; 2]) -> Sent {
    assert_ne!(words[1] & TX_EXTENDED, 0, "legacy descriptor");
    let has = |bit: u64| words[1] & bit != 0;
    let len = (words[1] & 0xf_ffff) as usize;
    if !has(TX_DATA) {
        let [l3, ip_at, ip_end, _, start, at, ..] = words[0].to_le_bytes().map(u16::from);
        if !has(TX_SEGMENT) {
            return Sent::Context { context: Context::Sum { start, offset: at - start }, payload: None };
        }
        let [headers, size] = [words[1] >> 40 & 0xff, words[1] >> 48].map(|field| field as u16);
        let cut = Cut { l3, l4: start, headers, size, is_v6: !has(TX_IPV4) };
        assert!(has(TX_TCP));
        assert_eq!(at, start + TCP_CHECKSUM);
        assert_eq!((ip_at, ip_end), if cut.is_v6 { (0, 0) } else { (l3 + IP_CHECKSUM, start - 1) });
        return Sent::Context { context: Context::Cut(cut), payload: Some(len) };
    }
    Sent::Data(Data {
        len,
        payload: None,
        last: has(TX_LAST),
        checksum: has(TX_CHECKSUM),
        ip_checksum: has(TX_IP_CHECKSUM),
        cut: has(TX_SEGMENT),
        report: has(crate::nic::intel::TX_REPORT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_words() {
        let context = Context::Sum { start: 34, offset: 16 };
        // As the manual draws it: DEXT 0x20, IFCS 0x02, EOP 0x01 in the command byte, DTYP 1, TXSM in the options.
        assert_eq!(Extended::data(60, 60, true, Some(&context)), 0x0000_0200_2310_003c);
        assert_eq!(Extended::data(60, 60, false, None), 0x0000_0000_2210_003c);
        assert_eq!(sent(Extended::context(&context, 60)), Sent::Context { context, payload: None });
    }

    #[test]
    fn words_of_what_is_cut() {
        let cut = Cut { l3: 18, l4: 38, headers: 70, size: 1448, is_v6: false };
        let context = Context::Cut(cut);
        // From the low byte on: start, checksum and end of the IP header; of TCP, with an end of zero for that of the frame.
        // Then PAYLEN, commands DEXT 0x20, TSE 0x04, IP 0x02, TCP 0x01, HDRLEN and MSS.
        let words = [0x0000_3626_0025_1c12, 60_000 | 0x27 << 24 | 70 << 40 | 1448 << 48];
        assert_eq!(Extended::context(&context, 60_070), words);
        assert_eq!(sent(words), Sent::Context { context, payload: Some(60_000) });
        assert_eq!(Extended::data(2048, 60_070, false, Some(&context)), 0x0000_0300_2610_0800);
        let cut6 = Cut { l4: 58, headers: 90, is_v6: true, ..cut };
        let v6 = Context::Cut(cut6);
        let words = [0x0000_4a3a_0000_0012, 60_000 | 0x25 << 24 | 90 << 40 | 1448 << 48];
        assert_eq!(Extended::context(&v6, 60_090), words);
        assert_eq!(Extended::data(2048, 60_090, false, Some(&v6)), 0x0000_0200_2610_0800);
        assert!(Extended::can_cut(&cut) && Extended::can_cut(&cut6));
        assert!(
            !Extended::can_cut(&Cut { l4: 66, headers: 98, is_v6: true, ..cut }),
            "IPv6 with an extension"
        );
        assert!(!Extended::can_cut(&Cut { headers: 256, ..cut }));
    }
}
