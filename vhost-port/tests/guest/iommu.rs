//! The IOMMU of a test's guest, and the part of its front-end that answers for it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags, mmap};
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use super::{MEMORY, SPLIT, UVA};

pub(crate) const PAGE: u64 = 4096;
const PAGES: u64 = MEMORY / PAGE;
const READ_WRITE: u8 = 3;

/// Pages of the guest lie in its memory in disorder, so that nothing longer than one is in one piece there.
pub(crate) struct Iommu {
    /// The front-end's socket, for messages that the crate does not know.
    socket: UnixStream,
    channel: UnixStream,
    /// Page of the memory for each page of the guest.
    table: Vec<u64>,
}

impl Iommu {
    pub(crate) fn new(frontend: &mut Frontend) -> Iommu {
        use std::os::fd::AsRawFd;
        // SAFETY: open as long as the front-end is.
        let socket = unsafe { BorrowedFd::borrow_raw(frontend.as_raw_fd()) }.try_clone_to_owned().unwrap();
        let (channel, theirs) = UnixStream::pair().unwrap();
        frontend.set_backend_request_fd(&theirs).unwrap();
        // Odd, so every page has its place.
        let table = (0..PAGES).map(|page| (page * 1237 + 11) % PAGES).collect();
        Iommu { socket: socket.into(), channel, table }
    }

    /// Maps the guest's memory as the guest sees it at `base`.
    pub(crate) fn map_all(&self, file: &File, base: NonNull<u8>) {
        (0..PAGES).for_each(|page| self.map(file, base, page));
    }

    fn map(&self, file: &File, base: NonNull<u8>, page: u64) {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: inside the guest's mapping, which only raw accesses reach.
        let done = unsafe {
            let at = base.add((page * PAGE) as usize).as_ptr().cast();
            mmap(at, PAGE as usize, prot, flags, file, self.table[page as usize] * PAGE)
        };
        done.unwrap();
    }

    /// Swaps where two pages lie. The port has to be told.
    pub(crate) fn swap(&mut self, file: &File, base: NonNull<u8>, one: u64, other: u64) {
        self.table.swap((one / PAGE) as usize, (other / PAGE) as usize);
        self.map(file, base, one / PAGE);
        self.map(file, base, other / PAGE);
    }

    /// Where an address is in the memory's file.
    pub(crate) fn offset(&self, iova: u64) -> u64 {
        self.table[(iova / PAGE) as usize] * PAGE + iova % PAGE
    }

    /// The front-end's address of what the guest has at `iova`.
    pub(crate) fn uva(&self, iova: u64) -> u64 {
        let gpa = self.offset(iova);
        UVA[usize::from(gpa >= SPLIT)] + gpa % SPLIT
    }

    /// Sends an IOTLB message. Whether it was acknowledged as done.
    pub(crate) fn tell(&mut self, iova: u64, size: u64, uva: u64, perm: u8, kind: u8) -> bool {
        let mut message = Vec::new();
        [22u32, 9, 32].into_iter().for_each(|word| message.extend(word.to_le_bytes()));
        [iova, size, uva].into_iter().for_each(|word| message.extend(word.to_le_bytes()));
        message.extend([perm, kind, 0, 0, 0, 0, 0, 0]);
        self.socket.write_all(&message).unwrap();
        let mut reply = [0; 20];
        self.socket.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..12], [22, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]);
        reply[12..] == [0; 8]
    }

    /// Tells the translation of a page.
    pub(crate) fn update(&mut self, iova: u64) {
        let page = iova / PAGE * PAGE;
        assert!(self.tell(page, PAGE, self.uva(page), READ_WRITE, 2));
    }

    /// Takes translations back.
    pub(crate) fn invalidate(&mut self, iova: u64, size: u64) {
        assert!(self.tell(iova, size, 0, 0, 3));
    }

    /// The next page that the port misses, and for what.
    fn missed_next(&mut self) -> Option<(u64, u8)> {
        let mut message = [0; 44];
        match self.channel.read_exact(&mut message) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
            other => other.expect("the back-end's channel is open"),
        }
        assert_eq!(message[..12], [1, 0, 0, 0, 1, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(message[37], 1, "a miss");
        Some((u64::from_le_bytes(message[12..20].try_into().unwrap()), message[36]))
    }

    /// Pages that the port misses: waits for one, then all that are there.
    pub(crate) fn missed(&mut self) -> Vec<(u64, u8)> {
        self.channel.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let first = self.missed_next().expect("the port misses something");
        [vec![first], self.missed_now()].concat()
    }

    /// Pages that the port misses, as far as it has said so.
    pub(crate) fn missed_now(&mut self) -> Vec<(u64, u8)> {
        self.channel.set_nonblocking(true).unwrap();
        let missed = std::iter::from_fn(|| self.missed_next()).collect();
        self.channel.set_nonblocking(false).unwrap();
        missed
    }

    /// Answers misses there are.
    pub(crate) fn answer_now(&mut self) {
        for (page, _) in self.missed_now() {
            self.update(page);
        }
    }

    /// Waits for misses and answers them.
    pub(crate) fn answer(&mut self) {
        for (page, _) in self.missed() {
            self.update(page);
        }
    }
}
