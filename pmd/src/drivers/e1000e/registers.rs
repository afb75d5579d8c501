//! Registers of the Intel 82574 (Intel 82574 GbE Controller Family datasheet 3.4, chapter 10).

/// Device control (10.2.2.1).
pub(super) const CTRL: usize = 0x0000;
pub(super) const CTRL_MASTER_DISABLE: u32 = 1 << 2;
pub(super) const CTRL_SET_LINK_UP: u32 = 1 << 6;
pub(super) const CTRL_RESET: u32 = 1 << 26;
/// Reserved bit that must be clear on this chip (specification update, erratum 20).
pub(super) const CTRL_RESERVED: u32 = 1 << 29;

/// Device status (10.2.2.2).
pub(super) const STATUS: usize = 0x0008;
pub(super) const STATUS_FULL_DUPLEX: u32 = 1;
pub(super) const STATUS_LINK_UP: u32 = 1 << 1;
pub(super) const STATUS_SPEED_SHIFT: u32 = 6;
pub(super) const STATUS_MASTER_ENABLED: u32 = 1 << 19;

/// Extended control (10.2.2.5).
pub(super) const CTRL_EXT: usize = 0x0018;
pub(super) const CTRL_EXT_DRIVER_LOADED: u32 = 1 << 28;

/// Interrupt causes: read, set of masked-in, and cleared (10.2.4).
pub(super) const ICR: usize = 0x00c0;
pub(super) const IMS: usize = 0x00d0;
pub(super) const IMC: usize = 0x00d8;
/// Causes cleared when their vector is sent (10.2.4.8).
pub(super) const EIAC: usize = 0x00dc;
/// Vectors of causes (10.2.4.9).
pub(super) const IVAR: usize = 0x00e4;
pub(super) const CAUSE_LINK: u32 = 1 << 2;
pub(super) const CAUSE_RX_QUEUE_0: u32 = 1 << 20;
pub(super) const CAUSE_OTHER: u32 = 1 << 24;
/// Of each field of IVAR: the vector is valid.
pub(super) const IVAR_VALID: u32 = 1 << 3;
pub(super) const IVAR_OTHER_SHIFT: u32 = 16;

/// Receive control (10.2.5.1).
pub(super) const RCTL: usize = 0x0100;
pub(super) const RCTL_ENABLE: u32 = 1 << 1;
pub(super) const RCTL_ALL_UNICAST: u32 = 1 << 3;
pub(super) const RCTL_ALL_MULTICAST: u32 = 1 << 4;
pub(super) const RCTL_LONG_PACKETS: u32 = 1 << 5;
pub(super) const RCTL_BROADCAST: u32 = 1 << 15;
pub(super) const RCTL_STRIP_CRC: u32 = 1 << 26;

/// Receive ring of queue 0; that of queue 1 lies `QUEUE` further (10.2.5.5 on).
pub(super) const RX_BASE: usize = 0x2800;
pub(super) const RX_LEN: usize = 0x2808;
pub(super) const RX_HEAD: usize = 0x2810;
pub(super) const RX_TAIL: usize = 0x2818;
pub(super) const RXDCTL: usize = 0x2828;
pub(super) const QUEUE: usize = 0x0100;
/// Thresholds count descriptors, not cache lines.
pub(super) const DCTL_DESCRIPTORS: u32 = 1 << 24;

/// Receive checksum control (10.2.5.15) and filter control (10.2.5.16).
pub(super) const RXCSUM: usize = 0x5000;
pub(super) const RXCSUM_IP: u32 = 1 << 8;
pub(super) const RXCSUM_TCP_UDP: u32 = 1 << 9;
pub(super) const RXCSUM_NO_PACKET_SUM: u32 = 1 << 13;
pub(super) const RFCTL: usize = 0x5008;
pub(super) const RFCTL_EXTENDED: u32 = 1 << 15;

/// Multicast table, receive addresses (10.2.5.17 on).
pub(super) const RAL: usize = 0x5400;
pub(super) const RAH: usize = 0x5404;

/// Spreading over queues (10.2.5.20 on).
pub(super) const MRQC: usize = 0x5818;
pub(super) const MRQC_RSS: u32 = 1;
/// TCP/IPv4, IPv4, TCP/IPv6, IPv6 with and without extensions.
pub(super) const MRQC_FIELDS: u32 = 0x003f_0000;
pub(super) const RETA: usize = 0x5c00;
pub(super) const RSS_KEY: usize = 0x5c80;

/// Transmit control (10.2.6.1).
pub(super) const TCTL: usize = 0x0400;
pub(super) const TCTL_ENABLE: u32 = 1 << 1;
pub(super) const TCTL_PAD: u32 = 1 << 3;
/// Collision threshold and distance, for half duplex.
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

/// Counters, cleared when read, by their names in statistics (10.2.7).
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
