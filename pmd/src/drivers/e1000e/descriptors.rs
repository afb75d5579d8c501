//! Layouts of descriptors: extended ones to receive (82574 datasheet, 7.1.5), data and context ones to send (7.2.10).
//!
//! All are 16 bytes, two words.

/// Bytes of a descriptor.
pub(super) const LEN: usize = 16;

/// What the card writes back into the second word of a receive descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Received {
    /// Bytes in the buffer.
    pub(super) len: usize,
    /// The frame ends here.
    pub(super) last: bool,
    /// The transport checksum was looked at and is right.
    pub(super) checksum_good: bool,
    /// The frame arrived broken.
    pub(super) broken: bool,
}

/// Done; last of a frame; UDP checksum looked at; TCP or UDP checksum looked at.
const RX_DONE: u64 = 1;
const RX_LAST: u64 = 1 << 1;
const RX_UDP_SEEN: u64 = 1 << 4;
const RX_TRANSPORT_SEEN: u64 = 1 << 5;
/// Transport checksum wrong; frame broken in one of several ways (CRC, symbol, sequence, carrier, data).
const RX_TRANSPORT_BAD: u64 = 1 << 29;
const RX_BROKEN: u64 = 1 << 24 | 1 << 25 | 1 << 26 | 1 << 28 | 1 << 31;

impl Received {
    /// Reads the second word. `None` while the card has not written it.
    #[inline]
    pub(super) fn from_word(word: u64) -> Option<Received> {
        if word & RX_DONE == 0 {
            return None;
        }
        Some(Received {
            len: usize::from((word >> 32) as u16),
            last: word & RX_LAST != 0,
            checksum_good: word & (RX_TRANSPORT_SEEN | RX_UDP_SEEN) != 0 && word & RX_TRANSPORT_BAD == 0,
            broken: word & RX_BROKEN != 0,
        })
    }

    /// The word that says this, as a card writes it.
    #[cfg(test)]
    pub(super) fn to_word(self) -> u64 {
        let bit = |set: bool, bits: u64| if set { bits } else { 0 };
        RX_DONE
            | bit(self.last, RX_LAST)
            | bit(self.checksum_good, RX_TRANSPORT_SEEN)
            | bit(self.broken, 1 << 24)
            | (self.len as u64) << 32
    }
}

/// Command bits of a transmit descriptor, in the upper half of the low part of its second word.
const TX_LAST: u64 = 1 << 24;
const TX_ADD_CRC: u64 = 1 << 25;
pub(super) const TX_REPORT: u64 = 1 << 27;
const TX_EXTENDED: u64 = 1 << 29;
/// Kind of an extended descriptor: data. A context is kind zero.
const TX_DATA: u64 = 1 << 20;
/// In the status part: the card is done with it.
pub(super) const TX_DONE: u64 = 1 << 32;
/// Option: insert the transport checksum that the last context describes.
const TX_CHECKSUM: u64 = 1 << (40 + 1);

/// Second word of a data descriptor of `len` bytes.
#[inline]
pub(super) fn data(len: usize, last: bool, checksum: bool) -> u64 {
    let bit = |set: bool, bits: u64| if set { bits } else { 0 };
    len as u64 | TX_DATA | TX_EXTENDED | TX_ADD_CRC | bit(last, TX_LAST) | bit(checksum, TX_CHECKSUM)
}

/// Both words of a context: sum from `start` to the end of the frame, store the result at `at`. Both are at most 255.
#[inline]
pub(super) fn context(start: u8, at: u8) -> [u64; 2] {
    [u64::from(start) << 32 | u64::from(at) << 40, TX_EXTENDED]
}

/// What a card reads from a transmit descriptor.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    Context { start: u8, at: u8 },
    Data { len: usize, last: bool, checksum: bool, report: bool },
}

#[cfg(test)]
impl Sent {
    pub(super) fn from_words(words: [u64; 2]) -> Sent {
        assert_ne!(words[1] & TX_EXTENDED, 0, "legacy descriptor");
        if words[1] & TX_DATA == 0 {
            return Sent::Context { start: (words[0] >> 32) as u8, at: (words[0] >> 40) as u8 };
        }
        Sent::Data {
            len: (words[1] & 0xf_ffff) as usize,
            last: words[1] & TX_LAST != 0,
            checksum: words[1] & TX_CHECKSUM != 0,
            report: words[1] & TX_REPORT != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_words() {
        assert_eq!(Received::from_word(0x0600_0000_0000), None, "not done");
        let got = Received::from_word(1514 << 32 | 0x23).unwrap();
        assert_eq!(got, Received { len: 1514, last: true, checksum_good: true, broken: false });
        assert_eq!(Received::from_word(got.to_word()), Some(got));
        assert!(!Received::from_word(1 << 29 | 0x23).unwrap().checksum_good);
        assert!(Received::from_word(1 << 24 | 0x3).unwrap().broken);
    }

    #[test]
    fn sent_words() {
        assert_eq!(
            Sent::from_words([0, data(60, true, false)]),
            Sent::Data { len: 60, last: true, checksum: false, report: false }
        );
        // As the manual draws it: DEXT 0x20, IFCS 0x02, EOP 0x01 in the command byte, DTYP 1, TXSM in the options.
        assert_eq!(data(60, true, true), 0x0000_0200_2310_003c);
        assert_eq!(Sent::from_words(context(34, 50)), Sent::Context { start: 34, at: 50 });
    }
}
