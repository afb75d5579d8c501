//! A guest's memory: one memfd with two rings and their buffers.
//!
//! ```text
//!   0        receive ring | transmit ring | receive buffers | transmit buffers     each on a page of its own
//! ```
//!
//! The shape follows DPDK's virtio-user, which everybody measures with: a slot is as far from the next as mbufs are (2368 bytes, an
//! odd number of cache lines, so that the same part of many buffers spreads over all sets of a cache), the virtio-net header
//! stands in the last 12 bytes of the headroom and the frame starts a cache line. With offloads, receive buffers are as long as
//! those a Linux guest posts when large frames come in: a page, several to a frame.

use std::os::fd::AsFd as _;

use pmd::sys::map::SharedMap;
use pmd::virtio::burst_driver::{BufferView, Buffers, Direction, EitherRing};
use pmd::virtio::driver_ring::RingMemory;
use pmd::virtio::{NetHeader, SharedPtr};
use vhost_port::front_end::{Region, RingPlace};

use crate::error::{During as _, Error};

/// Guest address of the first byte.
const GUEST: u64 = 1 << 30;
/// Where the front-end says it has the memory mapped. Only a name: back-ends translate ring addresses by it.
const USER: u64 = 0x7000_0000_0000;
const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
const LINE: u32 = 64;
/// Bytes from one mbuf to the next with DPDK's defaults.
const MBUF: u32 = 2368;
/// Bytes before a buffer in its slot.
const HEADROOM: u32 = LINE - NetHeader::LEN as u32;

/// Index of the ring a guest receives by.
pub(crate) const RECEIVE: usize = 0;
/// Index of the ring a guest sends by.
pub(crate) const TRANSMIT: usize = 1;

/// Whether to use huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HugePages {
    /// Fail without.
    Yes,
    /// Ordinary pages.
    No,
    /// If there are enough.
    Auto,
}

/// How long the buffers are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Entries of a ring.
    pub(crate) ring_size: u16,
    /// Packed rings instead of split ones.
    pub(crate) packed: bool,
    /// Bytes of a receive buffer, header included.
    pub(crate) receive: u32,
    /// Bytes of a transmit buffer, header included.
    pub(crate) transmit: u32,
    /// Transmit buffers; a power of two.
    pub(crate) transmit_count: u16,
}

/// A guest's memory, laid out.
pub(crate) struct Memory {
    map: SharedMap,
    shape: Shape,
    /// Offsets: the rings, then the buffers of each.
    rings: [usize; 2],
    buffers: [usize; 2],
}

impl Memory {
    /// Makes and touches the memory.
    pub(crate) fn create(shape: Shape, huge: HugePages) -> Result<Self, Error> {
        let mut end = 0;
        let mut reserve = |bytes: usize| {
            let at = end;
            end = (at + bytes).next_multiple_of(PAGE);
            at
        };
        let ring = shape.layout().0;
        let rings = [reserve(ring), reserve(ring)];
        let buffers = [RECEIVE, TRANSMIT].map(|index| {
            let (stride, count) = (shape.stride(index), shape.count(index));
            reserve(stride as usize * usize::from(count))
        });
        let len = end.next_multiple_of(HUGE_PAGE);
        let create = |huge| SharedMap::create("vsgen", len, huge);
        let huge_error = || {
            format!(
                "{} hugepages of 2 MiB (reserve them in /proc/sys/vm/nr_hugepages, or use --hugepages no)",
                len >> 21
            )
        };
        let map = match huge {
            HugePages::Yes => create(true).during(huge_error())?,
            HugePages::No => create(false).during("memory")?,
            HugePages::Auto => create(true).or_else(|_| create(false)).during("memory")?,
        };
        Ok(Self { map, shape, rings, buffers })
    }

    /// The one region of the memory table.
    pub(crate) fn region(&self) -> Region<'_> {
        Region { fd: self.map.as_fd(), len: self.map.len(), guest: GUEST, user: USER }
    }

    /// Whether its rings are packed ones.
    pub(crate) fn is_packed(&self) -> bool {
        self.shape.packed
    }

    /// Where a ring is, for the back-end.
    pub(crate) fn place(&self, index: usize) -> RingPlace {
        let (_, avail, used) = self.shape.layout();
        let start = USER + self.rings[index & 1] as u64;
        let parts = [start, start + avail as u64, start + used as u64];
        RingPlace { size: self.shape.ring_size, parts }
    }

    /// Starts the driver side of a ring. The result must not outlive this memory.
    pub(crate) fn ring(&self, index: usize) -> Result<EitherRing, Error> {
        let size = self.shape.ring_size;
        let (_, avail, used) = self.shape.layout();
        let start = self.rings[index & 1];
        let memory = RingMemory {
            descriptors: self.at(start),
            avail: self.at(start + avail),
            used: self.at(start + used),
        };
        let offset = self.buffers[index & 1];
        let buffers = Buffers {
            start: self.at(offset),
            guest: GUEST + offset as u64,
            stride: self.shape.stride(index),
            headroom: HEADROOM,
            capacity: self.shape.capacity(index),
            count: self.shape.count(index),
        };
        let direction = if index == RECEIVE { Direction::FromDevice } else { Direction::ToDevice };
        #[expect(unsafe_code, reason = "whoever laid out the memory vouches for it")]
        // SAFETY: `create` reserved room for all of it, ring parts page-aligned; callers keep the memory.
        let ring = unsafe { EitherRing::new(self.shape.packed, memory, size, direction, buffers, false) };
        let mut ring =
            ring.ok_or_else(|| Error::Usage(format!("--ring-size {size}: a power of two is wanted")))?;
        // The pages are there before the clock runs.
        ring.for_each_buffer(|view: BufferView<'_>| {
            for offset in (0..view.capacity()).step_by(PAGE) {
                view.write(offset, [0]);
            }
        });
        Ok(ring)
    }

    fn at(&self, offset: usize) -> SharedPtr {
        debug_assert!(offset < self.map.len());
        #[expect(unsafe_code, reason = "names an address of the mapping")]
        // SAFETY: offsets come from `create`, which made the mapping long enough.
        unsafe {
            SharedPtr::new(self.map.start()).add(offset)
        }
    }
}

impl Shape {
    /// Bytes of a ring, and the offsets of its second and third part.
    fn layout(&self) -> (usize, usize, usize) {
        EitherRing::layout(self.packed, self.ring_size)
    }

    fn capacity(&self, index: usize) -> u32 {
        if index == RECEIVE { self.receive } else { self.transmit }
    }

    fn count(&self, index: usize) -> u16 {
        if index == RECEIVE { self.ring_size } else { self.transmit_count }
    }

    /// Bytes from slot to slot: an odd number of cache lines.
    fn stride(&self, index: usize) -> u32 {
        let lines = (HEADROOM + self.capacity(index)).div_ceil(LINE) | 1;
        (lines * LINE).max(MBUF)
    }
}
