//! Where a virtual function's frames go, and what is counted there.

use pmd::pci::{self, FunctionCounters, PciInfo, Sysfs};

use super::device::Uplink;

/// Counters of the function whose uplink it is, as its physical function has them.
pub type CountersOf = fn(&Uplink) -> Option<FunctionCounters>;

/// Where the frames of a function go.
pub(super) fn uplink_of(sysfs: &Sysfs, info: &PciInfo) -> Uplink {
    let Some(physical) = info.physical_function else {
        return Uplink { parent: Some(info.address.to_string()), ..Uplink::default() };
    };
    Uplink {
        parent: Some(physical.to_string()),
        netdev: sysfs.info(physical).ok().and_then(|info| info.netdevs.first().cloned()),
        vf: sysfs.virtual_function_number(physical, info.address),
    }
}

/// Asks the driver of the physical function what it has counted for the virtual one. None where that is not the kernel's, or does not tell:
/// QEMU's virtio-net has no such counters, nor have some cards. May wait for the kernel.
pub(crate) fn counters_of(uplink: &Uplink) -> Option<FunctionCounters> {
    let index = Sysfs::default().interface_index(uplink.netdev.as_deref()?)?;
    pci::virtual_function_counters(index, uplink.vf?)
}
