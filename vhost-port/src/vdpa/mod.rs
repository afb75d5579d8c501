//! vDPA: a guest's rings on a device, and back.
//!
//! ```text
//!   device      VdpaDev: what a device must do, and may rely on
//!   memory      the memory it is given to reach
//!   error       why it did not
//!   shadow      a relay between a guest's ring and one of ours, which the device runs
//!   name        which device the operator means, and opening it
//!   virtio_pci  a virtio-net function of a card, through VFIO
//!   kernel      a device of the kernel's vDPA bus
//!   rules       what a real device takes, and what of it is between a guest and its rings
//!   gated       a doorbell that is silent when its device has been stopped
//! ```
//!
//! A device here is anything that speaks virtio-net rings by itself: a virtio function of a network card, the kernel's vDPA bus,
//! a model of one in a test. The port hands it the guest's rings (or rings of its own, behind which a relay stands) and takes
//! them back when it likes. A vendor's driver is added by implementing [`VdpaDev`].

mod device;
mod error;
mod gated;
mod kernel;
mod memory;
mod name;
mod rules;
#[cfg_attr(not(test), expect(unused_imports, reason = "the engine that runs it is on its way"))]
#[expect(dead_code, reason = "as above")]
mod shadow;
mod virtio_pci;

pub use device::{
    Capabilities, DeviceEvents, DeviceStatistics, DirtyTracking, Doorbell, DoorbellPage, PATIENCE, RingStart,
    Start, StartIndex, StartedRing, StoppedRing, Uplink, VdpaDev,
};
pub use error::{VdpaError, VdpaProblem};
pub use memory::{DmaMapping, HostMemory};
pub use name::{DeviceName, open};
