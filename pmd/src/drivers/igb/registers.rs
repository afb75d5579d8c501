//! Registers of the Intel 82576 (Intel 82576EB GbE Controller datasheet 2.63, chapter 8).

/// Device control (8.2.1).
pub(super) const CTRL: usize = 0x0000;
pub(super) const CTRL_MASTER_DISABLE: u32 = 1 << 2;
pub(super) const CTRL_SET_LINK_UP: u32 = 1 << 6;
pub(super) const CTRL_RESET: u32 = 1 << 26;

/// Device status (8.2.2).
pub(super) const STATUS: usize = 0x0008;
pub(super) const STATUS_FULL_DUPLEX: u32 = 1;
pub(super) const STATUS_LINK_UP: u32 = 1 << 1;
pub(super) const STATUS_SPEED_SHIFT: u32 = 6;
pub(super) const STATUS_MASTER_ENABLED: u32 = 1 << 19;

/// Extended control (8.2.3).
pub(super) const CTRL_EXT: usize = 0x0018;
pub(super) const CTRL_EXT_DRIVER_LOADED: u32 = 1 << 28;

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
pub(super) const CAUSE_LINK: u32 = 1 << 2;
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

/// Receive control (8.10.1), longest frame (8.10.3).
pub(super) const RCTL: usize = 0x0100;
pub(super) const RCTL_ENABLE: u32 = 1 << 1;
pub(super) const RCTL_ALL_UNICAST: u32 = 1 << 3;
pub(super) const RCTL_ALL_MULTICAST: u32 = 1 << 4;
pub(super) const RCTL_LONG_PACKETS: u32 = 1 << 5;
pub(super) const RCTL_BROADCAST: u32 = 1 << 15;
pub(super) const RCTL_STRIP_CRC: u32 = 1 << 26;
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

/// Receive checksums (8.10.16).
pub(super) const RXCSUM: usize = 0x5000;
pub(super) const RXCSUM_IP: u32 = 1 << 8;
pub(super) const RXCSUM_TCP_UDP: u32 = 1 << 9;
pub(super) const RXCSUM_NO_PACKET_SUM: u32 = 1 << 13;

/// Receive addresses (8.10.20).
pub(super) const RAL: usize = 0x5400;
pub(super) const RAH: usize = 0x5404;

/// Spreading over queues (8.10.23 on).
pub(super) const MRQC: usize = 0x5818;
pub(super) const MRQC_RSS: u32 = 2;
/// TCP/IPv4, IPv4, TCP/IPv6, IPv6 with and without extensions.
pub(super) const MRQC_FIELDS: u32 = 0x003f_0000;
pub(super) const RETA: usize = 0x5c00;
pub(super) const RSS_KEY: usize = 0x5c80;

/// Transmit control (8.12.1).
pub(super) const TCTL: usize = 0x0400;
pub(super) const TCTL_ENABLE: u32 = 1 << 1;
pub(super) const TCTL_PAD: u32 = 1 << 3;
/// Collision threshold, for half duplex.
pub(super) const TCTL_COLLISIONS: u32 = 0x0f << 4;

/// Counters, cleared when read, by their names in statistics (8.18).
pub(super) const COUNTERS: &[(usize, &str)] = &[
    (0x4000, "rx_crc_err"),
    (0x400c, "rx_errors_phy"),
    (0x4010, "rx_missed_errors"),
    (0x4040, "rx_length_errors"),
    (0x4048, "rx_pause_on"),
    (0x4050, "rx_pause_off"),
    (0x4074, "rx_good_packets"),
    (0x4080, "tx_good_packets"),
    (0x40a0, "rx_no_buffer_count"),
    (0x40a4, "rx_undersized_errors"),
    (0x40ac, "rx_oversize_errors"),
    (0x40d0, "rx_total_packets"),
    (0x40d4, "tx_total_packets"),
];
