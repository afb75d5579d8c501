//! What we offer, and why the rest is missing.

use pmd::virtio::features::*;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use crate::config::{OffloadOffer, VhostConfig};

/// Virtio features offered to a guest.
///
/// What is missing, and why: `docs/decisions/0009-features-that-are-the-front-ends.md`. MAC, link status and speed are QEMU's own there; they are for
/// front-ends that ask the port for its configuration space.
pub(super) fn offered(config: &VhostConfig) -> u64 {
    let when = |on: bool, bits: u64| if on { bits } else { 0 };
    VIRTIO_F_VERSION_1
        | VIRTIO_F_ANY_LAYOUT
        | VIRTIO_F_INDIRECT_DESC
        | VIRTIO_F_EVENT_IDX
        | VIRTIO_F_RING_PACKED
        | VIRTIO_F_IN_ORDER
        | VIRTIO_F_ACCESS_PLATFORM
        | VHOST_F_LOG_ALL
        | VHOST_USER_F_PROTOCOL_FEATURES
        | VIRTIO_NET_F_MRG_RXBUF
        | VIRTIO_NET_F_CTRL_VQ
        | VIRTIO_NET_F_CTRL_RX
        | VIRTIO_NET_F_GUEST_ANNOUNCE
        | VIRTIO_NET_F_MTU
        | VIRTIO_NET_F_STATUS
        | when(config.mac.is_some(), VIRTIO_NET_F_MAC)
        | when(config.link_speed.is_some(), VIRTIO_NET_F_SPEED_DUPLEX)
        | when(config.max_queue_pairs > 1, VIRTIO_NET_F_MQ)
        | offload_features(config.offload)
}

/// Features of these offloads, both ways.
pub(crate) fn offload_features(offload: OffloadOffer) -> u64 {
    let when = |on: bool, bits: u64| if on { bits } else { 0 };
    let tso = offload.csum && (offload.tso4 || offload.tso6);
    when(offload.csum, VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM)
        | when(offload.csum && offload.tso4, VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_GUEST_TSO4)
        | when(offload.csum && offload.tso6, VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_GUEST_TSO6)
        | when(tso && offload.ecn, VIRTIO_NET_F_HOST_ECN | VIRTIO_NET_F_GUEST_ECN)
        | when(offload.csum && offload.ufo, VIRTIO_NET_F_HOST_UFO | VIRTIO_NET_F_GUEST_UFO)
        | when(
            offload.csum && offload.uso,
            VIRTIO_NET_F_HOST_USO | VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6,
        )
}

/// Protocol features offered to a front-end.
pub(super) fn protocol() -> VhostUserProtocolFeatures {
    let postcopy = if pmd::sys::pager::available() {
        VhostUserProtocolFeatures::PAGEFAULT
    } else {
        VhostUserProtocolFeatures::empty()
    };
    postcopy
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::RARP
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::MTU
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::GET_VRING_BASE_INFLIGHT
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::DEVICE_STATE
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::STATUS
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::BACKEND_SEND_FD
        | VhostUserProtocolFeatures::HOST_NOTIFIER
}
