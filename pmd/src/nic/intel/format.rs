//! How transmit descriptors look: what the ring wants said, and the trait of a card that says it in its own bits.

use crate::offload::CutByCard;
use crate::packet::{Frame, Gso};

/// What a context descriptor says of the frames behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// Sum, and store the result.
    Sum {
        /// First byte that counts; all after it do.
        start: u16,
        /// Where the result goes, from there.
        offset: u16,
    },
    /// Cut into segments, and sum each.
    Cut(Cut),
}

/// How a TCP frame is cut: where its headers lie, counted from the start of the frame, and how much of the rest a segment gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The IP header.
    pub l3: u16,
    /// The TCP header.
    pub l4: u16,
    /// Bytes of all headers.
    pub headers: u16,
    /// Payload of a segment.
    pub size: u16,
    /// IPv6; otherwise IPv4, whose header has a checksum.
    pub is_v6: bool,
}

impl Cut {
    /// The same, from headers that were found in a frame of that segment size.
    pub(super) fn of(found: &CutByCard, size: u16) -> Cut {
        let [l3, l4, headers] = [found.l3, found.l4, found.headers].map(|at| at as u16);
        Cut { l3, l4, headers, size, is_v6: found.is_v6 }
    }
}

/// How a card's transmit descriptors look.
pub trait Format: Send + 'static {
    /// Whether a context that says how to cut holds for more than one frame.
    const CUT_STAYS: bool;

    /// Whether the card can sum from `start` to the end of the frame, and store the result `offset` bytes after that.
    fn can_sum(start: u16, offset: u16) -> bool;

    /// Whether the card can cut so.
    fn can_cut(cut: &Cut) -> bool;

    /// A context for a frame of `total` bytes.
    fn context(context: &Context, total: usize) -> [u64; 2];

    /// Second word of a data descriptor of `len` of the `total` bytes of a frame, to which `context` applies if there is one.
    fn data(len: usize, total: usize, last: bool, context: Option<&Context>) -> u64;
}

/// Where the headers lie that a card of this format can cut a frame by; `None` if it cannot, or if a segment would be longer than `longest`.
pub(super) fn cut_of<F: Format>(frame: &Frame<'_>, longest: usize) -> Option<(CutByCard, Cut)> {
    if frame.offload.gso == Gso::None {
        return None;
    }
    let found = CutByCard::of(frame, longest)?;
    let cut = Cut::of(&found, frame.offload.gso_size);
    F::can_cut(&cut).then_some((found, cut))
}
