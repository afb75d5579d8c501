//! Registers of the Intel 82574 (Intel 82574 GbE Controller Family datasheet 3.4, chapter 10).
//! Those that the gigabit cards have in common are in [`crate::nic::intel::registers`].

pub(super) use crate::nic::intel::registers::*;

/// Reserved bit of CTRL that must be clear on this chip (specification update, erratum 20).
pub(super) const CTRL_RESERVED: u32 = 1 << 29;

/// Interrupt causes: read, set of masked-in, and cleared (10.2.4).
pub(super) const ICR: usize = 0x00c0;
pub(super) const IMS: usize = 0x00d0;
pub(super) const IMC: usize = 0x00d8;
/// Causes cleared when their vector is sent (10.2.4.8).
pub(super) const EIAC: usize = 0x00dc;
/// Vectors of causes (10.2.4.9).
pub(super) const IVAR: usize = 0x00e4;
pub(super) const CAUSE_RX_QUEUE_0: u32 = 1 << 20;
pub(super) const CAUSE_OTHER: u32 = 1 << 24;
/// Of each field of IVAR: the vector is valid.
pub(super) const IVAR_VALID: u32 = 1 << 3;
pub(super) const IVAR_OTHER_SHIFT: u32 = 16;

/// Receive ring of queue 0; that of queue 1 lies `QUEUE` further (10.2.5.5 on).
pub(super) const RX_BASE: usize = 0x2800;
pub(super) const RX_LEN: usize = 0x2808;
pub(super) const RX_HEAD: usize = 0x2810;
pub(super) const RX_TAIL: usize = 0x2818;
pub(super) const RXDCTL: usize = 0x2828;
pub(super) const QUEUE: usize = 0x0100;
/// Thresholds count descriptors, not cache lines.
pub(super) const DCTL_DESCRIPTORS: u32 = 1 << 24;

/// Receive filter control (10.2.5.16).
pub(super) const RFCTL: usize = 0x5008;
pub(super) const RFCTL_EXTENDED: u32 = 1 << 15;

/// Of MRQC: spread by the hash alone (10.2.5.20).
pub(super) const MRQC_RSS: u32 = 1;

/// Of TCTL (10.2.6.1): collision threshold and distance, for half duplex.
pub(super) const TCTL_COLLISIONS: u32 = 0x0f << 4 | 0x3f << 12;
pub(super) const TIPG: usize = 0x0410;
/// Gaps that IEEE 802.3 asks for (10.2.6.2).
pub(super) const TIPG_STANDARD: u32 = 8 | 8 << 10 | 6 << 20;

/// Transmit ring of queue 0; that of queue 1 lies `QUEUE` further (10.2.6.4 on).
pub(super) const TX_BASE: usize = 0x3800;
pub(super) const TX_LEN: usize = 0x3808;
pub(super) const TX_HEAD: usize = 0x3810;
pub(super) const TX_TAIL: usize = 0x3818;
pub(super) const TXDCTL: usize = 0x3828;
/// Bit that must be set on this chip.
pub(super) const TXDCTL_RESERVED: u32 = 1 << 22;
