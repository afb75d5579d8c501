//! A guest without a machine: a vhost-user front-end, two rings in a memfd, and frames that carry a number.
//!
//! Hundreds of them fit where one QEMU does, and they come and go in a millisecond: for scenarios about many ports and about life
//! cycles. The driver side is `pmd`'s burst ring, of either kind. Nothing of a guest stays when it is dropped.
#![expect(unsafe_code, reason = "the guest lays out its own memory")]

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use pmd::sys::map::SharedMap;
use pmd::virtio::SharedPtr;
use pmd::virtio::burst_driver::{Buffers, BurstRing, Direction, PackedBurstRing};
use pmd::virtio::driver_ring::RingMemory;
use pmd::virtio::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::failure::{During as _, Failure, Result};

/// Entries of each ring: more frames than this may not be under way to one guest.
pub const RING_SIZE: u16 = 64;
/// The ring a guest receives by, and the one it sends by.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Where the front-end says it has the memory mapped. Only a name.
const USER: u64 = 0x7000_0000_0000;
/// A ring has this much.
const RING_AREA: usize = 0x4000;
const BUFFER: u32 = 256;
/// Bytes of the virtio-net header, which is zero here.
const HEADER: usize = 12;
/// Bytes of a frame.
const FRAME: usize = 60;
/// EtherType for local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

enum Ring {
    Split(BurstRing),
    Packed(PackedBurstRing),
}

macro_rules! either {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            Ring::Split($ring) => $what,
            Ring::Packed($ring) => $what,
        }
    };
}

/// A connected guest. Dropping it hangs up.
pub struct ScriptedGuest {
    rings: Vec<Ring>,
    events: Vec<(EventFd, EventFd)>,
    /// The conversation, for a scenario to say what it likes.
    pub frontend: Frontend,
    packed: bool,
    memory: SharedMap,
}

impl ScriptedGuest {
    /// Connects to a port that listens at `path`, negotiates, and starts a pair of rings with all receive buffers offered.
    ///
    /// # Errors
    /// Nobody listens there, or the port refuses a message.
    pub fn connect(path: &Path, packed: bool) -> Result<Self> {
        let frontend = Frontend::connect(path, 2).during(path.display())?;
        let len = 2 * RING_AREA + 2 * usize::from(RING_SIZE) * BUFFER as usize;
        // Without seals, as QEMU's is: a guest of this kind may take its memory away.
        let file = memfd_create("scripted guest", MemfdFlags::CLOEXEC).during("guest memory")?;
        ftruncate(&file, len as u64).during("guest memory")?;
        let memory = SharedMap::of(file, len).during("guest memory")?;
        let mut guest = Self { rings: Vec::new(), events: Vec::new(), frontend, packed, memory };
        guest.negotiate().during(path.display())?;
        for index in [RECEIVE, TRANSMIT] {
            guest.start(index).during(path.display())?;
        }
        guest.repost();
        Ok(guest)
    }

    fn negotiate(&mut self) -> vhost::Result<()> {
        let frontend = &mut self.frontend;
        frontend.set_owner()?;
        frontend.get_features()?;
        let offered = frontend.get_protocol_features()?;
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        frontend.set_protocol_features(offered & wanted)?;
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let ring = if self.packed { VIRTIO_F_RING_PACKED } else { 0 };
        let plain = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES;
        frontend.set_features(plain | ring)?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: self.memory.len() as u64,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: self.memory.as_fd().as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).map(drop)
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let layout = if self.packed { PackedBurstRing::layout } else { BurstRing::layout };
        let (_, avail, used) = layout(RING_SIZE);
        let base = index * RING_AREA;
        let buffers = 2 * RING_AREA + index * usize::from(RING_SIZE) * BUFFER as usize;
        let parts = RingMemory {
            descriptors: self.at(base),
            avail: self.at(base + avail),
            used: self.at(base + used),
        };
        let buffers = Buffers {
            start: self.at(buffers),
            guest: buffers as u64,
            stride: BUFFER,
            headroom: 0,
            capacity: BUFFER,
            count: RING_SIZE,
        };
        let direction = if index == RECEIVE { Direction::FromDevice } else { Direction::ToDevice };
        // SAFETY: the memory was made long enough for both rings and their buffers, page by page, and lives as long as they do.
        let ring = unsafe {
            if self.packed {
                PackedBurstRing::new(parts, RING_SIZE, direction, buffers, false).map(Ring::Packed)
            } else {
                BurstRing::new(parts, RING_SIZE, direction, buffers, false).map(Ring::Split)
            }
        };
        self.rings.push(ring.ok_or_else(|| Failure::new("no valid ring"))?);
        let event = || EventFd::new(EFD_NONBLOCK).during("eventfd");
        let (kick, call) = (event()?, event()?);
        let user = USER + base as u64;
        let config = VringConfigData {
            queue_max_size: RING_SIZE,
            queue_size: RING_SIZE,
            flags: 0,
            desc_table_addr: user,
            avail_ring_addr: user + avail as u64,
            used_ring_addr: user + used as u64,
            log_addr: None,
        };
        let talk = "starting a ring";
        let first = if self.packed { 1 << 15 } else { 0 };
        self.frontend.set_vring_num(index, RING_SIZE).during(talk)?;
        self.frontend.set_vring_addr(index, &config).during(talk)?;
        self.frontend.set_vring_base(index, first).during(talk)?;
        self.frontend.set_vring_call(index, &call).during(talk)?;
        self.frontend.set_vring_kick(index, &kick).during(talk)?;
        self.frontend.set_vring_enable(index, true).during(talk)?;
        self.events.push((kick, call));
        Ok(())
    }

    fn at(&self, offset: usize) -> SharedPtr {
        assert!(offset < self.memory.len());
        // SAFETY: inside the mapping.
        unsafe { SharedPtr::new(self.memory.start()).add(offset) }
    }

    /// The guest's memory, for a scenario to take away.
    #[must_use]
    pub fn memory(&self) -> &SharedMap {
        &self.memory
    }

    /// Says by the index of its transmit ring, a split one, that it offers more than the ring holds, and kicks.
    ///
    /// # Errors
    /// The memory cannot be written.
    pub fn lie_about_the_ring(&self) -> Result<()> {
        let index = (TRANSMIT * RING_AREA + BurstRing::layout(RING_SIZE).1 + 2) as u64;
        let far = (RING_SIZE * 3).to_le_bytes();
        rustix::io::pwrite(self.memory.as_fd(), &far, index).during("guest memory")?;
        self.kick(TRANSMIT);
        Ok(())
    }

    /// Makes the switch look at the transmit ring.
    pub fn wake_switch(&self) {
        self.kick(TRANSMIT);
    }

    fn kick(&self, index: usize) {
        // It fails only when 2⁶⁴ - 1 kicks wait, and then the device has been told.
        let _ = self.events[index].0.write(1);
    }

    /// Sends a frame for each number, and tells how many the ring had room for.
    ///
    /// # Errors
    /// The device gave back what it never got.
    pub fn send(&mut self, numbers: &[u64]) -> Result<usize> {
        let ring = &mut self.rings[TRANSMIT];
        either!(ring, ring => ring.reclaim(u16::MAX)).during("transmit ring")?;
        let mut next = numbers.iter();
        let count = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
        let sent = either!(ring, ring => ring.stage(count, |buffer| {
            let mut bytes = [0; HEADER + FRAME];
            bytes[HEADER..HEADER + 12].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1]);
            bytes[HEADER + 12..HEADER + 14].copy_from_slice(&ETHERTYPE);
            let number = next.next().copied().unwrap_or_default();
            bytes[HEADER + 14..HEADER + 22].copy_from_slice(&number.to_le_bytes());
            buffer.copy_in(0, &bytes);
            buffer.set_len(bytes.len() as u32);
        }));
        if either!(ring, ring => ring.publish()) {
            self.kick(TRANSMIT);
        }
        Ok(usize::from(sent))
    }

    /// Takes what has come, and tells the numbers. Other frames are passed over.
    ///
    /// # Errors
    /// The device used what it was not given.
    pub fn receive(&mut self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        let ring = &mut self.rings[RECEIVE];
        either!(ring, ring => ring.take_used::<1>(u16::MAX, |buffer, len| {
            if len as usize >= HEADER + 22 && buffer.read::<2>(HEADER + 12) == ETHERTYPE {
                numbers.push(u64::from_le_bytes(buffer.read(HEADER + 14)));
            }
        }))
        .during("receive ring")?;
        self.repost();
        Ok(numbers)
    }

    fn repost(&mut self) {
        let ring = &mut self.rings[RECEIVE];
        let free = either!(ring, ring => ring.free());
        either!(ring, ring => ring.stage_unchanged(free));
        if either!(ring, ring => ring.publish()) {
            self.kick(RECEIVE);
        }
    }

    /// Stops both rings, as a driver that goes in good order.
    ///
    /// # Errors
    /// The port does not answer.
    pub fn stop(&self) -> Result<()> {
        [RECEIVE, TRANSMIT]
            .into_iter()
            .try_for_each(|index| self.frontend.get_vring_base(index).map(drop).during("stopping a ring"))
    }
}
