//! How deep the megaflows that a packet could match look into it.
//!
//! Let `M` be the union of their masks. Each mask is a subset of `M`, so `mask ∧ key = mask ∧ (M ∧ key)`: a lookup with the
//! limited key `M ∧ key` compares the very same words, and what lies outside `M` need not be extracted. [`Depth`] is `M`
//! rounded up to one of four.

use super::FlowMask;

/// How deep into a packet a set of masks looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Depth {
    /// At [`FlowMask::EXACT_BASE`] only: the port, the round, EtherType and fragment bits.
    #[default]
    Port,
    /// At MACs and tags as well: what a learning bridge looks at.
    Link,
    /// At addresses, protocol and ports instead: what rules for connections look at.
    Connection,
    /// At anything.
    Full,
}

impl Depth {
    /// The least depth that holds a mask.
    pub fn of(mask: &FlowMask) -> Depth {
        let limited = [Depth::Port, Depth::Link, Depth::Connection];
        limited.into_iter().find(|depth| mask.is_subset_of(&depth.mask())).unwrap_or(Depth::Full)
    }

    /// The least depth that holds what two hold.
    #[must_use]
    pub fn join(self, other: Depth) -> Depth {
        match (self, other) {
            (one, same) if one == same => one,
            (Depth::Port, deeper) | (deeper, Depth::Port) => deeper,
            _ => Depth::Full,
        }
    }

    /// Every bit that masks of this depth may look at.
    pub fn mask(self) -> FlowMask {
        let mut mask = FlowMask::EXACT_BASE;
        match self {
            Depth::Port => {}
            Depth::Link => {
                mask.union(&FlowMask::EXACT_MACS);
                mask.union(&FlowMask::EXACT_VLANS);
            }
            Depth::Connection => mask.union(&FlowMask::EXACT_FIVE_TUPLE),
            Depth::Full => mask = FlowMask::EXACT,
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::key::FlowKey;

    const ALL: [Depth; 4] = [Depth::Port, Depth::Link, Depth::Connection, Depth::Full];

    #[test]
    fn a_depth_is_the_least_that_holds_a_mask() {
        let join = |parts: &[FlowMask]| {
            let mut mask = FlowMask::WILDCARD;
            parts.iter().for_each(|part| mask.union(part));
            mask
        };
        let base = FlowMask::EXACT_BASE;
        assert_eq!(Depth::of(&FlowMask::WILDCARD), Depth::Port);
        assert_eq!(Depth::of(&base), Depth::Port);
        assert_eq!(Depth::of(&join(&[base, FlowMask::EXACT_MACS])), Depth::Link);
        assert_eq!(Depth::of(&FlowMask::EXACT_VLANS), Depth::Link);
        assert_eq!(Depth::of(&join(&[base, FlowMask::EXACT_FIVE_TUPLE])), Depth::Connection);
        assert_eq!(Depth::of(&join(&[FlowMask::EXACT_MACS, FlowMask::EXACT_FIVE_TUPLE])), Depth::Full);
        for bit in 0..size_of::<FlowKey>() * 8 {
            let mut mask = FlowMask::WILDCARD;
            mask.fields.as_mut_bytes()[bit / 8] |= 1 << (bit % 8);
            let depth = Depth::of(&mask);
            assert!(depth == Depth::Full || mask.is_subset_of(&depth.mask()), "bit {bit}");
        }
    }

    #[test]
    fn two_joined_hold_what_either_holds_and_no_depth_below_does() {
        for (a, b) in ALL.into_iter().flat_map(|a| ALL.map(|b| (a, b))) {
            let mut both = a.mask();
            both.union(&b.mask());
            assert_eq!(a.join(b), Depth::of(&both), "{a:?} {b:?}");
        }
    }
}
