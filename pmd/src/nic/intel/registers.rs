//! Registers that Intel's gigabit cards have in common, by offset and meaning. Sections are those of the 82574 datasheet 3.4 and, behind the
//! semicolon, of the 82576EB datasheet 2.63.

/// Device control (10.2.2.1; 8.2.1).
pub(crate) const CTRL: usize = 0x0000;
pub(crate) const CTRL_MASTER_DISABLE: u32 = 1 << 2;
pub(crate) const CTRL_SET_LINK_UP: u32 = 1 << 6;
pub(crate) const CTRL_RESET: u32 = 1 << 26;

/// Device status (10.2.2.2; 8.2.2).
pub(crate) const STATUS: usize = 0x0008;
pub(crate) const STATUS_FULL_DUPLEX: u32 = 1;
pub(crate) const STATUS_LINK_UP: u32 = 1 << 1;
pub(crate) const STATUS_SPEED_SHIFT: u32 = 6;
pub(crate) const STATUS_MASTER_ENABLED: u32 = 1 << 19;

/// Extended control (10.2.2.5; 8.2.3).
pub(crate) const CTRL_EXT: usize = 0x0018;
pub(crate) const CTRL_EXT_DRIVER_LOADED: u32 = 1 << 28;

/// Interrupt cause: the link has changed (10.2.4.1; 8.8.9). Where the registers of causes are differs.
pub(crate) const CAUSE_LINK: u32 = 1 << 2;

/// Receive control (10.2.5.1; 8.10.1).
pub(crate) const RCTL: usize = 0x0100;
pub(crate) const RCTL_ENABLE: u32 = 1 << 1;
pub(crate) const RCTL_ALL_UNICAST: u32 = 1 << 3;
pub(crate) const RCTL_ALL_MULTICAST: u32 = 1 << 4;
pub(crate) const RCTL_LONG_PACKETS: u32 = 1 << 5;
pub(crate) const RCTL_BROADCAST: u32 = 1 << 15;
pub(crate) const RCTL_STRIP_CRC: u32 = 1 << 26;

/// Receive checksum control (10.2.5.15; 8.10.16).
pub(crate) const RXCSUM: usize = 0x5000;
pub(crate) const RXCSUM_IP: u32 = 1 << 8;
pub(crate) const RXCSUM_TCP_UDP: u32 = 1 << 9;
pub(crate) const RXCSUM_NO_PACKET_SUM: u32 = 1 << 13;

/// Receive addresses (10.2.5.17 on; 8.10.20).
pub(crate) const RAL: usize = 0x5400;
pub(crate) const RAH: usize = 0x5404;

/// Spreading over queues (10.2.5.20 on; 8.10.23 on). What turns it on differs.
pub(crate) const MRQC: usize = 0x5818;
/// TCP/IPv4, IPv4, TCP/IPv6, IPv6 with and without extensions.
pub(crate) const MRQC_FIELDS: u32 = 0x003f_0000;
pub(crate) const RETA: usize = 0x5c00;
pub(crate) const RSS_KEY: usize = 0x5c80;

/// Transmit control (10.2.6.1; 8.12.1).
pub(crate) const TCTL: usize = 0x0400;
pub(crate) const TCTL_ENABLE: u32 = 1 << 1;
pub(crate) const TCTL_PAD: u32 = 1 << 3;

/// Counters, cleared when read, by their names in statistics (10.2.7; 8.18).
pub(crate) const COUNTERS: &[(usize, &str)] = &[
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
