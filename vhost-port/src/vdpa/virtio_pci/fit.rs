//! What a virtio function can do for a guest.

use pmd::virtio::features::*;

use super::super::device::{Capabilities, Start};
use super::super::error::{VdpaError, VdpaProblem};

/// What a guest may be offered if the function has it: all that is between its driver and the rings. Features of the control queue
/// are not among them, since the guest's control queue never comes here.
pub(super) const FOR_GUESTS: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_F_RING_PACKED
    | VIRTIO_F_INDIRECT_DESC
    | VIRTIO_F_EVENT_IDX
    | VIRTIO_F_IN_ORDER
    | VIRTIO_F_ANY_LAYOUT
    | VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_ECN
    | VIRTIO_NET_F_GUEST_UFO
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_HOST_ECN
    | VIRTIO_NET_F_HOST_UFO
    | VIRTIO_NET_F_HOST_USO
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_NET_F_MTU
    | VIRTIO_NET_F_MAC
    | VIRTIO_NET_F_STATUS
    | VIRTIO_NET_F_MQ;

/// What is taken beside them if it is there: how the function reaches memory, and what our control queue is for.
pub(super) const FOR_US: u64 = VIRTIO_F_ACCESS_PLATFORM
    | VIRTIO_F_ORDER_PLATFORM
    | VIRTIO_NET_F_STATUS
    | VIRTIO_NET_F_CTRL_VQ
    | VIRTIO_NET_F_CTRL_RX
    | VIRTIO_NET_F_CTRL_MAC_ADDR;

/// Index of a packed ring that nobody has used: slot zero, wrap counter one.
const PACKED_START: u16 = 0x8000;

/// Whether a function of these capabilities can do what is asked; why not.
pub(super) fn check(capabilities: &Capabilities, start: &Start<'_>) -> Result<(), VdpaError> {
    let unfit = |what: String, remedy: &str| {
        Err(VdpaError::new(VdpaProblem::Unfit, format!("{}: {what}", capabilities.name), remedy))
    };
    let Capabilities { features, max_queue_pairs, max_ring_size, .. } = *capabilities;
    let missing = start.features & !features;
    if missing != 0 {
        let missing_names = names(missing).collect::<Vec<_>>().join(" ");
        return unfit(format!("it does not have what the guest uses: {missing_names} ({missing:#x})"), "");
    }
    if start.features & VIRTIO_F_VERSION_1 == 0 {
        return unfit(
            "the guest's driver is older than virtio 1.0".into(),
            "in QEMU, `disable-legacy=on` on the guest's card",
        );
    }
    let rings = start.rings.len();
    if rings == 0 || !rings.is_multiple_of(2) || rings > 2 * usize::from(max_queue_pairs) {
        return unfit(
            format!("the guest has {rings} rings, it has {}", 2 * max_queue_pairs),
            "give the guest fewer queues, or the function more queues and interrupts",
        );
    }
    let packed = start.features & VIRTIO_F_RING_PACKED != 0;
    let begin = if packed { PACKED_START } else { 0 };
    for (i, ring) in start.rings.iter().enumerate() {
        let size = ring.size;
        if size == 0 || size > max_ring_size || (!packed && !size.is_power_of_two()) {
            return unfit(
                format!("ring {i} has {size} descriptors, it can have {max_ring_size}"),
                "in QEMU, a smaller rx_queue_size and tx_queue_size for the guest, or larger ones for the function",
            );
        }
        if ring.index != begin {
            return unfit(
                format!("ring {i} stands at {:#x}, and it can begin at {begin:#x} only", ring.index),
                "",
            );
        }
    }
    Ok(())
}
