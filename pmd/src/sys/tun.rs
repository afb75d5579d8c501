//! TAP devices: the ioctls of `/dev/net/tun` (Linux `include/uapi/linux/if_tun.h`).
#![expect(unsafe_code, reason = "ioctls")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

use super::netif::InterfaceName;

/// Offloads a TAP queue hands us instead of doing them: `TUN_F_*`.
pub mod offload {
    /// Partial checksums.
    pub const CSUM: u32 = 0x01;
    /// TCP/IPv4 segmentation.
    pub const TSO4: u32 = 0x02;
    /// TCP/IPv6 segmentation.
    pub const TSO6: u32 = 0x04;
    /// Segmentation with ECN.
    pub const TSO_ECN: u32 = 0x08;
    /// UDP/IPv4 segmentation (Linux 6.2).
    pub const USO4: u32 = 0x20;
    /// UDP/IPv6 segmentation (Linux 6.2).
    pub const USO6: u32 = 0x40;
}

/// Opens one queue of the TAP device `name`, making the device if there is none. Frames carry a virtio-net header; the
/// descriptor does not block.
pub fn open_queue(name: &InterfaceName, multi_queue: bool) -> io::Result<OwnedFd> {
    let fd = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = name.request();
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives here.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(fd)
}

/// Sets the length of the virtio-net header, 10 or 12 bytes.
pub fn set_header_len(fd: &OwnedFd, len: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives here.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// Says which offloads frames from the kernel may need. An error names none that are then in force.
pub fn set_offload(fd: &OwnedFd, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its bits by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) })
}

/// Plugs the device's cable in, or out: the kernel's side sees a carrier or none (Linux 5.0).
pub fn set_carrier(fd: &OwnedFd, on: bool) -> io::Result<()> {
    let on = libc::c_int::from(on);
    // SAFETY: TUNSETCARRIER reads one int, which lives here.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETCARRIER, &raw const on) })
}

/// Name the queue's device has now, wherever it is. An error when the device has been deleted.
pub fn interface(fd: &OwnedFd) -> io::Result<InterfaceName> {
    // SAFETY: ifreq is plain data; all zero is a value of it.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, which lives here.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    InterfaceName::from_request(&request)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
