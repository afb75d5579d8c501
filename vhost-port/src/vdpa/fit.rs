//! Whether a device can do what a guest has negotiated.

use pmd::virtio::features::*;

use super::device::{Capabilities, StartIndex};
use super::error::{VdpaError, VdpaProblem};

/// Features that are between a guest and its front-end, or between a front-end and us: a device need not have them. QEMU serves the
/// control queue itself and has address, link state and MTU of its own.
const NOT_THE_DEVICES: u64 = VHOST_USER_F_PROTOCOL_FEATURES
    | VHOST_F_LOG_ALL
    | VIRTIO_F_ANY_LAYOUT
    | VIRTIO_F_NOTIFY_ON_EMPTY
    | VIRTIO_NET_F_MAC
    | VIRTIO_NET_F_STATUS
    | VIRTIO_NET_F_MTU
    | VIRTIO_NET_F_GUEST_ANNOUNCE
    | VIRTIO_NET_F_CTRL_VQ
    | VIRTIO_NET_F_CTRL_RX
    | VIRTIO_NET_F_CTRL_MAC_ADDR
    | VIRTIO_NET_F_MQ
    | VIRTIO_NET_F_SPEED_DUPLEX;

/// Features that say what a ring looks like. Behind a relay the device's rings are ours, and may look otherwise.
const RINGS: u64 = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER;

fn names(features: u64) -> String {
    let names = FEATURE_NAMES.iter().filter(|(bit, _)| features & bit != 0).map(|(_, name)| *name);
    names.collect::<Vec<_>>().join(", ")
}

/// Which engine a device is to be with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// It runs the guest's rings.
    Direct,
    /// It runs rings of ours.
    Shadow,
}

/// What a guest wants of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wants {
    /// Acknowledged features.
    pub(crate) features: u64,
    /// Queue pairs in use.
    pub(crate) pairs: u16,
    /// Its longest ring.
    pub(crate) ring_size: u16,
    /// No ring has been used yet.
    pub(crate) fresh: bool,
}

/// Checks whether a device suits a guest, and returns the features to acknowledge to the device.
pub(crate) fn fit(caps: &Capabilities, wants: Wants, way: Way) -> Result<u64, VdpaError> {
    let Capabilities { name, .. } = caps;
    let unfit = |what: String, remedy: &str| Err(VdpaError::new(VdpaProblem::Unfit, what, remedy));
    let Wants { features, pairs, ring_size, fresh } = wants;
    if features & VIRTIO_F_ACCESS_PLATFORM != 0 {
        return unfit(
            format!("{name} cannot follow the IOMMU of the guest (VIRTIO_F_ACCESS_PLATFORM)"),
            "start the guest with iommu_platform=off for this card",
        );
    }
    if features & VIRTIO_F_VERSION_1 == 0 {
        return unfit(
            format!("{name} cannot serve a legacy driver (no VIRTIO_F_VERSION_1)"),
            "start the guest with disable-legacy=on for this card",
        );
    }
    let needs = match way {
        Way::Direct => features & !NOT_THE_DEVICES,
        Way::Shadow => features & !NOT_THE_DEVICES & !RINGS,
    };
    let lacks = needs & !caps.features;
    if lacks != 0 {
        return unfit(
            format!("{name} lacks what the guest has negotiated: {} ({lacks:#x})", names(lacks)),
            "unplug and plug in the guest's card, or restart the guest: it is offered what the device has then",
        );
    }
    if pairs > caps.max_queue_pairs {
        return unfit(
            format!("{name} has {} queue pairs, the guest uses {pairs}", caps.max_queue_pairs),
            "have the guest use fewer (ethtool -L), or take a device with more",
        );
    }
    if way == Way::Direct {
        direct(caps, features, ring_size, fresh)?;
    }
    let rings = match way {
        Way::Direct => 0,
        // The fewer the better, but for these.
        Way::Shadow => VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX,
    };
    Ok(needs | caps.features & (VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | rings))
}

/// What matters only to a device that runs the guest's own rings.
fn direct(caps: &Capabilities, features: u64, ring_size: u16, fresh: bool) -> Result<(), VdpaError> {
    let Capabilities { name, .. } = caps;
    let unfit = |what: String, remedy: &str| Err(VdpaError::new(VdpaProblem::Unfit, what, remedy));
    if ring_size > caps.max_ring_size {
        return unfit(
            format!("{name} has rings of {}, the guest has one of {ring_size}", caps.max_ring_size),
            "start the guest with rx_queue_size and tx_queue_size of no more than that",
        );
    }
    if features & VIRTIO_F_RING_PACKED != 0 {
        // Nothing in such a ring says how far a device had come that died. A relay knows.
        return unfit(
            format!("{name} cannot run a packed ring alone: where it stood would be lost with it"),
            "start the guest with packed=off for this card",
        );
    }
    if !fresh && caps.start_index == StartIndex::Zero {
        return unfit(
            format!("{name} can take rings over only when the guest's driver starts, and it is running"),
            "nothing has to be done: it takes over at the next start of the guest's driver",
        );
    }
    Ok(())
}

/// What of our own offer to guests such a device leaves.
pub(crate) fn offer(caps: &Capabilities) -> u64 {
    let mut offer = caps.features | NOT_THE_DEVICES | VIRTIO_F_ACCESS_PLATFORM;
    if caps.max_queue_pairs == 1 {
        offer &= !VIRTIO_NET_F_MQ;
    }
    offer & !VIRTIO_F_RING_PACKED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vdpa::fake::plain_function;

    const GUEST: Wants = Wants {
        features: VIRTIO_F_VERSION_1
            | VIRTIO_NET_F_MRG_RXBUF
            | VIRTIO_NET_F_CTRL_VQ
            | VHOST_USER_F_PROTOCOL_FEATURES,
        pairs: 1,
        ring_size: 256,
        fresh: true,
    };

    #[test]
    fn guest_that_has_no_more_than_the_device_fits() {
        let caps = plain_function("0000:03:10.0");
        let acked = fit(&caps, GUEST, Way::Direct).unwrap();
        assert_eq!(acked, VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_F_ACCESS_PLATFORM);
        assert_eq!(acked & !caps.features, 0);
    }

    #[test]
    fn what_does_not_fit_is_said_with_what_to_do() {
        let caps = plain_function("0000:03:10.0");
        let why = |wants, way| fit(&caps, wants, way).unwrap_err().to_string();
        let with = |features| Wants { features: GUEST.features | features, ..GUEST };
        assert!(why(with(VIRTIO_NET_F_HOST_USO), Way::Direct).contains("VIRTIO_NET_F_HOST_USO"));
        assert!(why(with(VIRTIO_F_ACCESS_PLATFORM), Way::Shadow).contains("iommu_platform=off"));
        assert!(
            why(with(VIRTIO_F_RING_PACKED), Way::Direct).contains("packed=off")
                || caps.features & VIRTIO_F_RING_PACKED == 0
        );
        assert!(why(Wants { features: VIRTIO_NET_F_MRG_RXBUF, ..GUEST }, Way::Direct).contains("legacy"));
        assert!(why(Wants { pairs: 9, ..GUEST }, Way::Shadow).contains("9"));
        assert!(why(Wants { ring_size: 4096, ..GUEST }, Way::Direct).contains("rx_queue_size"));
        assert!(why(Wants { fresh: false, ..GUEST }, Way::Direct).contains("next start"));
        fit(&caps, Wants { fresh: false, ring_size: 4096, ..with(VIRTIO_F_IN_ORDER) }, Way::Shadow).unwrap();
    }

    #[test]
    fn offer_is_what_fits() {
        let caps = plain_function("0000:03:10.0");
        let offer = offer(&caps);
        assert_eq!(offer & VIRTIO_NET_F_HOST_USO, 0);
        let features = offer & !VIRTIO_F_ACCESS_PLATFORM;
        fit(&caps, Wants { features, ..GUEST }, Way::Direct).unwrap();
    }
}
