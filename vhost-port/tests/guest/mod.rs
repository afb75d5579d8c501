//! A guest and its front-end in one: the `vhost` crate's front-end on a socket, our driver rings in a memfd.
#![allow(dead_code, reason = "each test binary uses its part")]
#![expect(unsafe_code, reason = "the guest maps and writes its memory")]

pub(crate) mod iommu;
pub(crate) mod late;
pub(crate) mod log;
pub(crate) mod messages;
pub(crate) mod raw;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use pmd::packet::BatchStorage;
use pmd::port::{Port, RxQueue};
pub(crate) use pmd::virtio::driver_ring::ChainRing;
use pmd::virtio::driver_ring::{Buffer, DriverRing, RingMemory};
use pmd::virtio::features::*;
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use pmd::virtio::{NetHeader, SharedPtr};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) const MEMORY: u64 = 16 << 20;
/// The guest's memory is two regions, side by side in guest addresses, apart in the front-end's.
pub(crate) const SPLIT: u64 = 8 << 20;
const UVA: [u64; 2] = [0x7000_0000_0000, 0x7100_0000_0000];
/// Every ring has this much; 256 of them end where buffers begin.
pub(crate) const RING_AREA: u64 = 0x4000;
pub(crate) const RING_SIZE: u16 = 64;
const BUFFERS: u64 = 0x40_0000;

/// What most guests acknowledge.
pub(crate) const MODERN: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_F_INDIRECT_DESC
    | VHOST_USER_F_PROTOCOL_FEATURES
    | VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_GUEST_TSO4;

pub(crate) struct Ring {
    pub(crate) driver: Box<dyn ChainRing>,
    pub(crate) memory: RingMemory,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    /// Buffers by head.
    posted: Vec<Vec<Buffer>>,
}

pub(crate) struct Guest {
    pub(crate) file: File,
    pub(crate) frontend: Frontend,
    pub(crate) rings: Vec<Ring>,
    features: u64,
    ring_size: u16,
    base: NonNull<u8>,
    next: u64,
    /// What stands between the card and the memory, if the features say so.
    iommu: Option<iommu::Iommu>,
}

impl Guest {
    /// Connects to a port's socket, negotiates, and starts `rings` rings.
    pub(crate) fn connect(path: &Path, features: u64, rings: usize) -> Guest {
        let frontend = Frontend::connect(path, rings as u64).unwrap();
        Guest::start(frontend, features, rings)
    }

    pub(crate) fn start(frontend: Frontend, features: u64, rings: usize) -> Guest {
        Guest::start_sized(frontend, features, rings, RING_SIZE)
    }

    /// The same with rings of another size, which must fit their areas.
    pub(crate) fn start_sized(mut frontend: Frontend, features: u64, rings: usize, size: u16) -> Guest {
        negotiate(&mut frontend, features);
        let mut guest = Guest::unplugged(frontend, features, rings, size);
        guest.frontend.set_mem_table(&Guest::regions(&guest.file)).unwrap();
        for index in 0..rings {
            guest.start_ring(index, guest.first_base());
            guest.enable(index, true);
        }
        guest
    }

    /// A guest with rings that the front-end has not told of.
    fn unplugged(mut frontend: Frontend, features: u64, rings: usize, ring_size: u16) -> Guest {
        let file: File = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&file, MEMORY).unwrap();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, kept for the life of the process.
        let map = unsafe { mmap(std::ptr::null_mut(), MEMORY as usize, prot, MapFlags::SHARED, &file, 0) };
        let base = NonNull::new(map.unwrap().cast()).unwrap();
        let iommu = (features & VIRTIO_F_ACCESS_PLATFORM != 0).then(|| iommu::Iommu::new(&mut frontend));
        if let Some(iommu) = &iommu {
            iommu.map_all(&file, base);
        }
        let (rings_made, next) = (Vec::new(), BUFFERS);
        let mut guest = Guest { file, frontend, rings: rings_made, features, ring_size, base, next, iommu };
        for index in 0..rings {
            let ring = guest.make_ring(index);
            guest.rings.push(ring);
        }
        guest
    }

    /// Goes on at another port, in a copy of its memory, with rings that stopped at these bases. The driver notices nothing.
    pub(crate) fn move_to(&mut self, path: &Path, memory: File, bases: &[u32]) {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: in the place of the old mapping, of which there are addresses but no references.
        unsafe { mmap(self.base.as_ptr().cast(), MEMORY as usize, prot, flags, &memory, 0) }.unwrap();
        self.file = memory;
        self.frontend = Frontend::connect(path, self.rings.len() as u64).unwrap();
        negotiate(&mut self.frontend, self.features);
        self.frontend.set_mem_table(&Guest::regions(&self.file)).unwrap();
        for (index, &base) in bases.iter().enumerate() {
            self.start_ring(index, base as u16);
            self.enable(index, true);
        }
    }

    /// Says again what a driver says when it starts, after a reset of the device: fresh rings in the same memory.
    pub(crate) fn restart(&mut self, features: u64) {
        self.features = features;
        self.frontend.set_features(features).unwrap();
        for index in 0..self.rings.len() {
            self.fresh_ring(index);
            self.enable(index, true);
        }
    }

    /// Starts an empty ring in the place of a stopped one.
    pub(crate) fn fresh_ring(&mut self, index: usize) {
        // SAFETY: inside the mapping.
        unsafe { self.at(index as u64 * RING_AREA).copy_in(&[0; RING_AREA as usize]) };
        self.rings[index] = self.make_ring(index);
        self.start_ring(index, self.first_base());
    }

    /// Connects anew, to whoever listens now, and says again all but what only the last back-end knew: where rings stood. `before_rings` says
    /// what comes before them.
    pub(crate) fn reconnect(&mut self, path: &Path, before_rings: impl FnOnce(&mut Frontend)) {
        self.frontend = Frontend::connect(path, self.rings.len() as u64).unwrap();
        negotiate(&mut self.frontend, self.features);
        self.frontend.set_mem_table(&Guest::regions(&self.file)).unwrap();
        before_rings(&mut self.frontend);
        for index in 0..self.rings.len() {
            self.start_ring(index, 0);
            self.enable(index, true);
        }
    }

    pub(crate) fn regions(file: &File) -> [VhostUserMemoryRegionInfo; 2] {
        [0, 1].map(|i| VhostUserMemoryRegionInfo {
            guest_phys_addr: i * SPLIT,
            memory_size: SPLIT,
            userspace_addr: UVA[i as usize],
            mmap_offset: i * SPLIT,
            mmap_handle: file.as_raw_fd(),
        })
    }

    pub(crate) fn iommu(&mut self) -> &mut iommu::Iommu {
        self.iommu.as_mut().unwrap()
    }

    /// Swaps the memory behind two pages of a guest with an IOMMU.
    pub(crate) fn swap_pages(&mut self, one: u64, other: u64) {
        self.iommu.as_mut().unwrap().swap(&self.file, self.base, one, other);
    }

    pub(crate) fn at(&self, gpa: u64) -> SharedPtr {
        assert!(gpa < MEMORY);
        // SAFETY: inside the mapping.
        SharedPtr::new(unsafe { self.base.add(gpa as usize) })
    }

    fn make_ring(&self, index: usize) -> Ring {
        let gpa = ring_area(self.features, index);
        let size = self.ring_size;
        let (avail, used) = layout(self.features, size);
        let memory =
            RingMemory { descriptors: self.at(gpa), avail: self.at(gpa + avail), used: self.at(gpa + used) };
        let has = |feature| self.features & feature != 0;
        let (event_idx, in_order) = (has(VIRTIO_F_EVENT_IDX), has(VIRTIO_F_IN_ORDER));
        // SAFETY: inside the mapping, which stays.
        let driver: Box<dyn ChainRing> = unsafe {
            if self.packed() {
                Box::new(PackedDriverRing::new(memory, size, event_idx, in_order).unwrap())
            } else {
                Box::new(DriverRing::new(memory, size, event_idx).unwrap())
            }
        };
        Ring {
            driver,
            memory,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            posted: vec![Vec::new(); usize::from(size)],
        }
    }

    fn packed(&self) -> bool {
        self.features & VIRTIO_F_RING_PACKED != 0
    }

    /// Base of a fresh ring; the crate sends only the lower half.
    pub(crate) fn first_base(&self) -> u16 {
        if self.packed() { 0x8000 } else { 0 }
    }

    /// Where a split ring lies.
    pub(crate) fn ring_config(index: usize) -> VringConfigData {
        Guest::ring_config_for(0, RING_SIZE, index)
    }

    /// With an IOMMU, rings are where the card sees them.
    fn ring_config_for(features: u64, size: u16, index: usize) -> VringConfigData {
        let space = if features & VIRTIO_F_ACCESS_PLATFORM != 0 { 0 } else { UVA[0] };
        let uva = space + ring_area(features, index);
        let (avail, used) = layout(features, size);
        VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: uva,
            used_ring_addr: uva + used,
            avail_ring_addr: uva + avail,
            log_addr: None,
        }
    }

    pub(crate) fn start_ring(&self, index: usize, base: u16) {
        let ring = &self.rings[index];
        let config = Guest::ring_config_for(self.features, self.ring_size, index);
        self.frontend.set_vring_num(index, self.ring_size).unwrap();
        self.frontend.set_vring_addr(index, &config).unwrap();
        self.frontend.set_vring_base(index, base).unwrap();
        self.frontend.set_vring_call(index, &ring.call).unwrap();
        self.frontend.set_vring_kick(index, &ring.kick).unwrap();
    }

    /// Guest address of a ring's used ring, or device event area.
    pub(crate) fn used_gpa(&self, index: usize) -> u64 {
        index as u64 * RING_AREA + layout(self.features, self.ring_size).1
    }

    /// Says again where a ring is, and at which guest address its used ring is to be logged.
    pub(crate) fn log_used_at(&self, index: usize, gpa: u64) {
        let config = Guest::ring_config_for(self.features, self.ring_size, index);
        let config = VringConfigData { flags: 1, log_addr: Some(gpa), ..config };
        self.frontend.set_vring_addr(index, &config).unwrap();
    }

    /// Bytes of guest memory as they are now.
    pub(crate) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, gpa).unwrap();
        bytes
    }

    pub(crate) fn enable(&mut self, index: usize, enable: bool) {
        self.frontend.set_vring_enable(index, enable).unwrap();
    }

    /// Guest memory for `len` bytes, never used before in this test run of few bytes.
    pub(crate) fn allocate(&mut self, len: u64) -> u64 {
        if self.next + len > MEMORY {
            self.next = BUFFERS;
        }
        let at = self.next;
        self.next += len.next_multiple_of(64);
        at
    }

    fn header_len(&self) -> usize {
        let long = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF;
        if self.features & long != 0 { 12 } else { 10 }
    }

    /// Sends a frame, header and all cut at `cuts`, by transmit ring `index`. True when the device wants a kick.
    pub(crate) fn send(&mut self, index: usize, header: NetHeader, frame: &[u8], cuts: &[usize]) -> bool {
        let buffers = self.write(header, frame, cuts);
        let driver = &mut self.rings[index].driver;
        driver.add(&buffers).unwrap();
        driver.publish()
    }

    /// The same through an indirect table, which lies across the border of two pages.
    pub(crate) fn send_indirect(&mut self, index: usize, header: NetHeader, frame: &[u8], cuts: &[usize]) {
        let buffers = self.write(header, frame, cuts);
        let len = buffers.len() as u64 * 16;
        let room = self.allocate(2 * iommu::PAGE + len);
        let table = (room + 24).next_multiple_of(iommu::PAGE) - len.min(24);
        for (i, buffer) in buffers.iter().enumerate() {
            let next = if i + 1 < buffers.len() { 1 } else { 0 };
            let id_or_next = if self.packed() { [0, next] } else { [next, next * (i as u16 + 1)] };
            let mut bytes = [buffer.addr.to_le_bytes(), [0; 8]].concat();
            bytes[8..12].copy_from_slice(&buffer.len.to_le_bytes());
            bytes[12..14].copy_from_slice(&id_or_next[0].to_le_bytes());
            bytes[14..].copy_from_slice(&id_or_next[1].to_le_bytes());
            // SAFETY: just allocated, inside the mapping.
            unsafe { self.at(table + i as u64 * 16).copy_in(&bytes) };
        }
        let driver = &mut self.rings[index].driver;
        driver.add_indirect(table, buffers.len() as u16).unwrap();
        driver.publish();
    }

    /// Puts a frame, header and all cut at `cuts`, into buffers to be sent.
    fn write(&mut self, header: NetHeader, frame: &[u8], cuts: &[usize]) -> Vec<Buffer> {
        let mut bytes = header.to_bytes()[..self.header_len()].to_vec();
        bytes.extend_from_slice(frame);
        let mut borders: Vec<_> = cuts.iter().map(|&c| c % bytes.len()).filter(|&c| c > 0).collect();
        borders.extend([0, bytes.len()]);
        borders.sort_unstable();
        borders.dedup();
        let buffer = |guest: &mut Guest, part: &[u8]| {
            let addr = guest.allocate(part.len() as u64);
            // SAFETY: just allocated, inside the mapping.
            unsafe { guest.at(addr).copy_in(part) };
            Buffer { addr, len: part.len() as u32, write: false }
        };
        borders.windows(2).map(|w| buffer(self, &bytes[w[0]..w[1]])).collect()
    }

    /// Offers a chain of buffers of these sizes to be filled.
    pub(crate) fn post(&mut self, index: usize, sizes: &[u32]) {
        let buffers: Vec<_> = sizes
            .iter()
            .map(|&len| Buffer { addr: self.allocate(u64::from(len)), len, write: true })
            .collect();
        let ring = &mut self.rings[index];
        let head = ring.driver.add(&buffers).unwrap();
        ring.posted[usize::from(head)] = buffers;
        ring.driver.publish();
    }

    /// Offers a buffer on a page of its own, and says which.
    pub(crate) fn post_page(&mut self, index: usize) -> u64 {
        let addr = self.allocate(2 * iommu::PAGE).next_multiple_of(iommu::PAGE);
        let buffers = vec![Buffer { addr, len: 2000, write: true }];
        let ring = &mut self.rings[index];
        let head = ring.driver.add(&buffers).unwrap();
        ring.posted[usize::from(head)] = buffers;
        ring.driver.publish();
        addr
    }

    fn used_bytes(&mut self, index: usize) -> Option<Vec<u8>> {
        let (head, len) = self.rings[index].driver.poll_used().unwrap()?;
        let buffers = std::mem::take(&mut self.rings[index].posted[usize::from(head)]);
        let mut bytes = Vec::new();
        for buffer in buffers {
            let n = (buffer.len as usize).min(len as usize - bytes.len());
            let mut part = vec![0; n];
            // SAFETY: the buffer lies inside the mapping.
            unsafe { self.at(buffer.addr).copy_out(&mut part) };
            bytes.extend(part);
        }
        assert_eq!(bytes.len(), len as usize);
        Some(bytes)
    }

    /// Takes the next frame out of receive ring `index`, put together from its buffers.
    pub(crate) fn receive(&mut self, index: usize) -> Option<(NetHeader, Vec<u8>)> {
        let mut bytes = self.used_bytes(index)?;
        let mut header = [0; 12];
        let header_len = self.header_len();
        header[..header_len].copy_from_slice(&bytes[..header_len]);
        let header = NetHeader::from_bytes(&header);
        if self.features & VIRTIO_NET_F_MRG_RXBUF != 0 {
            for _ in 1..header.num_buffers {
                bytes.extend(self.used_bytes(index).expect("a merged frame appears at once"));
            }
        }
        Some((header, bytes.split_off(header_len)))
    }

    /// Transmit chains the device has given back.
    pub(crate) fn reclaim(&mut self, index: usize) -> usize {
        std::iter::from_fn(|| self.rings[index].driver.poll_used().unwrap()).count()
    }

    /// Waits until the device interrupts.
    pub(crate) fn await_interrupt(&self, index: usize) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let call = &self.rings[index].call;
        // SAFETY: the eventfd is open as long as the ring.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(call.as_raw_fd()) };
        let long = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_ne!(
            poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&long)),
            Ok(0),
            "an interrupt"
        );
        let _ = call.read();
    }

    /// Whether the device has interrupted since last asked.
    pub(crate) fn interrupted(&self, index: usize) -> bool {
        self.rings[index].call.read().is_ok()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.iommu.is_some() {
            // A mapping per page: the kernel's limit is sixteen such guests.
            // SAFETY: nothing but this guest's rings reaches it.
            unsafe { munmap(self.base.as_ptr().cast(), MEMORY as usize) }.unwrap();
        }
    }
}

/// Where a ring is in the guest. With an IOMMU every other one lies across the borders of pages.
fn ring_area(features: u64, index: usize) -> u64 {
    let across = features & VIRTIO_F_ACCESS_PLATFORM != 0 && index % 2 == 1;
    index as u64 * RING_AREA + if across { iommu::PAGE - 512 } else { 0 }
}

/// Offsets of a ring's second and third part.
fn layout(features: u64, size: u16) -> (u64, u64) {
    let packed = features & VIRTIO_F_RING_PACKED != 0;
    let (_, avail, used) = if packed { PackedDriverRing::layout(size) } else { DriverRing::layout(size) };
    (avail as u64, used as u64)
}

/// The usual messages before rings.
pub(crate) fn negotiate(frontend: &mut Frontend, features: u64) {
    let offered = frontend.get_features().unwrap();
    assert_eq!(features & !offered, 0, "the port does not offer all that the test wants");
    frontend.set_owner().unwrap();
    if features & VHOST_USER_F_PROTOCOL_FEATURES != 0 {
        let protocol = frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK));
        frontend.set_protocol_features(protocol).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    frontend.set_features(features).unwrap();
}

/// Takes a burst out of a receive queue, as whole frames.
pub(crate) fn burst(rxq: &mut dyn RxQueue) -> Vec<Vec<u8>> {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    let n = rxq.rx_burst(&mut batch);
    assert_eq!(n, batch.len());
    let frames = (0..n as u16).map(|slot| {
        let frame = batch.frame(slot);
        let mut bytes = vec![0; frame.len()];
        assert_eq!(frame.copy_to(&mut bytes), bytes.len());
        bytes
    });
    let frames = frames.collect();
    rxq.rx_done();
    frames
}

/// Waits, without sleeping, until the port says what `want` wants to hear.
pub(crate) fn wait_for(port: &Arc<dyn Port>, want: impl Fn(&pmd::port::PortInfo) -> bool) {
    use std::sync::mpsc;
    struct Tell(std::sync::Mutex<mpsc::Sender<()>>);
    impl pmd::port::PortEvents for Tell {
        fn port_changed(&self) {
            let _ = self.0.lock().unwrap().send(());
        }
    }
    let (tell, told) = mpsc::channel();
    port.subscribe(Arc::new(Tell(std::sync::Mutex::new(tell))));
    while !want(&port.info()) {
        told.recv_timeout(std::time::Duration::from_secs(20)).expect("the port changes");
    }
}
