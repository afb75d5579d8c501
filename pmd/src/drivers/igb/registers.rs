//! Registers of the Intel 82576 (Intel 82576EB GbE Controller datasheet 2.63, chapter 8).
//! Those that the gigabit cards have in common are in [`crate::nic::intel::registers`].

pub(super) use crate::nic::intel::registers::*;

/// Access to the registers of the PHY (8.2.4): address 1, register 0, write; the access is done.
pub(super) const MDIC: usize = 0x0020;
pub(super) const MDIC_WRITE_CONTROL: u32 = 1 << 21 | 1 << 26;
pub(super) const MDIC_READY: u32 = 1 << 28;
/// In the PHY's control register (IEEE 802.3, 22.2.4.1): negotiate, and begin anew.
pub(super) const PHY_NEGOTIATE: u32 = 1 << 12 | 1 << 9;

/// Interrupts: causes, mask of causes; then the same by vector; which are cleared when sent (8.8).
pub(super) const ICR: usize = 0x1500;
pub(super) const IMS: usize = 0x1508;
pub(super) const IMC: usize = 0x150c;
pub(super) const GPIE: usize = 0x1514;
/// MSI-X with a vector per cause: no clearing by reading, vectors apart, masks by EIAM, pending array in the card.
pub(super) const GPIE_MSI_X: u32 = 1 | 1 << 4 | 1 << 30 | 1 << 31;
pub(super) const EIMS: usize = 0x1524;
pub(super) const EIMC: usize = 0x1528;
pub(super) const EIAC: usize = 0x152c;
/// Vectors of queues, two queues a register, and of other causes (8.8.14, 8.8.15).
pub(super) const IVAR: usize = 0x1700;
pub(super) const IVAR_MISC: usize = 0x1740;
pub(super) const IVAR_VALID: u32 = 1 << 7;

/// Longest frame received (8.10.3).
pub(super) const RLPML: usize = 0x5004;

/// Bytes from the ring registers of a queue to those of the next (8.10.5 on, 8.12.5 on).
pub(super) const QUEUE: usize = 0x40;
pub(super) const RX_BASE: usize = 0xc000;
pub(super) const RX_LEN: usize = 0xc008;
pub(super) const SRRCTL: usize = 0xc00c;
pub(super) const RX_HEAD: usize = 0xc010;
pub(super) const RX_TAIL: usize = 0xc018;
pub(super) const RXDCTL: usize = 0xc028;
pub(super) const TX_BASE: usize = 0xe000;
pub(super) const TX_LEN: usize = 0xe008;
pub(super) const TX_HEAD: usize = 0xe010;
pub(super) const TX_TAIL: usize = 0xe018;
pub(super) const TXDCTL: usize = 0xe028;
/// Advanced descriptors with one buffer; a queue without descriptors drops instead of stopping the others.
pub(super) const SRRCTL_ADVANCED: u32 = 1 << 25;
pub(super) const SRRCTL_DROP: u32 = 1 << 31;
/// Prefetch below 8, when 8 are there, write back one by one as they are done.
pub(super) const DCTL_THRESHOLDS: u32 = 8 | 8 << 8 | 1 << 16;
pub(super) const DCTL_ENABLE: u32 = 1 << 25;

/// Of MRQC: spread by the hash alone (8.10.23).
pub(super) const MRQC_RSS: u32 = 2;

/// Of TCTL (8.12.1): collision threshold, for half duplex.
pub(super) const TCTL_COLLISIONS: u32 = 0x0f << 4;
