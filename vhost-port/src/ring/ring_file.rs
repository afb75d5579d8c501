//! The file in which a port keeps what its rings need to survive it: one [`Record`] each.
//!
//! ```text
//!   0      magic, version, rings, boot id
//!   4096   record of ring 0, of ring 1, ...
//! ```
//!
//! Mapped and never written back by us: it has to outlive the process, not the machine, and belongs on a tmpfs. What it says of a machine
//! that has been started since is of no ring, so it is emptied then. It is input: another version, another layout, or a
//! wrong length make it as good as none. A lock keeps a second process out; the kernel lets go of it when all threads of the first are gone.
//!
//! Without a file (none configured, or it cannot be had) the records lie in anonymous memory. That is enough for a front-end that
//! comes back to the same process.
#![expect(unsafe_code, reason = "records lie in a mapping")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pmd::sys::map::SharedMap;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock, ftruncate};

use super::journal::Record;
use crate::config::VhostConfig;

const MAGIC: u64 = u64::from_le_bytes(*b"VSWRINGS");
/// Changes with the layout of [`Record`].
const VERSION: u64 = 1;
/// Where records begin.
const RECORDS: usize = 4096;
/// How often and at what interval a locked file is tried: a killed process takes a moment to be gone.
const TRIES: (u32, Duration) = (40, Duration::from_millis(50));

/// What a file begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Header([u64; 5]);

impl Header {
    fn new(rings: usize, boot: [u64; 2]) -> Header {
        Header([MAGIC, VERSION, rings as u64, boot[0], boot[1]])
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RingFile {
    map: SharedMap,
    rings: usize,
    /// Why it ends with the process although it should not.
    unkept: Option<String>,
}

impl RingFile {
    /// The records of a port. When the file that is asked for cannot be had, they end with the process: a guest's network is worth
    /// more than what becomes of it when the switch dies.
    pub(crate) fn for_port(config: &VhostConfig) -> io::Result<RingFile> {
        let rings = usize::from(config.max_queue_pairs) * 2;
        let Some(path) = &config.ring_file else { return RingFile::anonymous(rings) };
        RingFile::open(path, rings).or_else(|e| {
            let what = format!("cannot use {}: {e}", path.display()); // tidy: once per port
            log::warn!("{}: packed rings will not survive the switch: {what}", config.name); // tidy: once per port
            Ok(RingFile { unkept: Some(what), ..RingFile::anonymous(rings)? })
        })
    }

    /// Records that end with the process.
    pub(crate) fn anonymous(rings: usize) -> io::Result<RingFile> {
        Ok(RingFile { map: SharedMap::create("rings", len_of(rings), false)?, rings, unkept: None })
    }

    /// Why the records end with the process, if they should not.
    pub(crate) fn unkept(&self) -> Option<&str> {
        self.unkept.as_deref()
    }

    /// Opens or makes the file at `path`, and its folder. What is of no use in it is emptied.
    fn open(path: &Path, rings: usize) -> io::Result<RingFile> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it is no file of this user's"));
        }
        lock(&file)?;
        let len = len_of(rings) as u64;
        if meta.len() != len {
            // Both ways through zero, so that nothing of the old content stays.
            ftruncate(&file, 0)?;
            ftruncate(&file, len)?;
        }
        // A store to a page that the file system then has no room for would end the process.
        fallocate(&file, FallocateFlags::empty(), 0, len)?;
        let file = RingFile { map: SharedMap::of(file.into(), len as usize)?, rings, unkept: None };
        file.check(Header::new(rings, boot_id()?));
        Ok(file)
    }

    /// Empties the file, unless it begins as it should.
    fn check(&self, header: Header) {
        // SAFETY: the mapping is page-aligned and longer than the header.
        let words: [&AtomicU64; 5] = std::array::from_fn(|i| unsafe {
            AtomicU64::from_ptr(self.map.start().cast::<u64>().add(i).as_ptr())
        });
        if words.map(|word| word.load(Ordering::Relaxed)) == header.0 {
            return;
        }
        // The magic number last: a death in between leaves a file that is emptied again.
        words[0].store(0, Ordering::Release);
        (0..self.rings).for_each(|index| self.record(index).forget());
        for (word, value) in words.into_iter().zip(header.0).rev() {
            word.store(value, Ordering::Release);
        }
    }

    /// Forgets ring `index`: whoever starts it next says where it stands.
    pub(crate) fn forget(&self, index: usize) {
        self.record(index).forget();
    }

    /// The record of ring `index`, of which there is one: the port has this many rings.
    pub(super) fn record(&self, index: usize) -> &Record {
        assert!(index < self.rings, "ring {index} of {}", self.rings);
        let at: NonNull<Record> = self.record_at(index);
        // SAFETY: inside the mapping, aligned because the mapping is by pages and records have the size of whole lines; all atomics.
        unsafe { at.as_ref() }
    }

    fn record_at(&self, index: usize) -> NonNull<Record> {
        // SAFETY: the caller's index is below `rings`, for which the mapping is long enough.
        unsafe { self.map.start().add(RECORDS).cast::<Record>().add(index) }
    }
}

fn len_of(rings: usize) -> usize {
    (RECORDS + rings * size_of::<Record>()).next_multiple_of(4096)
}

fn lock(file: &File) -> io::Result<()> {
    for _ in 0..TRIES.0 {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(TRIES.1), // tidy: when a port opens
            other => return other.map_err(io::Error::from),
        }
    }
    Err(io::Error::other("another process uses it"))
}

/// Says which start of the machine this is.
fn boot_id() -> io::Result<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| digits.get(range).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let halves = half(0..16).zip(half(16..32));
    halves.map(|(a, b)| [a, b]).ok_or_else(|| io::Error::other("the kernel's boot id is none"))
}
