//! What we offer, and why the rest is missing.

use pmd::virtio::features::*;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use crate::config::OffloadOffer;

/// Virtio features offered to a guest.
///
/// Not offered: dirty log (not written yet); UFO and USO (no far side takes them); MAC and link status
/// (QEMU provides them). The control queue is QEMU's as well, but it only exists if we offer it.
pub(super) fn offered(offload: OffloadOffer, queue_pairs: u16) -> u64 {
    let when = |on: bool, bits: u64| if on { bits } else { 0 };
    let tso = offload.csum && (offload.tso4 || offload.tso6);
    VIRTIO_F_VERSION_1
        | VIRTIO_F_ANY_LAYOUT
        | VIRTIO_F_INDIRECT_DESC
        | VIRTIO_F_EVENT_IDX
        | VIRTIO_F_RING_PACKED
        | VIRTIO_F_IN_ORDER
        | VIRTIO_F_ACCESS_PLATFORM
        | VHOST_USER_F_PROTOCOL_FEATURES
        | VIRTIO_NET_F_MRG_RXBUF
        | VIRTIO_NET_F_CTRL_VQ
        | VIRTIO_NET_F_CTRL_RX
        | VIRTIO_NET_F_GUEST_ANNOUNCE
        | VIRTIO_NET_F_MTU
        | when(queue_pairs > 1, VIRTIO_NET_F_MQ)
        | when(offload.csum, VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM)
        | when(offload.csum && offload.tso4, VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_GUEST_TSO4)
        | when(offload.csum && offload.tso6, VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_GUEST_TSO6)
        | when(tso && offload.ecn, VIRTIO_NET_F_HOST_ECN | VIRTIO_NET_F_GUEST_ECN)
}

/// Protocol features offered to a front-end.
///
/// RESET_DEVICE is not: stopping each ring says the same. RARP is not: guests announce themselves.
pub(super) fn protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::MTU
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::STATUS
        | VhostUserProtocolFeatures::BACKEND_REQ
}
