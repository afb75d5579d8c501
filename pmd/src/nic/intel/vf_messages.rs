//! What a virtual function of the 82576 and its physical function say to each other in their mailbox. The messages are those of the Linux drivers
//! `igb` and `igbvf`, which define them.

/// Words of a message.
pub(crate) const WORDS: usize = 16;

/// Questions: the lowest 16 bits of the first word.
pub(crate) const RESET: u32 = 1;
pub(crate) const SET_ADDRESS: u32 = 2;
pub(crate) const SET_MULTICAST: u32 = 3;
pub(crate) const SET_VLAN: u32 = 4;
pub(crate) const SET_LONGEST: u32 = 5;
pub(crate) const SET_PROMISCUOUS: u32 = 6;
/// What the physical function says unasked.
pub(crate) const NOTICE: u32 = 0x100;
/// The question in a first word.
pub(crate) const KIND: u32 = 0xffff;
/// Arguments in the first word: how many; a VLAN is added; further addresses are none, or one more; all multicast.
pub(crate) const ARGUMENT_SHIFT: u32 = 16;
pub(crate) const ADD_VLAN: u32 = 1 << ARGUMENT_SHIFT;
pub(crate) const CLEAR_ADDRESSES: u32 = 1 << ARGUMENT_SHIFT;
pub(crate) const ADD_ADDRESS: u32 = 2 << ARGUMENT_SHIFT;
pub(crate) const ALL_MULTICAST: u32 = 2 << ARGUMENT_SHIFT;
/// In an answer: yes; no. In anything: we are known and may ask.
pub(crate) const YES: u32 = 1 << 31;
pub(crate) const NO: u32 = 1 << 30;
pub(crate) const KNOWN: u32 = 1 << 29;
