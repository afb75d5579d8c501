//! Feature bits of virtio, virtio-net and vhost-user, as masks, and their names.
//!
//! Sections: 5.1.3 (network device), 6 (reserved features), vhost-user "Protocol features".

macro_rules! bits {
    ($table:ident: $($(#[doc = $doc:literal])+ $name:ident = $bit:literal,)+) => {
        $($(#[doc = $doc])+ pub const $name: u64 = 1 << $bit;)+

        /// Names by mask, in order of the bits.
        pub const $table: &[(u64, &str)] = &[$(($name, stringify!($name)),)+];
    };
}

bits! { FEATURE_NAMES:
    /// The device checks partial checksums of what the driver sends.
    VIRTIO_NET_F_CSUM = 0,
    /// The driver takes frames with partial checksums.
    VIRTIO_NET_F_GUEST_CSUM = 1,
    /// The device tells its largest MTU.
    VIRTIO_NET_F_MTU = 3,
    /// The device has a MAC address to give.
    VIRTIO_NET_F_MAC = 5,
    /// The driver takes TCP/IPv4 segmentation.
    VIRTIO_NET_F_GUEST_TSO4 = 7,
    /// The driver takes TCP/IPv6 segmentation.
    VIRTIO_NET_F_GUEST_TSO6 = 8,
    /// The driver takes segmentation of TCP with ECN.
    VIRTIO_NET_F_GUEST_ECN = 9,
    /// The driver takes UDP fragmentation.
    VIRTIO_NET_F_GUEST_UFO = 10,
    /// The device segments TCP/IPv4.
    VIRTIO_NET_F_HOST_TSO4 = 11,
    /// The device segments TCP/IPv6.
    VIRTIO_NET_F_HOST_TSO6 = 12,
    /// The device segments TCP with ECN.
    VIRTIO_NET_F_HOST_ECN = 13,
    /// The device fragments UDP.
    VIRTIO_NET_F_HOST_UFO = 14,
    /// A frame may fill several receive buffers.
    VIRTIO_NET_F_MRG_RXBUF = 15,
    /// The device reports link state.
    VIRTIO_NET_F_STATUS = 16,
    /// There is a control queue.
    VIRTIO_NET_F_CTRL_VQ = 17,
    /// The control queue sets receive modes.
    VIRTIO_NET_F_CTRL_RX = 18,
    /// The driver can announce itself.
    VIRTIO_NET_F_GUEST_ANNOUNCE = 21,
    /// Several queue pairs.
    VIRTIO_NET_F_MQ = 22,
    /// The control queue sets the MAC address.
    VIRTIO_NET_F_CTRL_MAC_ADDR = 23,
    /// Notify when the ring runs empty, even when suppressed (legacy).
    VIRTIO_F_NOTIFY_ON_EMPTY = 24,
    /// vhost: dirty pages are logged.
    VHOST_F_LOG_ALL = 26,
    /// Header and data may share descriptors in any way (legacy; VERSION_1 implies it).
    VIRTIO_F_ANY_LAYOUT = 27,
    /// Descriptors may point to tables of descriptors.
    VIRTIO_F_INDIRECT_DESC = 28,
    /// Notifications are suppressed by index, not by flag.
    VIRTIO_F_EVENT_IDX = 29,
    /// vhost-user: protocol features are negotiated.
    VHOST_USER_F_PROTOCOL_FEATURES = 30,
    /// Virtio 1.0 or later.
    VIRTIO_F_VERSION_1 = 32,
    /// Addresses go through an IOMMU.
    VIRTIO_F_ACCESS_PLATFORM = 33,
    /// Packed rings.
    VIRTIO_F_RING_PACKED = 34,
    /// Buffers are used in order.
    VIRTIO_F_IN_ORDER = 35,
    /// The driver orders its accesses to memory as for a device of the platform, not of another processor.
    VIRTIO_F_ORDER_PLATFORM = 36,
    /// The driver takes UDP/IPv4 segmentation (virtio 1.3).
    VIRTIO_NET_F_GUEST_USO4 = 54,
    /// The driver takes UDP/IPv6 segmentation (virtio 1.3).
    VIRTIO_NET_F_GUEST_USO6 = 55,
    /// The device segments UDP (virtio 1.3).
    VIRTIO_NET_F_HOST_USO = 56,
    /// The device tells speed and duplex of its link.
    VIRTIO_NET_F_SPEED_DUPLEX = 63,
}

/// Names of the bits set in `features`; bits without a name are left out.
pub fn names(features: u64) -> impl Iterator<Item = &'static str> {
    FEATURE_NAMES.iter().filter(move |&&(mask, _)| features & mask != 0).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_bits() {
        let set = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_CSUM;
        assert_eq!(names(set).collect::<Vec<_>>(), ["VIRTIO_NET_F_CSUM", "VIRTIO_F_VERSION_1"]);
    }
}
