//! A guest whose driver remembers what it gave and what was written, and where none of it lies side by side by chance.
#![expect(unsafe_code, reason = "the guest writes its memory")]

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::sys::sigbus::Alarm;
use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::packed::Element;
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use pmd::virtio::split::{DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::memory::{DirtyLog, MemTable, PageLog, Region, RegionSpec};
use crate::ring::{DeviceRing, Direction, Kept, Resume, RingAddresses, RingConfig, RingFile, RingRules};

pub(super) const MEMORY: u64 = 1 << 20;
/// Where the ring lies, where indirect tables, and where buffers: a slot for each chain there can be.
pub(super) const RING: u64 = 0x1000;
pub(super) const TABLES: u64 = 0x1_0000;
pub(super) const TABLE: u64 = 0x100;
pub(super) const BUFFERS: u64 = 0x4_0000;
pub(super) const SLOT: u64 = 0x1000;
/// Bytes of a piece; they do not lie side by side.
pub(super) const PIECE: u64 = 0x100;
pub(super) const MOST_PIECES: usize = 12;

/// The guest.
pub(super) struct Guest {
    pub(super) file: File,
    pub(super) memory: Arc<MemTable>,
    /// All of it in one mapping, for the life of the process: as a device sees it.
    pub(super) whole: SharedPtr,
    pub(super) driver: Box<dyn ChainRing>,
    pub(super) rules: RingRules,
    pub(super) direction: Direction,
    pub(super) log: Arc<DirtyLog>,
    pub(super) log_file: File,
    config: RingConfig,
    /// What outlives a device side of the ring.
    kept: Arc<RingFile>,
    /// Chains that have not come back, by name: slot, pieces and stamp.
    pub(super) out: HashMap<u16, (u64, Vec<Buffer>, u64)>,
    pub(super) slots: Vec<u64>,
    pub(super) stamp: u64,
    /// Frames the device or our software read, by stamp.
    pub(super) sent: HashMap<u64, u32>,
    /// What was written into a slot last.
    pub(super) received: HashMap<u64, Vec<u8>>,
    /// Frames that are to be received, if the test knows.
    expected: VecDeque<Vec<u8>>,
    last_len: usize,
    pub(super) back: u64,
    pub(super) empty: u64,
}

impl Guest {
    pub(super) fn new(size: u16, rules: RingRules, direction: Direction) -> (Guest, DeviceRing) {
        let file: File = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&file, MEMORY).unwrap();
        let alarm = Alarm::new().unwrap();
        let (prot, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping.
        let whole = unsafe { mmap(std::ptr::null_mut(), MEMORY as usize, prot, shared, &file, 0) };
        let whole = SharedPtr::new(std::ptr::NonNull::new(whole.unwrap().cast()).unwrap());
        let region = |at| {
            let spec = RegionSpec { gpa: at, len: MEMORY / 2, uva: at, offset: at };
            Region::map(spec, &file, &alarm).unwrap()
        };
        // Two mappings, so that it is not by chance that an address is found.
        let memory = MemTable::default().with(region(0)).unwrap().with(region(MEMORY / 2)).unwrap();
        let memory = Arc::new(memory);
        let (_, avail, used) =
            if rules.packed { PackedDriverRing::layout(size) } else { DriverRing::layout(size) };
        let at = |gpa| memory.by_uva(gpa, 1).unwrap();
        let parts = RingMemory {
            descriptors: at(RING),
            avail: at(RING + avail as u64),
            used: at(RING + used as u64),
        };
        // SAFETY: inside the memory, which stays mapped as long as the guest.
        let mut driver: Box<dyn ChainRing> = unsafe {
            if rules.packed {
                Box::new(PackedDriverRing::new(parts, size, rules.event_idx, rules.in_order).unwrap())
            } else {
                Box::new(DriverRing::new(parts, size, rules.event_idx).unwrap())
            }
        };
        driver.disable_interrupts();
        let config = RingConfig {
            size: Some(size),
            addresses: Some(RingAddresses {
                descriptors: RING,
                avail: RING + avail as u64,
                used: RING + used as u64,
            }),
            base: if rules.packed { 0x8000 } else { 0 },
            started: true,
            ..RingConfig::default()
        };
        let kept = Arc::new(RingFile::anonymous(1).unwrap());
        let log_file: File = memfd_create("log", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&log_file, 4096).unwrap();
        let log = Arc::new(DirtyLog::map(&log_file, 0, 4096, &memory, &alarm).unwrap());
        let guest = Guest {
            file,
            memory,
            whole,
            driver,
            rules,
            direction,
            log,
            log_file,
            config,
            kept,
            out: HashMap::new(),
            slots: (0..u64::from(size)).collect(),
            stamp: 0,
            sent: HashMap::new(),
            received: HashMap::new(),
            expected: VecDeque::new(),
            last_len: 0,
            back: 0,
            empty: 0,
        };
        let ring = guest.start();
        (guest, ring)
    }

    /// The device side of the ring, after whoever had it before is gone, and as a front-end starts it that does not know where that one was.
    pub(super) fn start(&self) -> DeviceRing {
        let kept = Kept { file: &self.kept, inflight: None, index: 0 };
        let made = self.config.activate(&self.memory, self.rules, kept, Resume::ByRecord);
        let mut ring = made.unwrap().unwrap().ring;
        ring.rewind_to_used();
        ring.log_to(&self.log, None);
        ring
    }

    pub(super) fn at(&self, gpa: u64) -> SharedPtr {
        self.memory.by_uva(gpa, 1).unwrap()
    }

    pub(super) fn page_log(&self) -> PageLog {
        PageLog::new(&self.log, &self.memory)
    }

    /// Adds a chain of so many pieces, through a table or not. False when there is no room.
    pub(super) fn add(&mut self, pieces: usize, table: bool) -> bool {
        let Some(slot) = self.slots.pop() else { return false };
        self.stamp += 1;
        let write = self.direction == Direction::Write;
        let base = BUFFERS + slot * SLOT;
        let buffers: Vec<Buffer> = (0..pieces as u64)
            .map(|i| Buffer { addr: base + i * (PIECE + 8), len: (PIECE - i * 3) as u32, write })
            .collect();
        self.last_len = buffers.iter().map(|b| b.len as usize).sum();
        if !write {
            let bytes = frame(self.stamp, buffers.iter().map(|b| b.len as usize).sum());
            let mut rest = &bytes[..];
            for buffer in &buffers {
                let (now, later) = rest.split_at(buffer.len as usize);
                // SAFETY: inside the slot.
                unsafe { self.at(buffer.addr).copy_in(now) };
                rest = later;
            }
        }
        let added = if table && self.rules.indirect {
            self.put_table(slot, &buffers);
            self.driver.add_indirect(TABLES + slot * TABLE, pieces as u16)
        } else {
            self.driver.add(&buffers)
        };
        match added {
            Some(id) => {
                self.out.insert(id, (slot, buffers, self.stamp));
                true
            }
            None => {
                self.slots.push(slot);
                false
            }
        }
    }

    pub(super) fn put_table(&self, slot: u64, buffers: &[Buffer]) {
        let table = self.at(TABLES + slot * TABLE);
        for (index, buffer) in buffers.iter().enumerate() {
            let flags = if buffer.write { DESC_F_WRITE } else { 0 };
            let next = index + 1 < buffers.len();
            // SAFETY: the table has room for sixteen.
            unsafe {
                if self.rules.packed {
                    table.store_packed_addr(index, buffer.addr);
                    let element = Element { len: buffer.len, id: 0, flags };
                    table.store_packed_element(index, element, Ordering::Relaxed);
                } else {
                    let flags = if next { flags | DESC_F_NEXT } else { flags };
                    let desc =
                        Descriptor { addr: buffer.addr, len: buffer.len, flags, next: index as u16 + 1 };
                    table.store_descriptor(index, desc);
                }
            }
        }
    }

    /// Takes back what was used, and holds it against what was written.
    pub(super) fn poll(&mut self) {
        while let Some((id, len)) = self.driver.poll_used().expect("what was given") {
            let (slot, buffers, stamp) = self.out.remove(&id).expect("each chain comes back once");
            let received = self.received.remove(&slot);
            match self.direction {
                Direction::Read => {
                    assert_eq!(len, 0);
                    let known = self.sent.is_empty() || self.sent.contains_key(&stamp);
                    assert!(known, "the frame was sent before its buffer came back");
                }
                Direction::Write if len == 0 => self.empty += 1,
                Direction::Write => {
                    let mut bytes = Vec::new();
                    for buffer in &buffers {
                        let n = (buffer.len as usize).min(len as usize - bytes.len());
                        let mut part = vec![0; n];
                        // SAFETY: inside the slot.
                        unsafe { self.at(buffer.addr).copy_out(&mut part) };
                        bytes.extend(part);
                    }
                    assert_eq!(Some(bytes), received.or_else(|| self.expected.pop_front()));
                }
            }
            self.slots.push(slot);
            self.back += 1;
        }
    }

    /// A frame was read by whoever sends it.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let stamp = u64::from_le_bytes(bytes[12..20].try_into().unwrap());
        assert_eq!(bytes, frame(stamp, bytes.len()));
        *self.sent.entry(stamp).or_default() += 1;
    }

    /// Bytes of the chain added last.
    pub(super) fn last_len(&self) -> usize {
        self.last_len
    }

    /// The next frame that is received is to be this one, wherever it is put.
    pub(super) fn expect(&mut self, bytes: Vec<u8>) {
        self.expected.push_back(bytes);
    }

    /// A frame was written into the chain that begins at `addr`.
    pub(super) fn wrote(&mut self, addr: u64, bytes: Vec<u8>) {
        let before = self.received.insert((addr - BUFFERS) / SLOT, bytes);
        assert_eq!(before, None, "a frame was lost");
    }

    pub(super) fn image(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Pages in the log.
    pub(super) fn logged(&self) -> Vec<u64> {
        let mut bits = vec![0; (MEMORY / 4096 / 8) as usize];
        self.log_file.read_exact_at(&mut bits, 0).unwrap();
        (0..MEMORY / 4096).filter(|page| bits[*page as usize / 8] & 1 << (page % 8) != 0).collect()
    }
}

pub(super) fn frame(stamp: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend(stamp.to_le_bytes());
    bytes.extend((0..len).map(|i| (i as u64).wrapping_mul(stamp | 1) as u8));
    bytes.truncate(len);
    bytes
}
