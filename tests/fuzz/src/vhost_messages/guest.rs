//! A front-end's memory, rings and descriptors: those that messages want, and those that they do not.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

pub(super) const PAIRS: u16 = 2;
/// The guest's memory: four regions of a quarter each, side by side in the guest.
const MEMORY: u64 = 0x4_0000;
pub(super) const REGION: u64 = MEMORY / 4;
pub(super) const UVA: u64 = 0x7000_0000_0000;
pub(super) const RING_SIZE: u16 = 8;
/// Every ring has this much, then come buffers.
pub(super) const RING_AREA: u64 = 0x1000;
pub(super) const AVAIL: u64 = 0x400;
pub(super) const USED: u64 = 0x800;
const BUFFERS: u64 = 0x8000;
const BUFFER: u64 = 0x1000;
/// Length of a file that holds a dirty log of that memory, or what is in flight.
pub(super) const RECORD: u64 = 0x4000;

/// Kinds of descriptors, by the message that wants them.
pub(super) const EVENT: u8 = 0;
pub(super) const MEMORY_FILE: u8 = 4;
/// The back-end's channel.
pub(super) const CHANNEL: u8 = 7;
/// The end to write, by which a device's state usually travels.
pub(super) const PIPE: u8 = 8;
/// A dirty log, or a buffer for what is in flight.
pub(super) const RECORD_FILE: u8 = 11;
/// A device's state, for the port to go on from.
pub(super) const STATE: u8 = 17;
/// All of them; those not named above are wrong everywhere.
pub(super) const KINDS: u8 = 18;

/// What a front-end has to send.
pub(super) struct Guest {
    pub(super) memory: File,
    event: OwnedFd,
    short: File,
    pipe: (OwnedFd, OwnedFd),
    directory: File,
    /// The back-end's channel, and the end that nobody reads.
    channel: (UnixStream, UnixStream),
    record: File,
    /// As long as a record, and nobody may write to it, shrink it or make it grow.
    sealed: File,
    /// The memory, for reading.
    read_only: File,
    device: File,
    /// Longer than all memory of this machine, and empty.
    endless: File,
    full: OwnedFd,
    /// What another back-end has left of a device, all of it.
    state: OwnedFd,
}

/// A device's state: mark, version, VERSION_1, status 15, MTU 1400, an address.
fn device_state() -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(b"vsns\x01\0\0\0");
    bytes[8..16].copy_from_slice(&(1u64 << 32).to_le_bytes());
    bytes[16] = 15;
    bytes[24..26].copy_from_slice(&1400u16.to_le_bytes());
    bytes[26..33].copy_from_slice(&[1, 2, 0, 0, 0, 0, 9]);
    bytes
}

fn file(name: &str, len: u64) -> File {
    let file: File = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap().into();
    file.set_len(len).unwrap();
    file
}

impl Guest {
    pub(super) fn new() -> Guest {
        let memory = file("guest", MEMORY);
        for ring in 0..u64::from(PAIRS) * 2 {
            write_ring(&memory, ring);
        }
        let sealed = file("sealed", RECORD);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&sealed, seals).unwrap();
        let read_only = {
            use std::os::fd::AsRawFd;
            File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap()
        };
        let full = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let pipe = rustix::pipe::pipe().unwrap();
        let (state, writer) = rustix::pipe::pipe().unwrap();
        File::from(writer).write_all(&device_state()).unwrap();
        Guest {
            memory,
            event: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            short: file("short", 100),
            pipe,
            directory: File::open("/").unwrap(),
            channel: UnixStream::pair().unwrap(),
            record: file("record", RECORD),
            sealed,
            read_only,
            device: File::open("/dev/zero").unwrap(),
            endless: file("endless", 1 << 50),
            full,
            state,
        }
    }

    pub(super) fn descriptor(&self, kind: u8) -> BorrowedFd<'_> {
        match kind % KINDS {
            0..=3 => self.event.as_fd(),
            4 | 5 => self.memory.as_fd(),
            6 => self.short.as_fd(),
            7 => self.channel.0.as_fd(),
            8 => self.pipe.1.as_fd(),
            9 => self.pipe.0.as_fd(),
            10 => self.directory.as_fd(),
            11 => self.record.as_fd(),
            12 => self.sealed.as_fd(),
            13 => self.read_only.as_fd(),
            14 => self.device.as_fd(),
            15 => self.endless.as_fd(),
            16 => self.full.as_fd(),
            _ => self.state.as_fd(),
        }
    }
}

/// A ring with all its descriptors offered, each a buffer of its own: to be filled in even rings, with frames in odd ones.
fn write_ring(memory: &File, ring: u64) {
    let base = ring * RING_AREA;
    let mut table = Vec::new();
    let mut avail = vec![0, 0];
    avail.extend(RING_SIZE.to_le_bytes());
    for index in 0..RING_SIZE {
        let (len, flags) =
            if ring.is_multiple_of(2) { (1000u32, 2u16) } else { (72 + u32::from(index) * 100, 0) };
        table.extend((BUFFERS + ring * BUFFER + u64::from(index) * 64).to_le_bytes());
        table.extend(len.to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend([0, 0]);
        avail.extend(index.to_le_bytes());
    }
    memory.write_all_at(&table, base).unwrap();
    memory.write_all_at(&avail, base + AVAIL).unwrap();
    // In the first two rings the buffers' pages are there; in the others they are missing in a postcopy migration.
    if ring < 2 {
        memory.write_all_at(&[0; 2 * BUFFER as usize], BUFFERS + ring * BUFFER).unwrap();
    }
}
