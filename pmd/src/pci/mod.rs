//! PCI functions: what there are, who drives them, how they are reached.
//!
//! ```text
//!   address     DDDD:BB:DD.F, checked, so that it can become part of a path
//!   sysfs       what the kernel says of each function: identity, driver, group, node, link, netdevs
//!   bind        giving a function to vfio-pci and back, and when that is refused
//!   virtual_functions   making and removing the virtual functions of a card
//!   vf_settings what the physical function's driver decides for them: MAC, VLAN, trust
//!   link        what a PCIe link can carry, in bytes and in packets
//!   function    PciFn: what a driver needs of a function (configuration space, registers, DMA memory, interrupts)
//!   bar         registers behind a base address register: mapped, or played by a model
//!   capability  walking the capability list of the configuration space
//!   fake        a PciFn without hardware, whose registers a test's model plays
//! ```
//!
//! [`crate::vfio`] implements [`PciFn`] for real functions. Everything here is control path but [`Bar`], whose stores
//! are doorbells.

mod address;
mod bar;
mod bind;
mod capability;
mod fake;
mod function;
mod link;
mod sysfs;
mod vf_settings;
mod vf_words;
mod virtual_functions;

pub use address::PciAddress;
pub use bar::{Bar, RegisterModel};
pub use bind::{bind, unbind};
pub use capability::{Capabilities, Capability};
pub use fake::{FakeDma, FakeFn, FakeModel};
pub use function::PciFn;
pub use link::PcieLink;
pub use sysfs::{PciInfo, Sysfs};
pub use vf_settings::{
    FunctionCounters, VfLink, VfSettings, VfState, set_virtual_function, virtual_function_counters,
    virtual_function_states,
};
pub use virtual_functions::{Drivers, set_virtual_functions};
