//! What a port tells of itself.

/// Whether frames can pass.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LinkState {
    /// They cannot: no peer, no carrier, not started.
    #[default]
    Down,
    /// They can.
    Up,
}

/// Facts for the operator, gathered on the control side.
#[derive(Clone, Default, Debug)]
pub struct PortInfo {
    /// Whether frames can pass.
    pub link: LinkState,
    /// Times the link changed.
    pub link_resets: u64,
    /// Times that frames began to take another way to the far side while the link stayed up: who is behind the port may be reached
    /// by another port now.
    pub moves: u64,
    /// Largest payload of a frame, without Ethernet header and tags.
    pub mtu: u16,
    /// MAC address the port or its guest is known by, if any.
    pub mac: Option<[u8; 6]>,
    /// The kernel's number of the device behind the port, if it is one.
    pub ifindex: Option<u32>,
    /// Receive queues that can bring packets now (a guest enables and disables pairs).
    pub rx_queues: u16,
    /// Driver-specific facts, as in `Interface.status`.
    pub status: Vec<(String, String)>,
    /// Counters the device itself keeps, by name; beside those of queues in `Interface.statistics`.
    pub counters: Vec<(&'static str, u64)>,
    /// The device behind the port is gone for good: only opening the port anew can help.
    pub gone: bool,
    /// What is wrong with the port, if anything: shown as `Interface.error`.
    pub error: Option<String>,
}
