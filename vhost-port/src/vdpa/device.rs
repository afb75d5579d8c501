//! What a device must do to take over a guest's rings, and what it may rely on.
//!
//! # Life of a device
//!
//! ```text
//!   opened ──map, unmap──▶ ──start──▶ running ──stop──▶ stopped ──start──▶ …        drop, from any state
//!                                       │ map, unmap, set_call, set_kick, set_queue_pairs  │
//!                                       └─────────────── reset ──▶ as opened, memory still mapped
//! ```
//!
//! # Threads
//!
//! One thread at a time calls the methods: the port's control thread, which answers the front-end meanwhile not. So a method may take
//! milliseconds, and must end by itself, with an error if need be, within [`PATIENCE`]. A [`Doorbell`] may be rung by any thread.
//!
//! # What the device may rely on
//!
//! - Ring addresses and sizes have been checked against memory that is mapped; rings have the negotiated layout.
//! - Memory stays mapped in this process for as long as the device keeps the [`DmaMapping`] it was given.
//! - What guests write into rings may be anything. A device that is real is confined by its IOMMU; one in software checks.
//!
//! # What the port relies on
//!
//! - After an error of [`VdpaDev::start`], and after [`VdpaDev::stop`], [`VdpaDev::reset`] or drop have returned, with or without an error,
//!   **the device does not touch memory any more**, nor interrupt. A device that cannot be sure resets itself; one that
//!   does not even answer to that (it is gone from the bus) cannot write either.
//! - A buffer is in the used ring if and only if the device is done with it, and used buffers stay used. Buffers that a
//!   stopped device had read, but not used, are the next engine's: a frame may be sent twice, none gets lost.

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use pmd::pci::FunctionCounters;

use super::error::VdpaError;
use super::memory::DmaMapping;

/// Longest that a method of [`VdpaDev`] may take. A front-end waits that long for its answer, with the guest's
/// processors perhaps waiting for it.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// A device that can run a guest's rings. See the module for the contract.
pub trait VdpaDev: Send {
    /// What it is and can do. Never changes.
    fn capabilities(&self) -> &Capabilities;

    /// Reads its configuration space (`struct virtio_net_config`; virtio 1.2, 5.1.4) from `offset` on. Bytes beyond its end read
    /// as zero. Allowed in every state.
    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), VdpaError>;

    /// Writes its configuration space. Fields that are read only stay as they are.
    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), VdpaError>;

    /// Lets the device reach memory. Called before [`VdpaDev::start`] for all that the rings and their buffers can be in, and
    /// while it runs when a guest is given more. The range lies within [`Capabilities::iova`], is a multiple of [`Capabilities::granule`],
    /// and overlaps none that is mapped. After an error nothing of it is mapped.
    fn map(&mut self, mapping: DmaMapping) -> Result<(), VdpaError>;

    /// Takes away what one [`VdpaDev::map`] gave, as a whole: `iova` is where that begins. When it returns, the device cannot reach it any
    /// more, with an error or without one. Called while the device runs only for memory in which no ring and no buffer is.
    fn unmap(&mut self, iova: u64) -> Result<(), VdpaError>;

    /// Starts the rings. Returns one [`StartedRing`] per ring, in the same order. The features are some of [`Capabilities::features`].
    /// What waits in a ring already is found without a kick. After an error the device is as after [`VdpaDev::reset`].
    fn start(&mut self, start: Start<'_>) -> Result<Vec<StartedRing>, VdpaError>;

    /// While it runs: interrupts for ring `ring` go to this eventfd from now on, or nowhere. The port itself then writes the new one once, so an
    /// interrupt that falls between the two is not lost.
    fn set_call(&mut self, ring: u16, call: Option<Arc<OwnedFd>>) -> Result<(), VdpaError>;

    /// While it runs, for a ring that [watches](StartedRing::watches_kick) its eventfd: kicks come by this one from now on, or by the
    /// [`Doorbell`] only. The port rings that once afterwards, so a kick that falls between the two is not lost.
    fn set_kick(&mut self, ring: u16, kick: Option<Arc<OwnedFd>>) -> Result<(), VdpaError>;

    /// While it runs: uses this many of the queue pairs that were started, at least one. Frames are received in those only; the device
    /// may let the others rest or go on with what is sent by them.
    fn set_queue_pairs(&mut self, pairs: u16) -> Result<(), VdpaError>;

    /// Stops all rings and tells where each stands, in the order of [`Start::rings`].
    fn stop(&mut self) -> Result<Vec<StoppedRing>, VdpaError>;

    /// Stops without asking anything. Memory stays mapped. Called after errors, and when a guest's driver has gone.
    fn reset(&mut self) -> Result<(), VdpaError>;

    /// Becomes readable when there is something for [`VdpaDev::poll`] to find. `None` if the device has no way to say so: it is polled
    /// some times a second then.
    fn event_fd(&self) -> Option<Arc<OwnedFd>>;

    /// What has happened since this was asked last. Clears the descriptor.
    fn poll(&mut self) -> DeviceEvents;

    /// Counters of its own since it was started, if it has any. What its [`Uplink`] has counted for it is looked up there.
    fn statistics(&mut self) -> Option<FunctionCounters> {
        None
    }

    /// Where its frames go.
    fn uplink(&self) -> Uplink;

    /// The device's own record of the memory it writes, if it keeps one.
    fn dirty_tracking(&mut self) -> Option<&mut dyn DirtyTracking> {
        None
    }
}

/// What a device is and can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Which implementation of [`VdpaDev`] it is, for the operator: `virtio-pci`, `vhost-vdpa`.
    pub kind: &'static str,
    /// Which one it is, as the operator writes it: `0000:03:10.0`, `/dev/vhost-vdpa-0`.
    pub name: String,
    /// Virtio features it offers.
    pub features: u64,
    /// Most queue pairs.
    pub max_queue_pairs: u16,
    /// Longest ring, in descriptors.
    pub max_ring_size: u16,
    /// Where a ring may be when it starts.
    pub start_index: StartIndex,
    /// [`VdpaDev::stop`] knows where rings stand.
    pub reports_index: bool,
    /// I/O addresses that may be mapped, ascending, without overlap.
    pub iova: Vec<RangeInclusive<u64>>,
    /// Memory is mapped in multiples of this many bytes, a power of two.
    pub granule: u64,
    /// The MAC address it has by itself.
    pub mac: Option<[u8; 6]>,
}

/// Where a ring may be when a device starts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartIndex {
    /// Only a ring that nobody has used yet: index zero; of a packed ring slot zero and wrap counter one. All that virtio's
    /// PCI transport can say (virtio 1.2, 4.1.4.3 has no field for it).
    Zero,
    /// Anywhere.
    Any,
}

/// With what a device starts.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Features to acknowledge, some of [`Capabilities::features`]. They say the layout of rings (RING_PACKED) and of frames' headers.
    pub features: u64,
    /// The rings: receive and transmit of the first pair, then of the second, and so on. The device's control queue, if it needs one to
    /// do what is asked of it, is its own business: it keeps it in memory of its own.
    pub rings: &'a [RingStart],
    /// Queue pairs to use at first, as [`VdpaDev::set_queue_pairs`].
    pub queue_pairs: u16,
    /// The guest's MAC address, if it is known. A device that filters lets frames for it through; if it is not known, all.
    pub mac: Option<[u8; 6]>,
}

/// A ring to start.
#[derive(Clone, Debug)]
pub struct RingStart {
    /// Descriptors.
    pub size: u16,
    /// I/O address of the descriptor table, or of a packed ring's descriptors.
    pub descriptors: u64,
    /// I/O address of the avail ring, or of a packed ring's driver event area.
    pub driver: u64,
    /// I/O address of the used ring, or of a packed ring's device event area.
    pub device: u64,
    /// Where to begin, as in SET_VRING_BASE: the next avail index; in a packed ring the next descriptor, and in bit 15 its wrap counter. The
    /// used index is the same.
    pub index: u16,
    /// Eventfd to be written for each interrupt. Does not block.
    pub call: Option<Arc<OwnedFd>>,
    /// Eventfd that is written for each kick. A device that can watch it by itself does ([`StartedRing::watches_kick`]). None if
    /// the ring is kicked by its [`Doorbell`] only.
    pub kick: Option<Arc<OwnedFd>>,
}

/// A ring that runs.
pub struct StartedRing {
    /// Kicks the ring.
    pub doorbell: Arc<dyn Doorbell>,
    /// The device, or the kernel for it, watches [`RingStart::kick`]. If not, the port watches it and rings the doorbell.
    pub watches_kick: bool,
    /// The page that a guest may be given to kick the ring by itself.
    pub page: Option<DoorbellPage>,
}

/// Kicks a ring of a device.
pub trait Doorbell: Send + Sync {
    /// Tells the device to look at the ring. Never blocks. After the device has been stopped, reset or dropped, does nothing.
    fn ring(&self);
}

/// A page of a device's registers in which any write kicks one ring and nothing else: what VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG
/// hands to a front-end, which maps it where the guest's driver kicks.
#[derive(Clone, Debug)]
pub struct DoorbellPage {
    /// What to map.
    pub fd: Arc<OwnedFd>,
    /// Where in it the page begins.
    pub offset: u64,
    /// Bytes, a multiple of the page size.
    pub len: u64,
}

/// Where a stopped ring stands, as far as the device knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoppedRing {
    /// Here, in the form of [`RingStart::index`]; all before it is used.
    At(u16),
    /// The device does not tell. Of a split ring the used index says it.
    Unknown,
}

/// What has happened to a device.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeviceEvents {
    /// Its configuration space has changed: link state, MTU.
    pub config_changed: bool,
    /// It has met an error from which only a reset helps (DEVICE_NEEDS_RESET), or no longer says that it runs.
    pub failed: bool,
    /// It has gone, or somebody wants it back (an unplug was asked for).
    pub removed: bool,
}

impl DeviceEvents {
    /// Whether it can still carry a guest's traffic.
    pub fn usable(self) -> bool {
        !self.failed && !self.removed
    }
}

/// Where a device's frames go: the switch does not see them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Uplink {
    /// PCI address of the physical function whose virtual function it is, or of the card itself.
    pub parent: Option<String>,
    /// The parent's network interface in the kernel, if it has one.
    pub netdev: Option<String>,
    /// Number of the virtual function.
    pub vf: Option<u16>,
}

/// A device's own record of the memory it has written, for a migration: buffers and rings, wherever it writes while it runs.
pub trait DirtyTracking {
    /// Begins or ends recording, whether the device runs or not. Memory that is mapped later is recorded as well. What is written after
    /// this has returned is in the record; beginning anew empties it. The record stays when the device stops or is reset.
    fn track(&mut self, on: bool) -> Result<(), VdpaError>;

    /// Calls `written` for every stretch of I/O addresses (first, bytes) in the range that the device has written since it was asked last,
    /// and forgets them: what is written meanwhile is told now or the next time. More than was written may be told.
    fn collect(
        &mut self,
        range: RangeInclusive<u64>,
        written: &mut dyn FnMut(u64, u64),
    ) -> Result<(), VdpaError>;
}
