//! Descriptors of the rings, as words (`Vmxnet3_TxDesc`, `Vmxnet3_TxCompDesc`, `Vmxnet3_RxDesc`, `Vmxnet3_RxCompDesc`).
//!
//! All have 16 bytes. One that is given has its generation bit last: in the second word, which is stored last. One that is taken
//! has it at the top of the second word, which is loaded first.

/// Bytes of any descriptor.
pub(super) const LEN: usize = 16;

/// Largest length a descriptor can say, and with that a buffer can have.
const LENGTH: u64 = (1 << 14) - 1;

/// Of a receive descriptor's second word: the buffer is for what follows the first of a frame; the generation.
const RX_BODY: u64 = 1 << 14;
const RX_GENERATION: u64 = 1 << 31;

/// Second word of a receive descriptor.
pub(super) fn rx_word(len: usize, is_body: bool, generation: bool) -> u64 {
    len as u64 & LENGTH | if is_body { RX_BODY } else { 0 } | if generation { RX_GENERATION } else { 0 }
}

/// What the card does to a frame before it sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Nothing.
    Plain,
    /// Sums from `start` on and stores the result at `field`.
    Checksum { start: u16, field: u16 },
    /// Cuts it into segments of `size` bytes behind `headers` bytes of headers.
    Segment { headers: u16, size: u16 },
}

/// Largest value of the two fields of [`Mode`]: headers have 10 bits, the other 14.
pub(super) const LONGEST_HEADERS: usize = (1 << 10) - 1;
pub(super) const LARGEST_SEGMENT: u16 = (1 << 14) - 1;

/// Of a transmit descriptor's second word.
pub(super) const TX_GENERATION: u64 = 1 << 14;
const TX_EXTRA_SHIFT: u32 = 18;
const TX_MODE_CHECKSUM: u64 = 2 << (32 + 10);
const TX_MODE_SEGMENT: u64 = 3 << (32 + 10);
/// The frame ends here, and its completion is wanted.
const TX_LAST: u64 = 1 << (32 + 12) | 1 << (32 + 13);

/// Second word of a transmit descriptor of `len` bytes. A descriptor that says zero means one more than the largest length, so none may.
pub(super) fn tx_word(len: usize, mode: Mode, last: bool, generation: bool) -> u64 {
    let (headers, extra, mode) = match mode {
        Mode::Plain => (0, 0, 0),
        Mode::Checksum { start, field } => (start, field, TX_MODE_CHECKSUM),
        Mode::Segment { headers, size } => (headers, size, TX_MODE_SEGMENT),
    };
    len as u64 & LENGTH
        | if generation { TX_GENERATION } else { 0 }
        | (u64::from(extra) & LENGTH) << TX_EXTRA_SHIFT
        | u64::from(headers) << 32
        | mode
        | if last { TX_LAST } else { 0 }
}

/// Generation of either kind of completion.
const GENERATION: u64 = 1 << 63;

/// Index of the last descriptor of the frame that was sent; `None` while `second` is not of this generation.
pub(super) fn tx_completion(first: impl FnOnce() -> u64, second: u64, generation: bool) -> Option<u16> {
    ((second & GENERATION != 0) == generation).then(|| (first() & 0xfff) as u16)
}

/// A buffer that was filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Received {
    /// Descriptor of its ring.
    pub(super) index: u16,
    /// Number of the ring among those of all queues: first rings, then second rings.
    pub(super) ring: u16,
    /// Bytes in the buffer.
    pub(super) len: usize,
    /// A frame begins here; ends here.
    pub(super) first: bool,
    pub(super) last: bool,
    /// The frame arrived broken, or did not fit.
    pub(super) broken: bool,
    /// TCP or UDP, and its checksum is right.
    pub(super) checksum_good: bool,
}

/// First word: the frame ends, begins; the checksum was not looked at.
const RX_LAST: u64 = 1 << 14;
const RX_FIRST: u64 = 1 << 15;
const RX_NOT_SUMMED: u64 = 1 << 30;
/// Second word: broken; transport checksum right; UDP or TCP.
const RX_BROKEN: u64 = 1 << 14;
const RX_SUM_RIGHT: u64 = 1 << (32 + 16);
const RX_TRANSPORT: u64 = 3 << (32 + 17);

impl Received {
    /// Reads a completion; `None` while `second` is not of this generation. `first` is loaded after that is known.
    #[inline]
    pub(super) fn from_words(first: impl FnOnce() -> u64, second: u64, generation: bool) -> Option<Received> {
        if (second & GENERATION != 0) != generation {
            return None;
        }
        let word = first();
        Some(Received {
            index: (word & 0xfff) as u16,
            ring: (word >> 16 & 0x3ff) as u16,
            len: (second & LENGTH) as usize,
            first: word & RX_FIRST != 0,
            last: word & RX_LAST != 0,
            broken: second & RX_BROKEN != 0,
            checksum_good: word & RX_NOT_SUMMED == 0
                && second & RX_SUM_RIGHT != 0
                && second & RX_TRANSPORT != 0,
        })
    }
}

/// What a card reads and writes.
#[cfg(test)]
pub(super) mod card {
    use super::*;

    impl Received {
        /// The words that say this.
        pub(crate) fn to_words(self, generation: bool) -> [u64; 2] {
            let bit = |set: bool, bits: u64| if set { bits } else { 0 };
            let first = u64::from(self.index)
                | u64::from(self.ring) << 16
                | bit(self.first, RX_FIRST)
                | bit(self.last, RX_LAST)
                | bit(!self.checksum_good, RX_NOT_SUMMED);
            let good = bit(self.checksum_good, RX_SUM_RIGHT | 1 << (32 + 18));
            [first, self.len as u64 | bit(self.broken, RX_BROKEN) | good | bit(generation, GENERATION)]
        }
    }

    /// Completion of what ended at `index`.
    pub(crate) fn tx_completed(index: u16, generation: bool) -> [u64; 2] {
        [index.into(), if generation { GENERATION } else { 0 }]
    }

    /// A receive descriptor: length, whether it is for bodies, generation.
    pub(crate) fn rx_given(word: u64) -> (usize, bool, bool) {
        ((word & LENGTH) as usize, word & RX_BODY != 0, word & RX_GENERATION != 0)
    }

    /// A transmit descriptor: length, what to do, whether it is the last, generation.
    pub(crate) fn tx_given(word: u64) -> (usize, Mode, bool, bool) {
        let (headers, extra) = ((word >> 32 & 0x3ff) as u16, (word >> TX_EXTRA_SHIFT & LENGTH) as u16);
        let mode = match word & TX_MODE_SEGMENT {
            TX_MODE_CHECKSUM => Mode::Checksum { start: headers, field: extra },
            TX_MODE_SEGMENT => Mode::Segment { headers, size: extra },
            _ => Mode::Plain,
        };
        ((word & LENGTH) as usize, mode, word & TX_LAST == TX_LAST, word & TX_GENERATION != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_words() {
        let segment = Mode::Segment { headers: 54, size: 1460 };
        // Dwords as the interface draws them: length, generation at 14, size at 18; headers, mode 3 at 10, end 12, completion 13.
        assert_eq!(tx_word(4096, segment, true, true), 0x0000_3c36_16d0_5000);
        for (mode, last, generation) in
            [(Mode::Plain, true, false), (Mode::Checksum { start: 34, field: 50 }, false, true)]
        {
            assert_eq!(
                card::tx_given(tx_word(60, mode, last, generation)),
                (60, mode, last, generation),
                "{mode:?}"
            );
        }
        assert_eq!(tx_completion(|| 0xabcd, 0, true), None);
        assert_eq!(tx_completion(|| 0xabcd, GENERATION, true), Some(0xbcd));
        assert_eq!(tx_completion(|| 0xabcd, GENERATION, false), None);
        assert_eq!(tx_completion(|| 7, 0, false), Some(7));
    }

    #[test]
    fn received_words() {
        assert_eq!(rx_word(2048, false, true), 0x8000_0800);
        assert_eq!(card::rx_given(rx_word(2048, true, false)), (2048, true, false));
        let got = Received {
            index: 4095,
            ring: 9,
            len: 1514,
            first: true,
            last: true,
            broken: false,
            checksum_good: true,
        };
        for (got, generation) in
            [(got, true), (Received { checksum_good: false, broken: true, first: false, ..got }, false)]
        {
            let [first, second] = got.to_words(generation);
            assert_eq!(Received::from_words(|| first, second, generation), Some(got));
            assert_eq!(Received::from_words(|| first, second, !generation), None);
        }
        // As QEMU writes it for a frame with a good TCP checksum: dword 3 has tuc 16, tcp 18, ipc 19, v4 21, fcs 23, generation 31.
        let words = [0x0000_c003, 0x80ad_0000_0000_05ea];
        let got = Received::from_words(|| words[0], words[1], true).unwrap();
        assert!(got.checksum_good && got.first && got.last && got.index == 3 && got.len == 1514);
    }
}
