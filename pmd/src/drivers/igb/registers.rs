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

/// Interrupt cause: a virtual function has something to say, or was reset (8.8.9).
pub(super) const CAUSE_MAILBOX: u32 = 1 << 8;
/// Of CTRL_EXT: the reset is over, as virtual functions are told (8.2.3).
pub(super) const CTRL_EXT_RESET_DONE: u32 = 1 << 14;

/// Mailboxes of virtual functions (8.14): a register and sixteen words each. Ours to set: there is a message; yours was read; we have the words.
pub(super) const P2V_MAILBOX: usize = 0x0c00;
pub(super) const MAILBOX_MESSAGE: u32 = 1;
pub(super) const MAILBOX_ACK: u32 = 1 << 1;
pub(super) const MAILBOX_OURS: u32 = 1 << 3;
pub(super) const VMBMEM: usize = 0x0800;
/// Who has a message for us, and further up who has read ours; and who was reset; cleared by ones. Whose messages interrupt.
pub(super) const MBVFICR: usize = 0x0c80;
pub(super) const MBVFICR_READ: u32 = 16;
pub(super) const MBVFIMR: usize = 0x0c84;
pub(super) const VFLRE: usize = 0x0c88;
/// Pools that receive, and that send.
pub(super) const VFRE: usize = 0x0c8c;
pub(super) const VFTE: usize = 0x0c90;

/// Of MRQC: pools, without spreading (8.10.23).
pub(super) const MRQC_POOLS: u32 = 3;
/// Pools (8.10.11): which has what is for nobody; group frames are copied to every pool that wants them.
pub(super) const VT_CTL: usize = 0x581c;
pub(super) const VT_CTL_DEFAULT: u32 = 7;
pub(super) const VT_CTL_REPLICATE: u32 = 1 << 30;
/// Queues that drop when they have no buffers (8.10.12).
pub(super) const QDE: usize = 0x2408;
/// What a pool receives (8.10.13): long frames, of how many bytes in the lowest bits; untagged ones, groups in the table and all, broadcast;
/// tags are taken out, and check sequences.
pub(super) const VMOLR: usize = 0x5ad0;
pub(super) const VMOLR_LONG: u32 = 1 << 16;
pub(super) const VMOLR_UNTAGGED: u32 = 1 << 24;
pub(super) const VMOLR_GROUPS: u32 = 1 << 25 | 1 << 28;
pub(super) const VMOLR_BROADCAST: u32 = 1 << 27;
pub(super) const VMOLR_STRIP_TAG: u32 = 1 << 30;
pub(super) const VMOLR_STRIP_CRC: u32 = 1 << 31;
/// Of the second word of a receive address: pools it is for; it is valid (8.10.21). Where those from the seventeenth on lie.
pub(super) const RAH_POOLS: u32 = 18;
pub(super) const RAH_VALID: u32 = 1 << 31;
pub(super) const RAL_16: usize = 0x54e0;
/// VLANs by pool (8.10.14), and the tables of groups and VLANs that come in at all (8.10.19, 8.10.22).
pub(super) const VLVF: usize = 0x5d00;
pub(super) const VLVF_POOLS: u32 = 12;
pub(super) const VLVF_VALID: u32 = 1 << 31;
pub(super) const MTA: usize = 0x5200;
pub(super) const VFTA: usize = 0x5600;
/// Of RCTL: VLANs are told apart.
pub(super) const RCTL_VLANS: u32 = 1 << 18;
/// Tags put into what a pool sends: always (8.12.20).
pub(super) const VMVIR: usize = 0x3700;
pub(super) const VMVIR_ALWAYS: u32 = 1 << 30;
/// What a pool sends (8.12.4): source addresses are looked at, and tags, a bit for each pool; functions reach each other.
pub(super) const DTXSWC: usize = 0x3500;
pub(super) const DTXSWC_CHECK_ADDRESS: u32 = 1;
pub(super) const DTXSWC_CHECK_VLAN: u32 = 1 << 8;
pub(super) const DTXSWC_LOOPBACK: u32 = 1 << 31;
