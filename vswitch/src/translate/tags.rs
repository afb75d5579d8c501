//! VLAN tags of a packet while its actions change them.
//!
//! The packet's own tags stay names ("the outer one") until somebody asks for their bits, so that popping a tag or
//! sending it on does not match on its contents. Tags put on by actions are known. Two states are kept: the tags as
//! the actions want them, and the tags as the datapath actions emitted so far leave them on the frame; the step from
//! the second to the first is emitted before an output.

use flowtable::actions::Action;
use flowtable::key::{Field, FlowKey, FlowMask, VLAN_PRESENT};

/// VLAN id within a TCI.
pub(super) const VID_BITS: u16 = 0x0fff;
/// Priority within a TCI.
pub(super) const PCP_BITS: u16 = 0xe000;
/// Lowest bit of the priority.
pub(super) const PCP_SHIFT: u32 = 13;
/// EtherType of a tag nobody chose another for.
const TPID_8021Q: u16 = 0x8100;

/// Own tags of a packet that a key holds.
const OWN_TAGS: [(Field, Field); 2] =
    [(Field::VlanTci, Field::VlanTpid), (Field::Vlan2Tci, Field::Vlan2Tpid)];

/// A tag with known contents. The "present" bit of `tci` is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tag {
    tpid: u16,
    tci: u16,
}

/// Tags of a frame: some of the packet's own taken away, known ones put on top, outermost last.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Stack {
    taken: usize,
    put: Vec<Tag>,
}

/// Tags as wanted and as emitted.
#[derive(Clone, Default, Debug)]
pub(super) struct Tags {
    wanted: Stack,
    emitted: Stack,
}

impl Tags {
    /// VID of the outer tag; zero if there is none or it is a priority tag.
    pub(super) fn vid(&self, key: &FlowKey, mask: &mut FlowMask) -> u16 {
        self.outer_bits(key, mask, VID_BITS)
    }

    /// Whether there is an outer tag.
    pub(super) fn is_tagged(&self, key: &FlowKey, mask: &mut FlowMask) -> bool {
        !self.wanted.put.is_empty() || own(key, mask, self.wanted.taken, VLAN_PRESENT) != 0
    }

    /// Bits of the outer tag's TCI; zero if there is none.
    fn outer_bits(&self, key: &FlowKey, mask: &mut FlowMask, bits: u16) -> u16 {
        match self.wanted.put.last() {
            Some(tag) => tag.tci & bits,
            // Without a tag the TCI is zero, so its bits tell even without the "present" bit.
            None => own(key, mask, self.wanted.taken, bits),
        }
    }

    /// Puts a tag on.
    pub(super) fn push(&mut self, tpid: u16, tci: u16) {
        self.wanted.put.push(Tag { tpid, tci: tci & !VLAN_PRESENT });
    }

    /// Takes the outer tag away; does nothing to a frame without one.
    pub(super) fn pop(&mut self, key: &FlowKey, mask: &mut FlowMask) {
        if self.wanted.put.pop().is_none() && self.is_tagged(key, mask) {
            self.wanted.taken += 1;
        }
    }

    /// Sets bits of the outer tag's TCI; a frame without a tag gets one first.
    pub(super) fn set_bits(&mut self, key: &FlowKey, mask: &mut FlowMask, value: u16, bits: u16) {
        let bits = bits & !VLAN_PRESENT;
        if self.wanted.put.is_empty() {
            if self.is_tagged(key, mask) {
                if own(key, mask, self.wanted.taken, bits) == value & bits {
                    return;
                }
                let tag = own_tag(key, mask, self.wanted.taken);
                self.wanted.taken += 1;
                self.wanted.put.push(tag);
            } else {
                self.push(TPID_8021Q, 0);
            }
        }
        if let Some(tag) = self.wanted.put.last_mut() {
            tag.tci = (tag.tci & !bits) | (value & bits);
        }
    }

    /// Makes the frame leave with this VID: the tag is taken off for zero, changed or put on otherwise. The
    /// priority stays when there is a tag to carry it; with `keep_priority` a priority other than zero keeps the tag.
    pub(super) fn set_egress_vid(
        &mut self,
        key: &FlowKey,
        mask: &mut FlowMask,
        vid: u16,
        keep_priority: bool,
    ) {
        if vid != 0 {
            self.set_bits(key, mask, vid, VID_BITS);
        } else if self.is_tagged(key, mask) {
            if keep_priority && self.outer_bits(key, mask, PCP_BITS) != 0 {
                self.set_bits(key, mask, 0, VID_BITS);
            } else {
                self.pop(key, mask);
            }
        }
    }

    /// The wanted tags, to come back to.
    pub(super) fn save(&self) -> SavedTags {
        SavedTags(self.wanted.clone())
    }

    /// Comes back to saved tags.
    pub(super) fn restore(&mut self, saved: &SavedTags) {
        self.wanted = saved.0.clone();
    }

    /// Emits what makes the frame's tags the wanted ones.
    pub(super) fn commit(&mut self, key: &FlowKey, mask: &mut FlowMask, actions: &mut Vec<Action>) {
        if self.wanted == self.emitted {
            return;
        }
        let (from, to) = (&self.emitted, &self.wanted);
        let common = if from.taken == to.taken {
            from.put.iter().zip(&to.put).take_while(|(a, b)| a == b).count()
        } else {
            0
        };
        let pops = from.put.len() - common + to.taken.saturating_sub(from.taken);
        actions.extend((0..pops).map(|_| Action::PopVlan));
        // Own tags taken off for an earlier output come back with what they had.
        let again = (to.taken..from.taken).rev().map(|index| own_tag(key, mask, index));
        let again: Vec<Tag> = again.collect();
        let put = to.put.get(common..).unwrap_or_default();
        actions.extend(again.iter().chain(put).map(|tag| Action::PushVlan { tpid: tag.tpid, tci: tag.tci }));
        self.emitted = self.wanted.clone();
    }
}

/// See [`Tags::save`].
pub(super) struct SavedTags(Stack);

/// Bits of the TCI of the packet's own tag at `index`, outermost first; zero when there is no such tag.
fn own(key: &FlowKey, mask: &mut FlowMask, index: usize, bits: u16) -> u16 {
    let Some((tci, _)) = OWN_TAGS.get(index) else { return 0 };
    mask.add_bits(*tci, u128::from(bits));
    tci.get(key) as u16 & bits
}

fn own_tag(key: &FlowKey, mask: &mut FlowMask, index: usize) -> Tag {
    let tpid = OWN_TAGS.get(index).map_or(TPID_8021Q, |(_, tpid)| {
        mask.set_exact(*tpid);
        tpid.get(key) as u16
    });
    Tag { tpid, tci: own(key, mask, index, u16::MAX) & !VLAN_PRESENT }
}
