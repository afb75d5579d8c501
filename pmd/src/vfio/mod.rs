//! PCI functions over the kernel's `vfio-pci`.
//!
//! Built on `vfio-ioctls`, which opens containers, groups and devices, maps DMA and reads what regions and interrupts there are. Added
//! here is what it lacks: mapping registers with their sparse areas, single interrupt vectors, a choice of I/O addresses, and texts that
//! say what to do.
//!
//! All functions of the process are in one container, so that one table of the IOMMU serves them all and an arena is mapped once. I/O
//! addresses are our own choice (`window`), not virtual addresses: the IOMMU of a desktop or a guest may translate 39 bits
//! only, and ours lie at 47.
//!
//! A function that works for one guest ([`open_apart`]) has a container of its own: there the guest's addresses are the I/O addresses.
//!
//! There is no mode without an IOMMU: a device that could write anywhere would make every other check of the switch idle. `vfio-ioctls`
//! could not open one either.
//!
//! Cost: control path only. Mapping an arena pins its pages, about 0.1 ms per MiB of small pages.

mod container;
mod device;
mod window;

pub use device::{Apart, is_open, open, open_apart};
