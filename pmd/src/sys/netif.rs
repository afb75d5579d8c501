//! Network interfaces: flags, MTU and address, by the `SIOCxIFxxx` ioctls (netdevice(7)).
#![expect(unsafe_code, reason = "ioctls and the unions they use")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A name the kernel can take: 1 to 15 bytes, no slash, no space.
#[derive(Clone, Debug)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Checks a name. The error says what is wrong with it.
    pub fn new(name: &str) -> Result<InterfaceName, String> {
        let bad_byte = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(format!("{name:?} cannot name a network device: use 1 to 15 bytes"));
        }
        if name == "." || name == ".." || name.bytes().any(bad_byte) {
            return Err(format!("{name:?} cannot name a network device: no space, slash or colon"));
        }
        Ok(InterfaceName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that the kernel has written.
    pub(super) fn from_request(request: &libc::ifreq) -> io::Result<InterfaceName> {
        let bytes: Vec<u8> = request.ifr_name.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        InterfaceName::new(&String::from_utf8_lossy(&bytes)).map_err(invalid)
    }

    pub(super) fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is plain data; all zero is a value of it.
        let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.0.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }
}

/// A socket to ask about interfaces of the network namespace it was made in.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// Opens the socket.
    pub fn open() -> io::Result<Control> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Control { socket })
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    fn ioctl(&self, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every code used here reads and writes one ifreq, which the reference keeps alive.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), code, core::ptr::from_mut(request)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether the interface is up, and whether it has a carrier.
    pub fn is_up(&self, name: &InterfaceName) -> io::Result<(bool, bool)> {
        let flags = i32::from(self.flags(name)?);
        Ok((flags & libc::IFF_UP != 0, flags & libc::IFF_RUNNING != 0))
    }

    fn flags(&self, name: &InterfaceName) -> io::Result<i16> {
        let mut request = name.request();
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has written the flags member.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    /// Brings the interface up.
    pub fn set_up(&self, name: &InterfaceName) -> io::Result<()> {
        let flags = self.flags(name)?;
        let mut request = name.request();
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    /// The interface's MTU.
    pub fn mtu(&self, name: &InterfaceName) -> io::Result<i32> {
        let mut request = name.request();
        self.ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU has written the mtu member.
        Ok(unsafe { request.ifr_ifru.ifru_mtu })
    }

    /// Sets the interface's MTU.
    pub fn set_mtu(&self, name: &InterfaceName, mtu: i32) -> io::Result<()> {
        let mut request = name.request();
        request.ifr_ifru.ifru_mtu = mtu;
        self.ioctl(libc::SIOCSIFMTU, &mut request)
    }

    /// The interface's number.
    pub fn index(&self, name: &InterfaceName) -> io::Result<u32> {
        let mut request = name.request();
        self.ioctl(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: SIOCGIFINDEX has written the ifindex member.
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        u32::try_from(index).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Name of the interface with this number. An error when it has been deleted or moved away.
    pub fn name(&self, index: u32) -> io::Result<InterfaceName> {
        // SAFETY: ifreq is plain data; all zero is a value of it.
        let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = index as libc::c_int;
        self.ioctl(libc::SIOCGIFNAME, &mut request)?;
        InterfaceName::from_request(&request)
    }

    /// Whether the interface carries Ethernet frames.
    pub fn is_ethernet(&self, name: &InterfaceName) -> io::Result<bool> {
        let mut request = name.request();
        self.ioctl(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR has written the hwaddr member.
        let family = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family;
        Ok(matches!(family, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK))
    }

    /// The interface's MAC address.
    pub fn mac(&self, name: &InterfaceName) -> io::Result<[u8; 6]> {
        let mut request = name.request();
        self.ioctl(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR has written the hwaddr member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok(mac)
    }
}
