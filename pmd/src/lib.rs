//! Packets, memory, ports and the drivers that move them.
//!
//! ```text
//!   sys        every libc call and ioctl, behind safe functions
//!   memory     memfd arenas, hugepages when there are any
//!   packet     Batch: private packet heads + borrowed payload;  Pool: packets that must wait
//!   port       Port / RxQueue / TxQueue: what a driver implements
//!   drivers    tap, null, pair, pcap
//! ```
//!
//! Nothing of ours is imported here.

pub mod drivers;
pub mod memory;
pub mod offload;
pub mod packet;
pub mod port;
pub mod sys;
pub mod virtio;
