//! Why a packet was dropped: the closed list, and counters for it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Reason of a drop. Every dropped packet is counted under exactly one of these, at one port.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All reasons, in order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// Name in statistics: `drop_` and this.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame is shorter than an Ethernet header.
    RxTooShort = "rx_too_short",
    /// The frame is longer than the port's limit.
    RxTooLong = "rx_too_long",
    /// The offload header contradicts the frame.
    RxBadOffload = "rx_bad_offload",
    /// A descriptor or chain of the ring broke the rules.
    RxBadDescriptor = "rx_bad_descriptor",
    /// The receive side ran out of buffers or spans.
    RxNoBuffer = "rx_no_buffer",
    /// The kernel had it, and no room for it in the ring or socket that we read.
    RxRingFull = "rx_ring_full",
    /// The guest sent it by a ring that it has disabled, or the host by a device that it has taken down since.
    RxDisabled = "rx_disabled",
    /// It came in by a port that the operator has taken down.
    RxAdminDown = "rx_admin_down",
    /// The flow says drop.
    Action = "action",
    /// A rule says drop, or no port is left to send to.
    NoOutput = "no_output",
    /// The packet's VLAN is not allowed on its port.
    VlanNotAllowed = "vlan_not_allowed",
    /// The slow path's queue had no room, or the port had its share of it already.
    UpcallQueueFull = "upcall_queue_full",
    /// No memory to keep a packet that must wait.
    UpcallNoBuffer = "upcall_no_buffer",
    /// The slow path could not decide (its switch is going away, or the port has left the bridge).
    UpcallNoBridge = "upcall_no_bridge",
    /// An action needed more headroom, or a longer head, than the packet has.
    ActionNoRoom = "action_no_room",
    /// The output port has gone.
    TxPortGone = "tx_port_gone",
    /// The far side is not ready: link down, ring not started, peer absent.
    TxLinkDown = "tx_link_down",
    /// The operator has taken the port down.
    TxAdminDown = "tx_admin_down",
    /// The far side gave too few buffers.
    TxRingFull = "tx_ring_full",
    /// The control side held the ring.
    TxRingBusy = "tx_ring_busy",
    /// A device runs the guest's rings (vDPA): the switch cannot put frames there.
    TxOffloaded = "tx_offloaded",
    /// The guest's IOMMU has not translated the buffers yet.
    TxUntranslated = "tx_untranslated",
    /// The frame is longer than the port's MTU allows.
    TxTooLong = "tx_too_long",
    /// The ring or its memory broke the rules while sending.
    TxBadRing = "tx_bad_ring",
    /// The frame needs an offload that software could not do either.
    TxNoOffload = "tx_no_offload",
    /// The kernel refused the frame.
    TxSystem = "tx_system",
}

/// A counter for each reason. One writer; readers on any thread.
#[derive(Default, Debug)]
pub struct DropCounters {
    counts: [AtomicU64; DropReason::ALL.len()],
}

impl DropCounters {
    /// Counts `n` packets. Only the owning thread calls this.
    #[inline]
    pub fn add(&self, reason: DropReason, n: u64) {
        let count = &self.counts[reason as usize];
        count.store(count.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Packets counted under a reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.counts[reason as usize].load(Relaxed)
    }

    /// Reasons that happened, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, n)| n != 0)
    }
}
