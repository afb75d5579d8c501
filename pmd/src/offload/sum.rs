//! The internet checksum (RFC 1071) over private bytes and over payload in place.

use crate::packet::Span;

/// A running one's-complement sum.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    total: u64,
    /// An odd number of bytes has gone in: the next byte is the low half of a word.
    odd: bool,
}

impl Sum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        // In the machine's own byte order, four bytes a step: a one's-complement sum only needs its bytes swapped at the
        // end (RFC 1071, section 2 (B)), and 32-bit words cannot overflow 64 bits in less than 16 GiB.
        let mut words = bytes.chunks_exact(4);
        let mut sum: u64 = 0;
        for word in &mut words {
            sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(words.remainder()) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(last));
        let folded = u16::from_be(fold(sum));
        // Bytes at odd places are the other half of their words: the same section.
        self.total += u64::from(if self.odd { folded.swap_bytes() } else { folded });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds payload where it lies, through a buffer: its owner may change it while we read.
    pub(super) fn add_span(&mut self, span: Span<'_>) {
        let mut buffer = [0; 1024];
        let mut done = 0;
        while done < span.len() {
            let n = span.copy_to(done, &mut buffer);
            self.add(&buffer[..n]);
            done += n;
        }
    }

    pub(super) fn add_word(&mut self, word: u16) {
        self.total += u64::from(word);
    }

    /// The checksum to store.
    pub(super) fn finish(self) -> u16 {
        !fold(self.total)
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, section 4.1, to the letter.
    fn naive(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0)));
        !fold(words.sum())
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_naive_sum(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000), cut: usize) {
            let (a, b) = bytes.split_at(cut % (bytes.len() + 1));
            let mut sum = Sum::default();
            sum.add_span(Span::from_slice(a));
            sum.add(b);
            proptest::prop_assert_eq!(sum.finish(), naive(&bytes));
        }
    }

    #[test]
    fn pieces_of_any_length_add_up() {
        let bytes: Vec<u8> = (0..1001u32).map(|i| (i * 31) as u8).collect();
        let mut whole = Sum::default();
        whole.add(&bytes);
        for cut in [1, 2, 7, 500, 999] {
            let mut parts = Sum::default();
            parts.add(&bytes[..cut]);
            parts.add_span(Span::from_slice(&bytes[cut..]));
            assert_eq!(parts.finish(), whole.finish(), "cut at {cut}");
        }
    }
}
