//! What the negotiated features mean for frames, worked out once.

use pmd::packet::{Gso, Offload, OffloadCaps};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use pmd::virtio::net_driver::device_offloads;

/// Negotiated rules of both directions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct NetRules {
    /// Bytes before each frame: 12, or 10 in the legacy layout without mergeable buffers.
    pub(crate) header_len: usize,
    /// A frame to the guest may fill several buffers.
    pub(crate) mergeable: bool,
    /// What the guest may ask of us.
    pub(crate) from_guest: OffloadCaps,
    /// What the guest takes over from us.
    pub(crate) to_guest: OffloadCaps,
}

impl NetRules {
    /// Rules for a set of acknowledged features.
    pub(crate) fn new(features: u64) -> NetRules {
        let has = |bit| features & bit != 0;
        let mergeable = has(VIRTIO_NET_F_MRG_RXBUF);
        NetRules {
            header_len: if mergeable || has(VIRTIO_F_VERSION_1) {
                NetHeader::LEN
            } else {
                NetHeader::LEGACY_LEN
            },
            mergeable,
            from_guest: device_offloads(features),
            to_guest: OffloadCaps {
                csum: has(VIRTIO_NET_F_GUEST_CSUM),
                tso4: has(VIRTIO_NET_F_GUEST_TSO4),
                tso6: has(VIRTIO_NET_F_GUEST_TSO6),
                ecn: has(VIRTIO_NET_F_GUEST_ECN),
                ufo: has(VIRTIO_NET_F_GUEST_UFO),
                // The header does not say of which IP version a UDP frame is, so a guest takes both or none.
                uso: has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6),
            },
        }
    }

    /// Whether a header from the guest can say anything: without these features it is all zero (virtio 1.2, 5.1.6.2.1), and
    /// reading it would only fetch a cache line.
    #[inline]
    pub(crate) fn header_matters(&self) -> bool {
        let caps = &self.from_guest;
        caps.csum || caps.tso4 || caps.tso6 || caps.ufo || caps.uso
    }

    /// Whether a guest with these features may send a frame in this state.
    #[inline]
    pub(crate) fn allows(&self, offload: &Offload) -> bool {
        (!offload.needs_csum && offload.gso == Gso::None) || self.from_guest.takes(offload)
    }
}
