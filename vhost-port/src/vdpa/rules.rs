//! What a real device can be asked for: features, and whether a start is one it can follow.

use pmd::virtio::features::*;

use super::device::{Capabilities, Start, StartIndex};
use super::error::{VdpaError, VdpaProblem};

/// What a guest may be offered if the device has it: all that is between its driver and the rings. Features of the control queue
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

/// What is taken beside them if it is there: how the device reaches memory.
pub(super) const FOR_MEMORY: u64 = VIRTIO_F_ACCESS_PLATFORM | VIRTIO_F_ORDER_PLATFORM;

/// Index of a packed ring that nobody has used: slot zero, wrap counter one.
const PACKED_START: u16 = 0x8000;

/// Whether a device of these capabilities can do what is asked; why not.
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
        if capabilities.start_index == StartIndex::Zero && ring.index != begin {
            return unfit(
                format!("ring {i} stands at {:#x}, and it can begin at {begin:#x} only", ring.index),
                "",
            );
        }
    }
    Ok(())
}
