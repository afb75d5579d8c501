//! vDPA: a guest's rings on a device, and back.
//!
//! ```text
//!   device    VdpaDev: what a device must do, and may rely on
//!   memory    the memory it is given to reach
//!   error     why it did not
//!   name      which device the operator means, and opening it
//!   fit       whether a device can do what a guest has negotiated
//!   unit      a device of a port, and what of the guest's memory it reaches
//!   offload   the devices of a port: which runs, which may, when to try; session::offload moves the rings
//!   kicks     a guest's kicks, for devices that do not hear them        progress   what can be seen of rings that a device runs
//!   shadow    a relay between a guest's ring and one of ours, which the device runs
//!   virtio_pci  a virtio-net function of a card, through VFIO
//!   desk      where operator and control thread meet
//!   fake      a device in software, for tests
//!   kernel      a device of the kernel's vDPA bus
//!   rules       what a real device takes, and what of it is between a guest and its rings
//!   uplink      where a virtual function's frames go, and what is counted there
//!   gated       a doorbell that is silent when its device has been stopped
//! ```
//!
//! A device here is anything that speaks virtio-net rings by itself: a virtio function of a network card, the kernel's vDPA bus,
//! a model of one in a test. The port hands it the guest's rings (or rings of its own, behind which a relay stands) and takes
//! them back when it likes. A vendor's driver is added by implementing [`VdpaDev`].

mod desk;
mod device;
mod error;
#[doc(hidden)]
pub mod fake;
mod fit;
mod gated;
mod kernel;
mod kicks;
mod memory;
mod name;
mod offload;
#[cfg(test)]
mod played_guest;
mod progress;
mod rules;
pub(crate) mod shadow;
mod unit;
mod uplink;
mod virtio_pci;

pub use desk::{Engine, OpenDevice};
pub use device::{
    Capabilities, DeviceEvents, DirtyTracking, Doorbell, DoorbellPage, PATIENCE, RingStart, Start,
    StartIndex, StartedRing, StoppedRing, Uplink, VdpaDev,
};
pub use error::{VdpaError, VdpaProblem};
pub use memory::{DmaMapping, HostMemory};
pub use name::{DeviceName, open};
pub use uplink::CountersOf;

pub(crate) use desk::{Desk, named};
pub(crate) use fit::{Wants, Way, fit};
pub(crate) use kicks::{KickRelay, Line};
pub(crate) use offload::{Between, LOOK, MOST_LOST, Offload, OffloadedRing, Running};
pub(crate) use progress::Progress;
pub(crate) use shadow::{GuestRing, Relay, RelayCounters, ShadowRings};
pub(crate) use unit::Unit;
pub(crate) use uplink::counters_of;
