//! A guest in this process: the `vhost` crate's front-end on the port's socket, our driver rings in shared memory.
//!
//! Shaped like DPDK's virtio-user, which `make bench` loads the switch with: one descriptor per frame, header and frame
//! in one buffer, no interrupts wanted, 256 entries.
#![expect(unsafe_code, reason = "the guest writes its own memory by address")]

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use pmd::sys::map::SharedMap;
use pmd::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF,
};
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use pmd::virtio::{NetHeader, SharedPtr};
use tests::failure::{During as _, Failure, Result};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of guest memory.
const MEMORY: usize = 4 << 20;
/// Where the front-end says it has the memory.
const USER: u64 = 0x7000_0000_0000;
/// Entries of a ring.
const SIZE: u16 = 256;
/// Guest addresses between the rings, and where the buffers of ring 0 and 1 start.
const RING_AREA: u64 = 0x1_0000;
const BUFFERS: u64 = 0x10_0000;
/// Bytes of a buffer, as in an mbuf.
const BUFFER: u64 = 2048;

/// Index of the ring the guest receives from.
const RECEIVE: usize = 0;
/// Index of the ring the guest sends by.
const TRANSMIT: usize = 1;

struct Ring {
    driver: Box<dyn ChainRing>,
    /// Chains added so far: says which buffer is next.
    added: u64,
    kick: EventFd,
    call: EventFd,
}

/// Kind of a guest's rings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Split,
    Packed,
    /// Split, of a guest that leaves checksums to whoever is next and takes frames without, as Linux does.
    Checksums,
}

impl Kind {
    fn features(self) -> u64 {
        let plain = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES;
        match self {
            Kind::Split => plain,
            Kind::Packed => plain | VIRTIO_F_RING_PACKED,
            Kind::Checksums => plain | VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM,
        }
    }

    /// The header of a UDP frame without IP options; flag 1 is `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
    fn header(self) -> [u8; NetHeader::LEN] {
        let mut header = NetHeader::default();
        if self == Kind::Checksums {
            (header.flags, header.csum_start, header.csum_offset) = (1, 34, 6);
        }
        header.to_bytes()
    }
}

/// A guest with one queue pair, connected to a port.
pub(crate) struct Guest {
    memory: SharedMap,
    frontend: Frontend,
    rings: Vec<Ring>,
    kind: Kind,
}

impl Guest {
    /// Connects to the port at `path` and starts both rings.
    pub(crate) fn attach(path: &Path, kind: Kind) -> Result<Guest> {
        let memory = SharedMap::create("guest", MEMORY, false).during("guest memory")?;
        let mut frontend = Frontend::connect(path, 2).during("connecting to the port")?;
        let talk = "talking to the port";
        frontend.set_owner().during(talk)?;
        frontend.get_features().during(talk)?;
        let protocol = frontend.get_protocol_features().during(talk)?;
        frontend.set_protocol_features(protocol).during(talk)?;
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(kind.features()).during(talk)?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: memory.as_fd().as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).during(talk)?;
        let mut guest = Guest { memory, frontend, rings: Vec::new(), kind };
        for index in [RECEIVE, TRANSMIT] {
            guest.start(index)?;
        }
        Ok(guest)
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let packed = self.kind == Kind::Packed;
        let (_, avail, used) = if packed { PackedDriverRing::layout(SIZE) } else { DriverRing::layout(SIZE) };
        let base = index as u64 * RING_AREA;
        let memory = RingMemory {
            descriptors: self.at(base),
            avail: self.at(base + avail as u64),
            used: self.at(base + used as u64),
        };
        // SAFETY: the parts lie in the guest's memory, which lives as long as the ring does.
        let driver: Option<Box<dyn ChainRing>> = unsafe {
            if packed {
                PackedDriverRing::new(memory, SIZE, false, false).map(|ring| Box::new(ring) as _)
            } else {
                DriverRing::new(memory, SIZE, false).map(|ring| Box::new(ring) as _)
            }
        };
        let mut driver = driver.ok_or_else(|| Failure::new("no valid ring size"))?;
        driver.disable_interrupts();
        let event = || EventFd::new(EFD_NONBLOCK).during("eventfd");
        let ring = Ring { driver, added: 0, kick: event()?, call: event()? };
        let talk = "starting a ring";
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: USER + base,
            avail_ring_addr: USER + base + avail as u64,
            used_ring_addr: USER + base + used as u64,
            log_addr: None,
        };
        self.frontend.set_vring_num(index, SIZE).during(talk)?;
        self.frontend.set_vring_addr(index, &config).during(talk)?;
        self.frontend.set_vring_base(index, if packed { 1 << 15 } else { 0 }).during(talk)?;
        self.frontend.set_vring_call(index, &ring.call).during(talk)?;
        self.frontend.set_vring_kick(index, &ring.kick).during(talk)?;
        self.frontend.set_vring_enable(index, true).during(talk)?;
        self.rings.push(ring);
        Ok(())
    }

    fn at(&self, address: u64) -> SharedPtr {
        // SAFETY: callers name addresses inside the guest's memory.
        unsafe { SharedPtr::new(self.memory.start()).add(address as usize) }
    }

    /// Adds the next buffer of a ring, `len` bytes of it.
    fn add(&mut self, index: usize, len: u32) -> Result<()> {
        let ring = &mut self.rings[index];
        let addr = buffer(index, ring.added);
        ring.added += 1;
        let added = ring.driver.add(&[Buffer { addr, len, write: index == RECEIVE }]);
        added.map(|_| ()).ok_or_else(|| Failure::new("the guest's ring is full"))
    }

    /// Sends frames, in order.
    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        for frame in frames {
            let at = self.at(buffer(TRANSMIT, self.rings[TRANSMIT].added));
            // SAFETY: a buffer lies inside the guest's memory and is longer than any frame sent here.
            unsafe {
                at.copy_in(&self.kind.header());
                at.add(NetHeader::LEN).copy_in(frame);
            }
            self.add(TRANSMIT, (NetHeader::LEN + frame.len()) as u32)?;
        }
        self.rings[TRANSMIT].driver.publish();
        Ok(())
    }

    /// Offers so many buffers to receive into.
    pub(crate) fn post(&mut self, buffers: usize) -> Result<()> {
        for _ in 0..buffers {
            self.add(RECEIVE, BUFFER as u32)?;
        }
        self.rings[RECEIVE].driver.publish();
        Ok(())
    }

    /// Takes back what the switch has taken of what was sent: chains.
    pub(crate) fn sent(&mut self) -> Result<usize> {
        self.used(TRANSMIT)
    }

    /// Takes what the switch has delivered: frames.
    pub(crate) fn received(&mut self) -> Result<usize> {
        self.used(RECEIVE)
    }

    fn used(&mut self, index: usize) -> Result<usize> {
        let mut chains = 0;
        while self.rings[index].driver.poll_used().during("the switch's used ring")?.is_some() {
            chains += 1;
        }
        Ok(chains)
    }
}

/// Guest address of the n-th buffer a ring uses.
fn buffer(index: usize, n: u64) -> u64 {
    BUFFERS * (1 + index as u64) + n % u64::from(SIZE) * BUFFER
}
