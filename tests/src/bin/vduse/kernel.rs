//! The kernel's side of a vDPA device that a program plays: VDUSE (Linux `include/uapi/linux/vduse.h`).
#![expect(unsafe_code, reason = "ioctls, and mappings of files that the kernel names")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::ptr::NonNull;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const BASE: u8 = 0x81;
/// Longest name of a device.
const NAME: usize = 256;
/// Bytes of a `struct vduse_dev_config` before the configuration, and of a request or a response.
const DEV_CONFIG: usize = 336;
const MESSAGE: usize = 152;
/// Where in both the part begins that says what it is about.
const BODY: usize = 24;

const SET_API_VERSION: Opcode = opcode::write::<u64>(BASE, 0x01);
const CREATE_DEV: Opcode = opcode::write::<[u8; DEV_CONFIG]>(BASE, 0x02);
const DESTROY_DEV: Opcode = opcode::write::<[u8; NAME]>(BASE, 0x03);
const IOTLB_GET_FD: Opcode = opcode::read_write::<[u64; 4]>(BASE, 0x10);
const GET_FEATURES: Opcode = opcode::read::<u64>(BASE, 0x11);
const VQ_SETUP: Opcode = opcode::write::<[u32; 8]>(BASE, 0x14);
const VQ_GET_INFO: Opcode = opcode::read_write::<[u64; 6]>(BASE, 0x15);
const VQ_SETUP_KICKFD: Opcode = opcode::write::<[u32; 2]>(BASE, 0x16);
const VQ_INJECT_IRQ: Opcode = opcode::write::<u32>(BASE, 0x17);

/// A request with an argument that lives in the caller, and whose result is a number.
struct Call(Opcode, *mut core::ffi::c_void);

// SAFETY: the argument is as long as the opcode says, which `call` sees to.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        self.1
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut core::ffi::c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

fn call<T: ?Sized>(fd: impl AsFd, code: Opcode, argument: &mut T) -> io::Result<i32> {
    let argument: *mut T = argument;
    // SAFETY: every caller hands what its opcode is declared with above, or more.
    unsafe { rustix::ioctl::ioctl(fd, Call(code, argument.cast())) }.map_err(io::Error::from)
}

/// What the kernel says or asks.
#[derive(Debug)]
pub(crate) enum Request {
    /// Where does this ring stand?
    RingState(u32),
    /// The device's status is this now.
    Status(u8),
    /// What is mapped has changed.
    Remapped,
}

/// A ring as the driver has set it up.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    /// Descriptors, driver's and device's part.
    pub(crate) parts: [u64; 3],
    pub(crate) index: u16,
    pub(crate) ready: bool,
}

/// Memory of the driver, mapped here until dropped.
pub(crate) struct Memory {
    pub(crate) iova: u64,
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `Device::memory_from`; the user of the memory has been told before.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A device that exists as long as this.
pub(crate) struct Device {
    control: File,
    file: File,
    name: [u8; NAME],
}

impl Device {
    /// Makes a network card of this name with two rings.
    pub(crate) fn create(name: &str, features: u64, mac: [u8; 6], ring_size: u16) -> io::Result<Device> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/vduse/control")?;
        call(&control, SET_API_VERSION, &mut 0u64)?;
        let mut padded = [0; NAME];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        // Name, vendor, device (1: network card), features, rings, their alignment, reserved words, length of the configuration.
        let config = [&mac[..], &[1, 0, 1, 0, 0xdc, 0x05]].concat();
        let mut request = padded.to_vec();
        request.extend(0u32.to_ne_bytes());
        request.extend(1u32.to_ne_bytes());
        request.extend(features.to_ne_bytes());
        request.extend(2u32.to_ne_bytes());
        request.extend(4096u32.to_ne_bytes());
        request.extend([0; 52]);
        request.extend((config.len() as u32).to_ne_bytes());
        assert_eq!(request.len(), DEV_CONFIG);
        request.extend(config);
        call(&control, CREATE_DEV, request.as_mut_slice())?;
        let path = format!("/dev/vduse/{name}");
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).write(true).custom_flags(nonblock).open(path)?;
        let device = Device { control, file, name: padded };
        for ring in 0..2u32 {
            call(&device.file, VQ_SETUP, &mut [ring, ring_size.into(), 0, 0, 0, 0, 0, 0])?;
        }
        Ok(device)
    }

    /// The next request, if there is one. Each is answered by [`Device::answer`].
    pub(crate) fn request(&mut self) -> io::Result<Option<(u32, Request)>> {
        let mut message = [0; MESSAGE];
        match self.file.read(&mut message) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        }
        let u32_at = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| message[at + i]));
        let request = match u32_at(0) {
            0 => Request::RingState(u32_at(BODY)),
            1 => Request::Status(message[BODY]),
            2 => Request::Remapped,
            other => return Err(io::Error::other(format!("the kernel asks for {other}"))),
        };
        Ok(Some((u32_at(4), request)))
    }

    /// Says that a request has been followed; for a ring, where it stands.
    pub(crate) fn answer(&mut self, id: u32, ring: Option<(u32, u16)>) -> io::Result<()> {
        let mut message = [0; MESSAGE];
        message[..4].copy_from_slice(&id.to_ne_bytes());
        if let Some((ring, index)) = ring {
            message[BODY..BODY + 4].copy_from_slice(&ring.to_ne_bytes());
            message[BODY + 4..BODY + 6].copy_from_slice(&index.to_ne_bytes());
        }
        self.file.write_all(&message)
    }

    /// Features that the driver has taken.
    pub(crate) fn features(&self) -> io::Result<u64> {
        let mut features = 0u64;
        call(&self.file, GET_FEATURES, &mut features)?;
        Ok(features)
    }

    /// A ring as it is set up now.
    pub(crate) fn ring(&self, ring: u32) -> io::Result<Ring> {
        let mut info = [u64::from(ring), 0, 0, 0, 0, 0];
        call(&self.file, VQ_GET_INFO, &mut info)?;
        let [index_and_size, a, b, c, state, ready] = info;
        Ok(Ring {
            size: (index_and_size >> 32) as u16,
            parts: [a, b, c],
            index: state as u16,
            ready: ready as u8 != 0,
        })
    }

    /// Kicks of a ring are written to this eventfd.
    pub(crate) fn set_kick(&self, ring: u32, event: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        call(&self.file, VQ_SETUP_KICKFD, &mut [ring, event.as_raw_fd() as u32]).map(drop)
    }

    /// Interrupts the driver for a ring.
    pub(crate) fn interrupt(&self, ring: u32) {
        // A driver that has gone is not interrupted.
        let _ = call(&self.file, VQ_INJECT_IRQ, &mut { ring });
    }

    /// The first memory at or behind an address.
    pub(crate) fn memory_from(&self, first: u64) -> Option<Memory> {
        let mut entry = [0, first, u64::MAX, 0];
        let fd = call(&self.file, IOTLB_GET_FD, &mut entry).ok()?;
        // SAFETY: a new descriptor, which nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let [offset, iova, last, _] = entry;
        let len = usize::try_from(last - iova + 1).ok()?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, offset) }.ok()?;
        Some(Memory { iova, start: NonNull::new(start.cast())?, len })
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = call(&self.control, DESTROY_DEV, &mut self.name);
    }
}
