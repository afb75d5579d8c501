//! `kill -9 vswitchd` at random instants under load: every buffer that a guest has given comes back, and comes back once.
//!
//! The guests live in this process, so that they can count: the `vhost` crate's front-end on the switch's sockets, our driver rings
//! in shared memory, which notice themselves when they are given back what they have not given. Like QEMU's, the front-end does not know
//! where a packed ring stands when the switch has died, and says zero.
//!
//! After some kills the guests are being migrated: what is copied by the dirty log, pass after pass, is the memory when they stop. They stop at once
//! after a kill, so that nothing written later hides what the dead switch had no time to say.
#![expect(unsafe_code, reason = "guests write their own memory by address")]

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pmd::sys::map::SharedMap;
use pmd::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::features::{
    VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED,
    VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF,
};
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use pmd::virtio::split::IDX;
use pmd::virtio::{NetHeader, SharedPtr};
use tests::guest::Socket;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::stage::{PATIENCE, Stage};

const MEMORY: usize = 4 << 20;
/// What a bit in the dirty log stands for.
const PAGE: usize = 4096;
/// Where the front-end says it has the memory.
const USER: u64 = 0x7000_0000_0000;
/// Entries of a ring. A packed one may have any number.
const SPLIT_SIZE: u16 = 256;
const PACKED_SIZE: u16 = 200;
const RING_AREA: u64 = 0x1_0000;
const BUFFERS: u64 = 0x10_0000;
const BUFFER: u64 = 2048;
/// For local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Bytes of a frame.
const FRAME: usize = 100;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// How often the switch is killed.
const KILLS: u32 = 20;
/// How often before guests are migrated.
const PLAIN_KILLS: u32 = 5;

struct Ring {
    driver: Box<dyn ChainRing>,
    memory: RingMemory,
    kick: EventFd,
    call: EventFd,
    /// Chains given, and got back.
    given: u64,
    got: u64,
}

/// A guest with one queue pair.
struct Guest {
    path: PathBuf,
    memory: SharedMap,
    features: u64,
    /// Last byte of its own address, and of the guest's it sends to.
    number: u8,
    peer: u8,
    rings: Vec<Ring>,
    frontend: Option<Frontend>,
    migration: Option<Migration>,
}

/// What a front-end has of a guest that it moves.
struct Migration {
    log: SharedMap,
    /// The memory at its new home.
    copy: Vec<u8>,
}

impl Migration {
    /// Hands the log over.
    fn give_log(&self, frontend: &Frontend) {
        let region = VhostUserDirtyLogRegion {
            mmap_size: self.log.len() as u64,
            mmap_offset: 0,
            mmap_handle: self.log.as_fd().as_raw_fd(),
        };
        frontend.set_log_base(0, Some(region)).unwrap();
    }

    /// Copies the pages that were written since the last pass.
    fn pass(&mut self, memory: &SharedMap) {
        for (index, pages) in self.copy.chunks_mut(64 * PAGE).enumerate() {
            // SAFETY: the log has a bit for each page, and is only used as words.
            let word = unsafe { AtomicU64::from_ptr(self.log.start().cast::<u64>().add(index).as_ptr()) };
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let bits = word.swap(0, Ordering::SeqCst);
            for (bit, page) in pages.chunks_mut(PAGE).enumerate().filter(|(bit, _)| bits >> bit & 1 != 0) {
                let at = (index * 64 + bit) * PAGE;
                assert_eq!(rustix::io::pread(memory.as_fd(), page, at as u64), Ok(PAGE));
            }
        }
    }
}

impl Guest {
    fn new(path: PathBuf, more: u64, number: u8, peer: u8) -> Guest {
        let plain = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES;
        let memory = SharedMap::create("guest", MEMORY, false).unwrap();
        let features = plain | more;
        let (rings, frontend, migration) = (Vec::new(), None, None);
        let mut guest = Guest { path, memory, features, number, peer, rings, frontend, migration };
        for index in [RECEIVE, TRANSMIT] {
            let ring = guest.make_ring(index);
            guest.rings.push(ring);
        }
        guest.connect();
        guest
    }

    fn packed(&self) -> bool {
        self.features & VIRTIO_F_RING_PACKED != 0
    }

    fn size(&self) -> u16 {
        if self.packed() { PACKED_SIZE } else { SPLIT_SIZE }
    }

    /// Offsets of a ring's parts.
    fn layout(&self, index: usize) -> [u64; 3] {
        let layout = if self.packed() { PackedDriverRing::layout } else { DriverRing::layout };
        let (_, avail, used) = layout(self.size());
        [0, avail as u64, used as u64].map(|part| index as u64 * RING_AREA + part)
    }

    fn make_ring(&self, index: usize) -> Ring {
        let [descriptors, avail, used] = self.layout(index).map(|part| self.at(part));
        let memory = RingMemory { descriptors, avail, used };
        let in_order = self.features & VIRTIO_F_IN_ORDER != 0;
        // SAFETY: the parts lie in the guest's memory, which lives as long as the ring does.
        let driver: Box<dyn ChainRing> = unsafe {
            if self.packed() {
                Box::new(PackedDriverRing::new(memory, self.size(), false, in_order).unwrap())
            } else {
                Box::new(DriverRing::new(memory, self.size(), false).unwrap())
            }
        };
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Ring { driver, memory, kick: event(), call: event(), given: 0, got: 0 }
    }

    fn at(&self, address: u64) -> SharedPtr {
        assert!(address < MEMORY as u64);
        // SAFETY: inside the guest's memory.
        unsafe { SharedPtr::new(self.memory.start()).add(address as usize) }
    }

    /// Connects to the switch, new or come back, and starts the rings where a front-end believes them to be.
    fn connect(&mut self) {
        let mut frontend = Frontend::connect(&self.path, 2).unwrap();
        frontend.set_owner().unwrap();
        assert_eq!(self.features & !frontend.get_features().unwrap(), 0, "the port does not offer all");
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(self.features).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: self.memory.as_fd().as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        for (index, ring) in self.rings.iter().enumerate() {
            let base = match (self.packed(), self.frontend.is_some()) {
                (true, false) => 1 << 15,
                (true, true) => 0,
                // SAFETY: inside the used ring.
                (false, _) => unsafe { ring.memory.used.load_u16(IDX, Ordering::Acquire) },
            };
            self.start(&mut frontend, index, base);
        }
        // As QEMU does, which lets rings run before.
        if let Some(migration) = &self.migration {
            migration.give_log(&frontend);
        }
        self.frontend = Some(frontend);
    }

    /// Starts a ring.
    fn start(&self, frontend: &mut Frontend, index: usize, base: u16) {
        let [desc_table_addr, avail_ring_addr, used_ring_addr] = self.layout(index).map(|part| USER + part);
        let (size, ring) = (self.size(), &self.rings[index]);
        let config = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr,
            avail_ring_addr,
            used_ring_addr,
            log_addr: None,
        };
        frontend.set_vring_num(index, size).unwrap();
        frontend.set_vring_addr(index, &config).unwrap();
        frontend.set_vring_base(index, base).unwrap();
        frontend.set_vring_call(index, &ring.call).unwrap();
        frontend.set_vring_kick(index, &ring.kick).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
    }

    /// Begins to move it: the log first, then the memory as it is.
    fn migrate(&mut self) {
        let mut migration =
            Migration { log: SharedMap::create("log", PAGE, false).unwrap(), copy: vec![0; MEMORY] };
        let frontend = self.frontend.as_ref().unwrap();
        migration.give_log(frontend);
        self.features |= VHOST_F_LOG_ALL;
        frontend.set_features(self.features).unwrap();
        assert_eq!(rustix::io::pread(self.memory.as_fd(), &mut migration.copy[..], 0), Ok(MEMORY));
        self.migration = Some(migration);
    }

    /// Stops the rings and compares what the switch writes with the copy; then the guest goes on where it was.
    fn arrive(&mut self) {
        let mut frontend = self.frontend.take().unwrap();
        let bases = [RECEIVE, TRANSMIT].map(|index| frontend.get_vring_base(index).unwrap());
        self.compare();
        self.features &= !VHOST_F_LOG_ALL;
        frontend.set_features(self.features).unwrap();
        for (index, base) in bases.into_iter().enumerate() {
            self.start(&mut frontend, index, base as u16);
        }
        self.frontend = Some(frontend);
    }

    /// Takes the last of the log, and compares.
    fn compare(&mut self) {
        let mut migration = self.migration.take().unwrap();
        migration.pass(&self.memory);
        let mut memory = vec![0; MEMORY];
        assert_eq!(rustix::io::pread(self.memory.as_fd(), &mut memory[..], 0), Ok(MEMORY));
        let from = (BUFFERS * (1 + RECEIVE as u64)) as usize;
        let buffers = from..from + usize::from(self.size()) * BUFFER as usize;
        assert!(
            memory[buffers.clone()] == migration.copy[buffers],
            "guest {}: a frame is not as it arrived",
            self.number
        );
        for index in [RECEIVE, TRANSMIT] {
            let [_, _, used] = self.layout(index).map(|part| part as usize);
            let used = used..used + if self.packed() { 4 } else { 4 + 8 * usize::from(SPLIT_SIZE) };
            assert!(memory[used.clone()] == migration.copy[used], "guest {}: ring {index}", self.number);
        }
    }

    /// Gives a chain of the next buffers: one, or header and rest apart. True when there was room.
    fn give(&mut self, index: usize) -> bool {
        let (write, size) = (index == RECEIVE, u64::from(self.size()));
        let ring = &self.rings[index];
        // No buffer is given twice at a time: there are as many as descriptors.
        let addr = BUFFERS * (1 + index as u64) + ring.given % size * BUFFER;
        let whole = if write { BUFFER as u32 } else { (NetHeader::LEN + FRAME) as u32 };
        if !write {
            let mut frame = [0; NetHeader::LEN + FRAME];
            let body = &mut frame[NetHeader::LEN..];
            body[..6].copy_from_slice(&[0x52, 0x54, 0, 0, 0, self.peer]);
            body[6..12].copy_from_slice(&[0x52, 0x54, 0, 0, 0, self.number]);
            body[12..14].copy_from_slice(&ETHERTYPE);
            body[14..].fill(ring.given as u8);
            // SAFETY: inside the memory.
            unsafe { self.at(addr).copy_in(&frame) };
        }
        let header = NetHeader::LEN as u32;
        let buffers = [
            Buffer { addr, len: header, write },
            Buffer { addr: addr + u64::from(header), len: whole - header, write },
        ];
        let one = [Buffer { addr, len: whole, write }];
        let ring = &mut self.rings[index];
        let added =
            if ring.given.is_multiple_of(3) { ring.driver.add(&buffers) } else { ring.driver.add(&one) };
        ring.given += u64::from(added.is_some());
        added.is_some()
    }

    /// Gives as many chains as fit.
    fn fill(&mut self, index: usize) {
        while self.give(index) {}
        if self.rings[index].driver.publish() {
            let _ = self.rings[index].kick.write(1);
        }
    }

    /// Takes back what has been used. A frame that arrived must be one that was sent.
    fn take_back(&mut self, index: usize) {
        while let Some((_, len)) = self.rings[index].driver.poll_used().unwrap() {
            let size = u64::from(self.size());
            let ring = &mut self.rings[index];
            // Chains come back in the order in which they were given.
            let addr = BUFFERS * (1 + index as u64) + ring.got % size * BUFFER;
            ring.got += 1;
            if index == RECEIVE {
                let mut bytes = [0; NetHeader::LEN + FRAME];
                // SAFETY: inside the memory.
                unsafe { self.at(addr).copy_out(&mut bytes) };
                let (header, body) = bytes[NetHeader::LEN..].split_at(14);
                // The host's kernel has things to say too, by the bridge's own port.
                if header[12..] == ETHERTYPE {
                    assert_eq!(len as usize, bytes.len());
                    assert!(body.iter().all(|byte| *byte == body[0]), "a frame came in pieces");
                }
            }
        }
    }

    /// What a busy guest does again and again.
    fn work(&mut self) {
        for index in [RECEIVE, TRANSMIT] {
            self.take_back(index);
            self.fill(index);
        }
        if let Some(migration) = &mut self.migration {
            migration.pass(&self.memory);
        }
    }

    /// Chains that the switch has, of a ring.
    fn away(&self, index: usize) -> u64 {
        self.rings[index].given - self.rings[index].got
    }
}

/// Lets guests do something until it is enough.
fn until(
    what: &str,
    guests: &mut [Guest],
    mut work: impl FnMut(&mut Guest),
    done: impl Fn(&[Guest]) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    while !done(guests) {
        assert!(
            Instant::now() < deadline,
            "{what}; chains away: {:?}",
            guests.iter().map(|g| [g.away(0), g.away(1)]).collect::<Vec<_>>()
        );
        guests.iter_mut().for_each(&mut work);
    }
}

#[test]
fn every_buffer_comes_back_once_when_the_switch_is_killed_under_load() {
    let mut stage = Stage::open();
    let kinds = [0, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER];
    let mut guests: Vec<Guest> = (0..)
        .zip(kinds)
        .map(|(number, kind)| {
            let nic = stage.vhost_port(&format!("vu{number}"), Socket::SwitchListens, number);
            Guest::new(nic.path, kind, number, (number + 1) % 3)
        })
        .collect();
    // Any seed will do; the instants of death are as random as the scheduler.
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    for kill in 0..KILLS {
        if kill >= PLAIN_KILLS {
            guests.iter_mut().filter(|guest| guest.migration.is_none()).for_each(Guest::migrate);
        }
        let before: Vec<u64> = guests.iter().map(|guest| guest.rings[RECEIVE].got).collect();
        until("traffic does not resume", &mut guests, Guest::work, |guests| {
            guests.iter().zip(&before).all(|(guest, before)| guest.rings[RECEIVE].got > before + 100)
        });
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let moment = Instant::now() + Duration::from_micros(dice >> 51);
        while Instant::now() < moment {
            guests.iter_mut().for_each(Guest::work);
        }
        stage.switch.kill();
        // It takes a while until somebody starts it again; guests do not notice.
        guests.iter_mut().for_each(Guest::work);
        stage.switch.restart().unwrap();
        guests.iter_mut().for_each(Guest::connect);
        // Every fourth migration goes on, through another kill.
        if kill >= PLAIN_KILLS && !kill.is_multiple_of(4) {
            guests.iter_mut().for_each(Guest::arrive);
        }
    }

    // All that was sent comes back without more being given.
    let receive = |guest: &mut Guest| {
        guest.take_back(RECEIVE);
        guest.fill(RECEIVE);
        guest.take_back(TRANSMIT);
    };
    until("sent buffers do not come back", &mut guests, receive, |guests| {
        guests.iter().all(|guest| guest.away(TRANSMIT) == 0)
    });
    // And each buffer that waits is filled when somebody sends.
    let send = |guest: &mut Guest| {
        guest.take_back(RECEIVE);
        guest.take_back(TRANSMIT);
        guest.fill(TRANSMIT);
    };
    until("buffers to receive do not come back", &mut guests, send, |guests| {
        guests.iter().all(|guest| guest.away(RECEIVE) == 0)
    });
    for guest in &guests {
        assert_eq!(guest.rings[RECEIVE].driver.free(), usize::from(guest.size()), "given and got back");
    }
}
