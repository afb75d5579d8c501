//! Packets, memory, ports and the drivers that move them.
//!
//! ```text
//!   sys        every libc call and ioctl, behind safe functions
//!   memory     memfd arenas, hugepages when there are any
//!   packet     Batch: private packet heads + borrowed payload;  Pool: packets that must wait
//!   nic        the port around a card's rings: restarts, doorbells, link, sleeping
//!   offload    checksums and segmentation in software, where a far side lacks them
//!   prefetch   asking for cache lines before they are needed
//!   port       Port / RxQueue / TxQueue: what a driver implements
//!   pci        PCI functions: finding and binding them, PciFn, a fake one for tests
//!   vfio       PciFn over the kernel's vfio-pci
//!   virtio     the layouts both sides of a virtio ring share, and the driver's side
//!   drivers    af_packet, af_xdp, tap, null, pair, pcap, virtio-net, e1000e, igb
//! ```
//!
//! Nothing of ours is imported here. `examples/forwarder.rs` is a whole program over this crate; `examples/packet_cost.rs`
//! measures it.

pub mod drivers;
pub mod memory;
pub mod nic;
pub mod offload;
pub mod packet;
pub mod pci;
pub mod port;
pub mod prefetch;
pub mod sys;
pub mod vfio;
pub mod virtio;
