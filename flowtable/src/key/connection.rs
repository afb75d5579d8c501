//! A look at what makes a connection, for ports whose megaflows look at no more: addresses, protocol, ports.
//!
//! Rules for connections make a megaflow for each, and every packet of a burst may be of another one. So what is not
//! compared is not taken either: MACs, tags, TTL, TOS, label, TCP flags. That is a third of the cost of a full look, and packets of
//! one connection are one train though their TTLs differ.
//!
//! The limited key of every frame is in the words [`CONNECTION_WORDS`] of a key, the others being zero. Frames of the usual make, TCP or UDP over plain
//! IP, are taken apart by a few loads; any other takes the full look, and what does not count is masked off.

use core::ops::Range;

use super::extract::{Layers, extract, usual_connection, usual_ipv6_connection};
use super::{FlowKey, FlowMask, KEY_WORDS, PortNo};

/// The words of a key in which some bit may count at [`Depth::Connection`](super::Depth::Connection), but for the port.
pub const CONNECTION_WORDS: Range<usize> = 1..7;

/// The words of [`Depth::Connection`](super::Depth::Connection)'s mask.
const COUNTING: [u64; KEY_WORDS] = {
    let mut words: [u64; KEY_WORDS] = zerocopy::transmute!(FlowMask::EXACT_BASE.fields);
    let tuple: [u64; KEY_WORDS] = zerocopy::transmute!(FlowMask::EXACT_FIVE_TUPLE.fields);
    let mut i = 0;
    while i < KEY_WORDS {
        words[i] |= tuple[i];
        i += 1;
    }
    words
};

/// What [`connection`] sees of a frame beside the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beside {
    /// Where the headers lie.
    pub layers: Layers,
    /// [`FlowKey::tcp_flags`] in host order.
    pub tcp_flags: u16,
}

/// Writes the limited key of a frame for [`Depth::Connection`](super::Depth::Connection) to the words [`CONNECTION_WORDS`]; the others stay as they are.
#[inline(always)]
pub fn connection(head: &[u8], frame_len: usize, key: &mut FlowKey) -> Beside {
    match usual_connection(head, frame_len, key) {
        Some(beside) => beside,
        None => other(head, frame_len, key),
    }
}

/// IPv6, which is usual too, and what is not. Apart, so that IPv4 keeps everything in registers.
#[inline(never)]
fn other(head: &[u8], frame_len: usize, key: &mut FlowKey) -> Beside {
    usual_ipv6_connection(head, frame_len, key).unwrap_or_else(|| full_look(head, frame_len, key))
}

fn full_look(head: &[u8], frame_len: usize, key: &mut FlowKey) -> Beside {
    let mut full = FlowKey::default();
    let layers = extract(head, frame_len, PortNo::NONE, &mut full);
    for i in CONNECTION_WORDS {
        key.words_mut()[i] = full.words()[i] & COUNTING[i];
    }
    Beside { layers, tcp_flags: full.tcp_flags.get() }
}

/// Whether two keys are the same in [`CONNECTION_WORDS`]. As [`FlowKey::equals`] it takes word after word, those first in which connections nearly
/// always differ.
#[inline(always)]
pub fn is_same_connection(a: &FlowKey, b: &FlowKey) -> bool {
    [6, 2, 4, 3, 5, 1].iter().all(|i| a.words()[*i] == b.words()[*i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Depth;

    #[test]
    fn all_bits_that_count_lie_in_these_words_or_name_the_port() {
        let mut mask = Depth::Connection.mask();
        assert_eq!(mask.words(), &COUNTING);
        mask.words_mut()[CONNECTION_WORDS].fill(0);
        let port =
            FlowMask { fields: FlowKey { in_port: u32::MAX, recirc_id: u32::MAX, ..FlowKey::default() } };
        assert_eq!(mask, port);
    }

    #[test]
    fn connections_are_the_same_when_every_word_is() {
        let key = FlowKey { in_port: 7, ..FlowKey::default() };
        for word in 0..KEY_WORDS {
            let mut other = key;
            other.words_mut()[word] ^= 1 << 40;
            assert_eq!(is_same_connection(&key, &other), !CONNECTION_WORDS.contains(&word), "word {word}");
        }
    }
}
