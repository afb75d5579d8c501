//! What the crate `vfio-ioctls` leaves out: mapping register spaces, single interrupt vectors, the window of the IOMMU.
//!
//! Source: Linux `include/uapi/linux/vfio.h`.
#![expect(unsafe_code, reason = "ioctls, and loads and stores of device registers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::sigbus::{Alarm, Guard};

const IOMMU_GET_INFO: libc::c_ulong = 0x3b70;
const DEVICE_SET_IRQS: libc::c_ulong = 0x3b6e;

/// `VFIO_IRQ_SET_DATA_NONE`, `_DATA_EVENTFD`, `_ACTION_TRIGGER`.
const DATA_NONE: u32 = 1;
const DATA_EVENTFD: u32 = 4;
const ACTION_TRIGGER: u32 = 32;

/// `VFIO_IOMMU_INFO_CAPS`, and the capability that lists ranges of addresses.
const INFO_CAPS: u32 = 2;
const CAP_IOVA_RANGE: u16 = 1;

/// Has vectors of interrupt kind `index`, from 0 on, signal eventfds; a vector without one is off. None at all turns the kind off.
pub fn set_interrupts(
    device: &impl AsRawFd,
    index: u32,
    events: &[Option<BorrowedFd<'_>>],
) -> io::Result<()> {
    set_interrupts_from(device, index, 0, events)
}

/// The same from vector `start` on; those before it stay as they are. `start` is zero, or one of those set before.
pub fn set_interrupts_from(
    device: &impl AsRawFd,
    index: u32,
    start: u32,
    events: &[Option<BorrowedFd<'_>>],
) -> io::Result<()> {
    let data = if events.is_empty() { DATA_NONE } else { DATA_EVENTFD };
    let bytes = 20 + 4 * events.len() as u32;
    // argsz, flags, index, start, count, then one descriptor per vector.
    let mut request = vec![bytes, data | ACTION_TRIGGER, index, start, events.len() as u32];
    request.extend(events.iter().map(|event| event.map_or(-1, |event| event.as_raw_fd()) as u32));
    // SAFETY: the kernel reads argsz bytes of the request, which is that long.
    check(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_SET_IRQS, request.as_ptr()) }).map(drop)
}

/// Ranges of addresses that devices of a container may use, first and last of each.
pub fn address_ranges(container: &impl AsRawFd) -> io::Result<Vec<(u64, u64)>> {
    let mut info = vec![0u64; 3];
    for _ in 0..2 {
        let bytes = info.len() * 8;
        info[0] = bytes as u64;
        // SAFETY: the kernel writes at most argsz bytes, the first word's low half, which is how long the vector is.
        check(unsafe { libc::ioctl(container.as_raw_fd(), IOMMU_GET_INFO, info.as_mut_ptr()) })?;
        let wanted = info[0] as u32 as usize;
        if wanted <= bytes {
            break;
        }
        // It says how long it would be with capabilities.
        info = vec![0; wanted.min(1 << 16).div_ceil(8)];
    }
    let bytes: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(ranges_in(&bytes).unwrap_or_default())
}

/// The list of ranges in a `vfio_iommu_type1_info`, if it has one.
fn ranges_in(info: &[u8]) -> Option<Vec<(u64, u64)>> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    if u32_at(4)? & INFO_CAPS == 0 {
        return None;
    }
    let mut at = u32_at(16)? as usize;
    // The list goes forward; a kernel that says otherwise is not followed in a circle.
    for _ in 0..16 {
        let id = u32_at(at)? as u16;
        let next = u32_at(at + 4)? as usize;
        if id == CAP_IOVA_RANGE {
            let count = u32_at(at + 8)? as usize;
            return (0..count)
                .map(|i| Some((u64_at(at + 16 + i * 16)?, u64_at(at + 24 + i * 16)?)))
                .collect();
        }
        if next <= at {
            return None;
        }
        at = next;
    }
    None
}

/// Reads from a region at a file offset of the device.
pub fn read_at(device: &impl AsRawFd, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    // SAFETY: the slice is writable for its length.
    let n = unsafe { libc::pread(device.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), offset as i64) };
    whole(n, bytes.len())
}

/// Writes to a region at a file offset of the device.
pub fn write_at(device: &impl AsRawFd, bytes: &[u8], offset: u64) -> io::Result<()> {
    // SAFETY: the slice is readable for its length.
    let n = unsafe { libc::pwrite(device.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset as i64) };
    whole(n, bytes.len())
}

/// Another descriptor of the device.
pub fn duplicate(device: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the owner lives while it is borrowed, so its descriptor is open.
    unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) }.try_clone_to_owned()
}

fn whole(n: libc::ssize_t, wanted: usize) -> io::Result<()> {
    match usize::try_from(n) {
        Ok(n) if n == wanted => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A mapped part of a register space.
struct Area {
    /// Where it begins in the space.
    offset: usize,
    len: usize,
    start: *mut u8,
    // Dropped before the mapping, by `RegionMap::drop`.
    guard: Option<Guard>,
}

/// A register space: mapped where the kernel allows that, else read and written by system calls.
///
/// When the device goes away the kernel takes the mapping back. An access then finds zeros instead of ending the process, and the alarm
/// that was given is tripped.
pub struct RegionMap {
    device: OwnedFd,
    /// File offset of the space.
    file_offset: u64,
    len: usize,
    areas: Box<[Area]>,
}

// SAFETY: an address range of device registers, valid until drop on any thread; accesses are single and volatile.
unsafe impl Send for RegionMap {}
// SAFETY: as above. Drivers decide who writes what; a register is no memory that tears.
unsafe impl Sync for RegionMap {}

macro_rules! accesses {
    ($($read:ident $write:ident $type:ty),+) => {$(
        /// Reads a register. The caller has checked that it lies inside and is aligned.
        #[inline]
        pub(crate) fn $read(&self, offset: usize) -> $type {
            if let Some(at) = self.mapped(offset, size_of::<$type>()) {
                // SAFETY: `mapped` gives addresses inside a mapping.
                return <$type>::from_le(unsafe { at.cast::<$type>().read_volatile() });
            }
            let mut bytes = [0xff; size_of::<$type>()];
            // A device that is gone reads as all ones.
            let _ = read_at(&self.device, &mut bytes, self.file_offset + offset as u64);
            <$type>::from_le_bytes(bytes)
        }

        /// Writes a register. The caller has checked that it lies inside and is aligned.
        #[inline]
        pub(crate) fn $write(&self, offset: usize, value: $type) {
            if let Some(at) = self.mapped(offset, size_of::<$type>()) {
                // SAFETY: `mapped` gives addresses inside a mapping.
                unsafe { at.cast::<$type>().write_volatile(value.to_le()) };
                return;
            }
            let _ = write_at(&self.device, &value.to_le_bytes(), self.file_offset + offset as u64);
        }
    )+};
}

impl RegionMap {
    /// Maps `areas` (offset and length, whole pages) of the `len` bytes of registers at a file offset of the device.
    pub fn new(
        device: OwnedFd,
        file_offset: u64,
        len: usize,
        areas: &[(u64, u64)],
        lost: &Arc<Alarm>,
    ) -> io::Result<RegionMap> {
        let mut region = RegionMap { device, file_offset, len, areas: Box::default() };
        let mut mapped = Vec::new();
        for &(offset, bytes) in areas {
            let (Ok(at), Ok(bytes)) = (usize::try_from(offset), usize::try_from(bytes)) else { continue };
            if bytes == 0 || at.checked_add(bytes).is_none_or(|end| end > len) {
                continue;
            }
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
            let start = unsafe {
                mmap(
                    core::ptr::null_mut(),
                    bytes,
                    prot,
                    MapFlags::SHARED,
                    &region.device,
                    file_offset + offset,
                )?
            };
            let guard = Guard::new(start.addr(), bytes, lost)?;
            mapped.push(Area { offset: at, len: bytes, start: start.cast(), guard: Some(guard) });
        }
        region.areas = mapped.into();
        Ok(region)
    }

    /// Bytes of the space.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no registers.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn mapped(&self, offset: usize, width: usize) -> Option<*mut u8> {
        self.areas.iter().find_map(|area| {
            let inside = offset.checked_sub(area.offset).filter(|&inside| inside + width <= area.len)?;
            // SAFETY: inside the mapping.
            Some(unsafe { area.start.add(inside) })
        })
    }

    accesses!(read8 write8 u8, read16 write16 u16, read32 write32 u32);
}

impl Drop for RegionMap {
    fn drop(&mut self) {
        for area in &mut self.areas {
            area.guard = None;
            // SAFETY: mapped by `new`, and nobody uses it after its owner.
            let _ = unsafe { munmap(area.start.cast(), area.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.12 answers with an Intel IOMMU: a migration capability, then ranges around the MSI window.
    fn answer() -> Vec<u8> {
        let words: [u64; 15] = [
            120 | 3 << 32,
            0xffff_ffff_ffff_f000,
            24,
            // id 2, version 1, next 56.
            2 | 1 << 16 | 56 << 32,
            0,
            0,
            0,
            1 | 1 << 16,
            2,
            0,
            0xfedf_ffff,
            0xfef0_0000,
            0xffff_ffff_ffff,
            0,
            0,
        ];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn the_window_is_read_from_the_capability() {
        let ranges = ranges_in(&answer()).unwrap();
        assert_eq!(ranges, [(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff_ffff)]);
    }

    #[test]
    fn answers_cut_short_have_no_window() {
        let whole = answer();
        for len in 0..104 {
            assert_eq!(ranges_in(&whole[..len]), None, "{len}");
        }
        // A list that goes in a circle.
        let mut circle = whole;
        circle[28] = 24;
        assert_eq!(ranges_in(&circle), None);
    }

    #[test]
    fn a_region_is_reached_with_and_without_a_mapping() {
        let file = rustix::fs::memfd_create("registers", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        let alarm = Alarm::new().unwrap();
        // The second page is left out, as one with an MSI-X table might be; one area reaches beyond the end.
        let areas = [(0, 4096), (4096, 8192)];
        let region = RegionMap::new(file.try_clone().unwrap(), 0, 8192, &areas, &alarm).unwrap();
        region.write32(4092, 0x1122_3344);
        region.write16(4096, 0x5566);
        let mut bytes = [0; 6];
        read_at(&file, &mut bytes, 4092).unwrap();
        assert_eq!(bytes, [0x44, 0x33, 0x22, 0x11, 0x66, 0x55]);
        assert_eq!((region.read32(4092), region.read8(4097)), (0x1122_3344, 0x55));
        // The device goes.
        rustix::fs::ftruncate(&file, 0).unwrap();
        assert_eq!((region.read32(4092), region.read32(4096)), (0, u32::MAX));
        assert!(alarm.tripped());
    }
}
