//! A UDP socket that sends large frames, for tests: the kernel's side of UDP segmentation.
#![expect(unsafe_code, reason = "a socket option that rustix does not have")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Has the kernel cut what is sent at once into datagrams of `size` bytes, as late as it can (`UDP_SEGMENT`, Linux 4.18): a device
/// with the offload gets one large frame.
pub fn set_segment_size(socket: &UdpSocket, size: u16) -> io::Result<()> {
    let size = libc::c_int::from(size);
    let len = size_of_val(&size) as libc::socklen_t;
    // SAFETY: setsockopt reads one int, which lives here.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
