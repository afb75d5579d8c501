//! Registers of a virtual function of the Intel 82576 (Intel 82576EB GbE Controller datasheet 2.63, chapter 8.26 on and 7.10).
//! Those that it has in common with the cards of the family are in [`crate::nic::intel::registers`].

pub(super) use crate::nic::intel::registers::{CTRL, CTRL_RESET, STATUS};

/// Interrupts by vector: mask set, mask cleared, cleared when sent. A function has three vectors.
pub(super) const EIMS: usize = 0x1524;
pub(super) const EIMC: usize = 0x1528;
pub(super) const EIAC: usize = 0x152c;
pub(super) const VECTORS: u32 = 7;
/// Vectors of queue 0 (receive, then transmit), and of the mailbox.
pub(super) const IVAR: usize = 0x1700;
pub(super) const IVAR_MISC: usize = 0x1740;
pub(super) const IVAR_VALID: u32 = 1 << 7;

/// The message in the mailbox, and who may touch it.
pub(super) const MAILBOX_MEMORY: usize = 0x0800;
pub(super) const MAILBOX: usize = 0x0c40;
/// Ours to set: there is a message; yours was read; we have the memory.
pub(super) const MAILBOX_ASK: u32 = 1;
pub(super) const MAILBOX_READ: u32 = 1 << 1;
pub(super) const MAILBOX_OURS: u32 = 1 << 2;
/// Theirs, cleared when read: there is a message; yours was read; the card was reset and is ready.
pub(super) const MAILBOX_MESSAGE: u32 = 1 << 4;
pub(super) const MAILBOX_WAS_READ: u32 = 1 << 5;
pub(super) const MAILBOX_RESET_DONE: u32 = 1 << 7;
/// Theirs, for as long as it is so: the card is being reset.
pub(super) const MAILBOX_IN_RESET: u32 = 1 << 6;

/// Counters: they go round at 2^32, and reading does not clear them.
pub(super) const GOOD_RECEIVED: usize = 0x0f10;
pub(super) const GOOD_SENT: usize = 0x0f14;
pub(super) const BYTES_RECEIVED: usize = 0x0f18;
pub(super) const BYTES_SENT: usize = 0x0f34;
pub(super) const MULTICAST_RECEIVED: usize = 0x0f3c;
pub(super) const LOOPED_RECEIVED: usize = 0x0f40;
pub(super) const LOOPED_SENT: usize = 0x0f44;

/// The receive ring of queue 0.
pub(super) const RX_BASE: usize = 0x2800;
pub(super) const RX_LEN: usize = 0x2808;
pub(super) const SRRCTL: usize = 0x280c;
pub(super) const RX_HEAD: usize = 0x2810;
pub(super) const RX_TAIL: usize = 0x2818;
pub(super) const RXDCTL: usize = 0x2828;
/// The transmit ring of queue 0.
pub(super) const TX_BASE: usize = 0x3800;
pub(super) const TX_LEN: usize = 0x3808;
pub(super) const TX_HEAD: usize = 0x3810;
pub(super) const TX_TAIL: usize = 0x3818;
pub(super) const TXDCTL: usize = 0x3828;
/// Advanced descriptors with one buffer; a queue without descriptors drops, because the card's other functions must not wait for it.
pub(super) const SRRCTL_ADVANCED: u32 = 1 << 25;
pub(super) const SRRCTL_DROP: u32 = 1 << 31;
/// Prefetch below 8, when 8 are there, write back one by one as they are done.
pub(super) const DCTL_THRESHOLDS: u32 = 8 | 8 << 8 | 1 << 16;
pub(super) const DCTL_ENABLE: u32 = 1 << 25;
