//! Registers of a vmxnet3 card, all 32 bits wide and eight bytes apart (`vmxnet3_defs.h`).

/// BAR 0, the data path: interrupt masks (`REG_IMR`), then producer indexes of the rings (`REG_TXPROD`, `REG_RXPROD`, `REG_RXPROD2`).
pub(super) const IMR: usize = 0x000;
pub(super) const TX_PRODUCER: usize = 0x600;
pub(super) const RX_PRODUCERS: [usize; 2] = [0x800, 0xa00];
/// From a register of BAR 0 to that of the next queue or vector.
pub(super) const NEXT: usize = 8;

/// BAR 1: revisions of the card and of its data path, as bits; the one to use is written (`REG_VRRS`, `REG_UVRS`).
pub(super) const REVISIONS: usize = 0x00;
pub(super) const DATA_PATH_REVISIONS: usize = 0x08;
pub(super) const REVISION_1: u32 = 1;
/// Where the shared area lies (`REG_DSAL`, `REG_DSAH`). The upper half is written last.
pub(super) const AREA_LOW: usize = 0x10;
pub(super) const AREA_HIGH: usize = 0x18;
/// A command is written, its result read (`REG_CMD`).
pub(super) const COMMAND: usize = 0x20;
pub(super) const MAC_LOW: usize = 0x28;
pub(super) const MAC_HIGH: usize = 0x30;
/// Events are written to be forgotten (`REG_ECR`).
pub(super) const EVENTS: usize = 0x40;

/// Commands (`VMXNET3_CMD_`).
pub(super) mod command {
    pub(crate) const ACTIVATE: u32 = 0xcafe_0000;
    pub(crate) const QUIESCE: u32 = 0xcafe_0001;
    pub(crate) const RESET: u32 = 0xcafe_0002;
    pub(crate) const UPDATE_RX_MODE: u32 = 0xcafe_0003;
    pub(crate) const GET_QUEUE_STATUS: u32 = 0xf00d_0000;
    pub(crate) const GET_STATS: u32 = 0xf00d_0001;
    pub(crate) const GET_LINK: u32 = 0xf00d_0002;
    pub(crate) const GET_MAC_LOW: u32 = 0xf00d_0003;
    pub(crate) const GET_MAC_HIGH: u32 = 0xf00d_0004;
}

/// What `GET_LINK` says: the link is up; the speed in Mbit/s above.
pub(super) const LINK_UP: u32 = 1;
pub(super) const LINK_SPEED_SHIFT: u32 = 16;

/// Events (`VMXNET3_ECR_`): a receive or a transmit queue has stopped, the link has changed.
pub(super) const EVENT_RX_ERROR: u32 = 1;
pub(super) const EVENT_TX_ERROR: u32 = 1 << 1;
pub(super) const EVENT_LINK: u32 = 1 << 2;
