//! The kernel's vDPA devices, `/dev/vhost-vdpa-N` (Linux `include/uapi/linux/vhost.h`, `vhost_types.h`).
//!
//! Here and not from the crate `vhost`, whose wrapper wants a guest memory type of its own, copies a configuration that was not read,
//! and has no file that is none for calls.
#![expect(unsafe_code, reason = "ioctls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// Bits of [`VhostVdpa::backend_features`].
pub mod backend {
    /// Mappings are messages of the second version.
    pub const IOTLB_MSG_V2: u64 = 1 << 1;
    /// The device can be suspended: it then tells where its rings stand.
    pub const SUSPEND: u64 = 1 << 4;
    /// Mappings outlive a reset.
    pub const IOTLB_PERSIST: u64 = 1 << 8;
}

const READ: u64 = 2;
const WRITE: u64 = 1;

/// A request: its direction, number, and the bytes of its argument.
const fn request(direction: u64, number: u64, len: usize) -> libc::c_ulong {
    const VHOST: u64 = 0xaf;
    direction << 30 | (len as u64) << 16 | VHOST << 8 | number
}

/// `struct vhost_vring_state`, and `vhost_vring_file` with a descriptor in the second word.
type PerRing = [u32; 2];

const GET_FEATURES: libc::c_ulong = request(READ, 0x00, 8);
const SET_FEATURES: libc::c_ulong = request(WRITE, 0x00, 8);
const SET_OWNER: libc::c_ulong = request(0, 0x01, 0);
const SET_VRING_NUM: libc::c_ulong = request(WRITE, 0x10, 8);
const SET_VRING_ADDR: libc::c_ulong = request(WRITE, 0x11, 40);
const SET_VRING_BASE: libc::c_ulong = request(WRITE, 0x12, 8);
const GET_VRING_BASE: libc::c_ulong = request(READ | WRITE, 0x12, 8);
const SET_VRING_KICK: libc::c_ulong = request(WRITE, 0x20, 8);
const SET_VRING_CALL: libc::c_ulong = request(WRITE, 0x21, 8);
const SET_BACKEND_FEATURES: libc::c_ulong = request(WRITE, 0x25, 8);
const GET_BACKEND_FEATURES: libc::c_ulong = request(READ, 0x26, 8);
const GET_DEVICE_ID: libc::c_ulong = request(READ, 0x70, 4);
const GET_STATUS: libc::c_ulong = request(READ, 0x71, 1);
const SET_STATUS: libc::c_ulong = request(WRITE, 0x72, 1);
const GET_CONFIG: libc::c_ulong = request(READ, 0x73, 8);
const SET_CONFIG: libc::c_ulong = request(WRITE, 0x74, 8);
const SET_VRING_ENABLE: libc::c_ulong = request(WRITE, 0x75, 8);
const GET_VRING_NUM: libc::c_ulong = request(READ, 0x76, 2);
const SET_CONFIG_CALL: libc::c_ulong = request(WRITE, 0x77, 4);
const GET_IOVA_RANGE: libc::c_ulong = request(READ, 0x78, 16);
const GET_CONFIG_SIZE: libc::c_ulong = request(READ, 0x79, 4);
const SUSPEND: libc::c_ulong = request(0, 0x7d, 0);

/// `VHOST_IOTLB_MSG_V2`, the access of a mapping, and what is done with it.
const MSG_V2: u32 = 2;
const ACCESS_RW: u8 = 3;
const UPDATE: u8 = 2;
const INVALIDATE: u8 = 3;

/// What a device can be asked by its descriptor: the kernel's calls, or a played kernel's in a test.
pub trait VhostVdpaCalls: Send {
    /// Kind of device as virtio numbers them: a network card is one.
    fn device_id(&self) -> io::Result<u32>;

    /// Virtio features it offers.
    fn features(&self) -> io::Result<u64>;

    /// Takes these of them.
    fn set_features(&self, features: u64) -> io::Result<()>;

    /// What the kernel can do with it: [`backend`].
    fn backend_features(&self) -> io::Result<u64>;

    /// Says which of that is used.
    fn set_backend_features(&self, features: u64) -> io::Result<()>;

    /// The device status (VIRTIO 1.2, section 2.1).
    fn status(&self) -> io::Result<u8>;

    /// Sets the status; zero resets the device.
    fn set_status(&self, status: u8) -> io::Result<()>;

    /// Bytes of its configuration.
    fn config_size(&self) -> io::Result<u32>;

    /// Reads its configuration. The bytes must lie inside.
    fn read_config(&self, offset: u32, into: &mut [u8]) -> io::Result<()>;

    /// Writes its configuration. The bytes must lie inside.
    fn write_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()>;

    /// Longest ring.
    fn max_ring_size(&self) -> io::Result<u16>;

    /// First and last I/O address that can be mapped.
    fn iova_range(&self) -> io::Result<(u64, u64)>;

    /// Descriptors of a ring.
    fn set_ring_size(&self, ring: u16, size: u16) -> io::Result<()>;

    /// I/O addresses of a ring's descriptors, driver's and device's part.
    fn set_ring_addresses(&self, ring: u16, addresses: [u64; 3]) -> io::Result<()>;

    /// Where a ring begins: the next avail index; of a packed ring slot and wrap counter of the driver in the low half, of the device in
    /// the high one.
    fn set_ring_base(&self, ring: u16, base: u32) -> io::Result<()>;

    /// Where a ring stands, in the same form.
    fn ring_base(&self, ring: u16) -> io::Result<u32>;

    /// The kernel watches this eventfd for kicks.
    fn set_kick(&self, ring: u16, event: Option<BorrowedFd<'_>>) -> io::Result<()>;

    /// The device's interrupts for a ring are written to this eventfd.
    fn set_call(&self, ring: u16, event: Option<BorrowedFd<'_>>) -> io::Result<()>;

    /// Changes of the configuration are written to this eventfd.
    fn set_config_call(&self, event: BorrowedFd<'_>) -> io::Result<()>;

    /// Lets a ring run.
    fn enable_ring(&self, ring: u16) -> io::Result<()>;

    /// Stops all rings without a reset, so that they can be asked where they stand.
    fn suspend(&self) -> io::Result<()>;

    /// Shows the device memory. All numbers are whole pages.
    ///
    /// # Safety
    /// The bytes from `start` on are mapped, readable and writable, and stay so until they have been unmapped or the device is closed. Nobody
    /// holds a reference into them.
    ///
    /// # Errors
    /// EFAULT, whatever the reason is: beyond its addresses, more than may be locked, memory that no file backs.
    unsafe fn map(&self, iova: u64, start: *mut u8, len: u64) -> io::Result<()>;

    /// Takes memory away from the device.
    fn unmap(&self, iova: u64, len: u64) -> io::Result<()>;
}

/// An open device. Methods are for one thread at a time.
#[derive(Debug)]
pub struct VhostVdpa {
    fd: OwnedFd,
}

impl VhostVdpa {
    /// Opens a device and becomes its owner.
    ///
    /// # Errors
    /// There is none, somebody has it open, or the kernel refuses.
    pub fn open(path: &Path) -> io::Result<VhostVdpa> {
        let fd = open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let device = VhostVdpa { fd };
        device.bare(SET_OWNER)?;
        Ok(device)
    }

    fn call<T>(&self, request: libc::c_ulong, argument: *mut T) -> io::Result<()> {
        // SAFETY: each caller hands an argument that lives and is as long as its request says.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn bare(&self, request: libc::c_ulong) -> io::Result<()> {
        self.call::<u8>(request, std::ptr::null_mut())
    }

    fn get<T: Default>(&self, request: libc::c_ulong) -> io::Result<T> {
        let mut value = T::default();
        self.call(request, &raw mut value)?;
        Ok(value)
    }

    fn set<T>(&self, request: libc::c_ulong, mut value: T) -> io::Result<()> {
        self.call(request, &raw mut value)
    }

    /// Writes a `struct vhost_msg_v2`.
    fn message(&self, iova: u64, len: u64, start: u64, access: u8, kind: u8) -> io::Result<()> {
        let mut message = [0; 72];
        message[..4].copy_from_slice(&MSG_V2.to_ne_bytes());
        for (at, word) in [(8, iova), (16, len), (24, start)] {
            message[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }
        (message[32], message[33]) = (access, kind);
        let written = rustix::io::write(&self.fd, &message)?;
        if written == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl VhostVdpaCalls for VhostVdpa {
    fn device_id(&self) -> io::Result<u32> {
        self.get(GET_DEVICE_ID)
    }

    fn features(&self) -> io::Result<u64> {
        self.get(GET_FEATURES)
    }

    fn set_features(&self, features: u64) -> io::Result<()> {
        self.set(SET_FEATURES, features)
    }

    fn backend_features(&self) -> io::Result<u64> {
        self.get(GET_BACKEND_FEATURES)
    }

    fn set_backend_features(&self, features: u64) -> io::Result<()> {
        self.set(SET_BACKEND_FEATURES, features)
    }

    fn status(&self) -> io::Result<u8> {
        self.get(GET_STATUS)
    }

    fn set_status(&self, status: u8) -> io::Result<()> {
        self.set(SET_STATUS, status)
    }

    fn config_size(&self) -> io::Result<u32> {
        self.get(GET_CONFIG_SIZE)
    }

    fn read_config(&self, offset: u32, into: &mut [u8]) -> io::Result<()> {
        let mut message = config_message(offset, into);
        // The kernel copies as many bytes behind the two words as the second says.
        self.call(GET_CONFIG, message.as_mut_ptr())?;
        into.copy_from_slice(message.get(8..).unwrap_or_default());
        Ok(())
    }

    fn write_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.call(SET_CONFIG, config_message(offset, bytes).as_mut_ptr())
    }

    fn max_ring_size(&self) -> io::Result<u16> {
        self.get(GET_VRING_NUM)
    }

    fn iova_range(&self) -> io::Result<(u64, u64)> {
        let [first, last]: [u64; 2] = self.get(GET_IOVA_RANGE)?;
        Ok((first, last))
    }

    fn set_ring_size(&self, ring: u16, size: u16) -> io::Result<()> {
        self.set::<PerRing>(SET_VRING_NUM, [ring.into(), size.into()])
    }

    fn set_ring_addresses(&self, ring: u16, [descriptors, driver, device]: [u64; 3]) -> io::Result<()> {
        // Index and flags in one word, then descriptors, used, avail, and the address of a log.
        self.set::<[u64; 5]>(
            SET_VRING_ADDR,
            [u64::from_ne_bytes(index_first(ring)), descriptors, device, driver, 0],
        )
    }

    fn set_ring_base(&self, ring: u16, base: u32) -> io::Result<()> {
        self.set::<PerRing>(SET_VRING_BASE, [ring.into(), base])
    }

    fn ring_base(&self, ring: u16) -> io::Result<u32> {
        let mut state: PerRing = [ring.into(), 0];
        self.call(GET_VRING_BASE, &raw mut state)?;
        Ok(state[1])
    }

    fn set_kick(&self, ring: u16, event: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.set::<PerRing>(SET_VRING_KICK, [ring.into(), number(event)])
    }

    fn set_call(&self, ring: u16, event: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.set::<PerRing>(SET_VRING_CALL, [ring.into(), number(event)])
    }

    fn set_config_call(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        self.set(SET_CONFIG_CALL, number(Some(event)))
    }

    fn enable_ring(&self, ring: u16) -> io::Result<()> {
        self.set::<PerRing>(SET_VRING_ENABLE, [ring.into(), 1])
    }

    fn suspend(&self) -> io::Result<()> {
        self.bare(SUSPEND)
    }

    unsafe fn map(&self, iova: u64, start: *mut u8, len: u64) -> io::Result<()> {
        self.message(iova, len, start.expose_provenance() as u64, ACCESS_RW, UPDATE)
    }

    fn unmap(&self, iova: u64, len: u64) -> io::Result<()> {
        self.message(iova, len, 0, 0, INVALIDATE)
    }
}

impl AsFd for VhostVdpa {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Offset and length as two words, then the bytes.
fn config_message(offset: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = offset.to_ne_bytes().to_vec();
    message.extend((bytes.len() as u32).to_ne_bytes());
    message.extend(bytes);
    message
}

/// A descriptor's number, or the one that is none.
fn number(event: Option<BorrowedFd<'_>>) -> u32 {
    event.map_or(-1, |event| event.as_raw_fd()) as u32
}

/// A ring's index and no flags.
fn index_first(ring: u16) -> [u8; 8] {
    let [a, b, c, d] = u32::from(ring).to_ne_bytes();
    [a, b, c, d, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_numbered_as_the_kernel_does() {
        // _IOR(0xAF, 0x00, __u64), _IOW(0xAF, 0x11, struct vhost_vring_addr), _IOWR(0xAF, 0x12, struct vhost_vring_state),
        // _IO(0xAF, 0x7D), as gcc gives them.
        assert_eq!(GET_FEATURES, 0x8008_af00);
        assert_eq!(SET_VRING_ADDR, 0x4028_af11);
        assert_eq!(GET_VRING_BASE, 0xc008_af12);
        assert_eq!(SUSPEND, 0xaf7d);
    }

    #[test]
    fn a_mapping_is_one_message() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let device = VhostVdpa { fd: write };
        device.unmap(0x1000, 0x2000).unwrap();
        let mut message = [0; 100];
        assert_eq!(rustix::io::read(&read, &mut message), Ok(72));
        assert_eq!((message[0], message[9], message[17], message[33]), (2, 0x10, 0x20, INVALIDATE));
        assert!(device.features().is_err(), "a pipe has none");
    }
}
