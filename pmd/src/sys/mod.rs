//! System calls behind safe functions: the only place of the workspace that calls libc or issues an ioctl.
//!
//! One family a file. What `rustix` wraps is called through it; `libc` is for the rest.

pub mod bpf;
pub mod clock;
pub mod cpu;
pub mod ethtool;
pub mod gather;
pub mod huge_alloc;
pub mod map;
pub mod netif;
pub mod netlink;
pub mod netns;
pub mod packet_socket;
pub mod pager;
pub mod ring_map;
pub mod send_many;
pub mod sigbus;
pub mod tun;
#[doc(hidden)]
pub mod udp;
pub mod vfio;
pub mod vhost_vdpa;
