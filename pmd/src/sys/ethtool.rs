//! What a network device's driver tells: the ioctl `SIOCETHTOOL` (Linux `include/uapi/linux/ethtool.h`).
#![expect(unsafe_code, reason = "an ioctl, and the structures it reads and writes")]

use std::io;
use std::os::fd::AsRawFd;

use super::netif::{Control, InterfaceName};

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    maxima: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const GET_DRIVER_INFO: u32 = 0x03;
const GET_CHANNELS: u32 = 0x3c;

/// Driver and version of a device.
pub fn driver(control: &Control, name: &InterfaceName) -> io::Result<(String, String)> {
    let mut info = DriverInfo {
        command: GET_DRIVER_INFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rest: [0; 64],
    };
    // SAFETY: the kernel reads the command and writes one ethtool_drvinfo, whose layout this is.
    unsafe { ask(control, name, (&raw mut info).cast())? };
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    };
    Ok((text(&info.driver), text(&info.version)))
}

/// Receive queues of a device.
pub fn receive_queues(control: &Control, name: &InterfaceName) -> io::Result<u32> {
    let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
    // SAFETY: as above, for one ethtool_channels.
    unsafe { ask(control, name, (&raw mut channels).cast())? };
    Ok(channels.rx + channels.combined)
}

/// # Safety
/// `data` points to the structure that its command reads and writes.
unsafe fn ask(control: &Control, name: &InterfaceName, data: *mut libc::c_char) -> io::Result<()> {
    let mut request = name.request();
    request.ifr_ifru.ifru_data = data;
    // SAFETY: SIOCETHTOOL reads one ifreq, which lives here, and what its data points to (contract).
    let result = unsafe { libc::ioctl(control.socket().as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
