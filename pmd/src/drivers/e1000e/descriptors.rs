//! Extended transmit descriptors, data and context (82574 datasheet, 7.2.10). What is received is [`crate::nic::intel::Received`].

use crate::nic::intel::Format;
#[cfg(test)]
use crate::nic::intel::model::{Context, Sent};

/// The descriptors of this card.
pub(super) struct Extended;

/// Command bits of a transmit descriptor, in the upper half of the low part of its second word.
const TX_LAST: u64 = 1 << 24;
const TX_ADD_CRC: u64 = 1 << 25;
const TX_EXTENDED: u64 = 1 << 29;
/// Kind of an extended descriptor: data. A context is kind zero.
const TX_DATA: u64 = 1 << 20;
/// Option: insert the transport checksum that the last context describes.
const TX_CHECKSUM: u64 = 1 << (40 + 1);

/// The last place the card can name.
const LAST_PLACE: u16 = 255;

impl Format for Extended {
    fn can_sum(start: u16, offset: u16) -> bool {
        start.saturating_add(offset) <= LAST_PLACE
    }

    fn context(start: u16, offset: u16) -> [u64; 2] {
        let at = start.saturating_add(offset).min(LAST_PLACE);
        [u64::from(start.min(LAST_PLACE)) << 32 | u64::from(at) << 40, TX_EXTENDED]
    }

    fn data(len: usize, _total: usize, last: bool, checksum: bool) -> u64 {
        let bit = |set: bool, bits: u64| if set { bits } else { 0 };
        len as u64 | TX_DATA | TX_EXTENDED | TX_ADD_CRC | bit(last, TX_LAST) | bit(checksum, TX_CHECKSUM)
    }
}

/// What a card reads from a transmit descriptor.
#[cfg(test)]
pub(super) fn sent(words: [u64; 2]) -> Sent {
    assert_ne!(words[1] & TX_EXTENDED, 0, "legacy descriptor");
    if words[1] & TX_DATA == 0 {
        let [_, _, _, _, start, at, ..] = words[0].to_le_bytes();
        return Sent::Context(Context { start: start.into(), offset: u16::from(at) - u16::from(start) });
    }
    Sent::Data {
        len: (words[1] & 0xf_ffff) as usize,
        total: None,
        last: words[1] & TX_LAST != 0,
        checksum: words[1] & TX_CHECKSUM != 0,
        report: words[1] & crate::nic::intel::TX_REPORT != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_words() {
        assert_eq!(
            sent([0, Extended::data(60, 60, true, false)]),
            Sent::Data { len: 60, total: None, last: true, checksum: false, report: false }
        );
        // As the manual draws it: DEXT 0x20, IFCS 0x02, EOP 0x01 in the command byte, DTYP 1, TXSM in the options.
        assert_eq!(Extended::data(60, 60, true, true), 0x0000_0200_2310_003c);
        assert_eq!(sent(Extended::context(34, 16)), Sent::Context(Context { start: 34, offset: 16 }));
    }
}
