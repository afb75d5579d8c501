//! Fetching pages of a guest's memory that arrive late, without lending anybody our address space.
//!
//! In a postcopy migration the front-end is given a userfaultfd (userfaultfd(2)) over a mapping of the guest's memory; whoever touches a page
//! there that has not arrived sleeps until the front-end has got it. Such a descriptor is no small gift: it reaches all of the
//! address space it was made in. Whoever holds it can have any thread there sleep in its own memory, and supply what pages hold that were never
//! touched before, those of other guests' shared memory among them.
//!
//! So it is made in a process of its own, the pager: forked for one guest, rid of every shared mapping, descriptor and
//! privilege, with nothing but this guest's memory mapped, and behind a filter of system calls (`filter`). It does nothing but touch a byte of each page that it is asked for and tell when
//! that has succeeded. Our own mapping of the memory is not registered with any userfaultfd: touching it never waits.
//!
//! ```text
//!   control thread ── fetch(address) ──▶ a thread of the pager ──touches──▶ fault ──▶ front-end gets the page
//!                  ◀── fetched() ──────      goes on        ◀─────────────── wakes ──┘
//! ```
//!
//! Several pages are fetched at a time; one that never comes holds up only what needs it until there are [`FETCHERS`] of them. Dropping the
//! pager kills it wherever it sleeps. A page it slept for stays missing, as it must: had the sleeper been let go instead, its
//! access would have put a page of zeros into the guest's memory.
//!
//! Cost: a fork, a process with a handful of pages of its own, two small messages per page.
#![expect(unsafe_code, reason = "forks, and passes descriptors of a process")]

mod child;
mod filter;

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, waitpid};

use filter::Filter;

/// Pages that are fetched at a time.
pub const FETCHERS: usize = 4;
/// How long the pager may take for what needs no page.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the pager is asked for by its control socket: which of these, and two numbers.
const MAP: u64 = 1;
const REGISTER: u64 = 2;
type Request = [u64; 3];
/// An error number or zero, and a number.
type Answer = [u64; 2];
/// By its other socket: an address and a tag; the same comes back.
type Page = [u64; 2];

/// A stretch of a file as the pager has it mapped. It stays mapped as long as the pager lives.
#[derive(Clone, Copy, Debug)]
pub struct PagedRange {
    /// Where the pager sees the first byte asked for.
    pub first: u64,
    /// Bytes of the pages of this file.
    pub page: u64,
    start: u64,
    len: u64,
}

/// A running pager. For one thread at a time.
#[derive(Debug)]
pub struct Pager {
    control: OwnedFd,
    pages: Arc<OwnedFd>,
    process: Pid,
    /// How it ended, once that has been found out.
    end: OnceCell<Option<WaitStatus>>,
}

/// Whether the kernel lets us have a userfaultfd. Asked once.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let fd = child::userfaultfd();
        if fd < 0 {
            return false;
        }
        // SAFETY: just made, and nobody else's.
        unsafe { libc::close(fd) };
        true
    })
}

fn as_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    let word = |at: usize| std::array::from_fn(|i| bytes[at + i]);
    [u64::from_ne_bytes(word(0)), u64::from_ne_bytes(word(8))]
}

impl Pager {
    /// Starts a pager. With it comes its userfaultfd, for the front-end.
    ///
    /// # Errors
    /// No process or descriptor is to be had, `/proc` is not there, or the kernel refuses a userfaultfd.
    pub fn start() -> io::Result<(Pager, OwnedFd)> {
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let ((control, its_control), (pages, its_pages)) = (pair()?, pair()?);
        set_socket_timeout(&control, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&control, Timeout::Send, Some(PATIENCE))?;
        let us = getpid().as_raw_pid();
        let filter = Filter::new(its_control.as_raw_fd(), its_pages.as_raw_fd())?;
        // SAFETY: the child calls nothing but what may be called after a fork of a process with threads, and never returns.
        let process = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => child::run(its_control.as_raw_fd(), its_pages.as_raw_fd(), us, filter),
            process => Pid::from_raw(process).ok_or(io::ErrorKind::InvalidData)?,
        };
        drop((its_control, its_pages));
        let pager = Pager { control, pages: Arc::new(pages), process, end: OnceCell::new() };
        let (_, descriptor) = pager.answer()?;
        let descriptor = descriptor.ok_or_else(|| pager.gone())?;
        Ok((pager, descriptor))
    }

    /// Ends the process, if it has not ended by itself, and says how it did.
    fn end(&self) -> Option<WaitStatus> {
        *self.end.get_or_init(|| {
            // Sleeping for a page, it can be killed and not be woken. If it is dead already, that says nothing new.
            let _ = kill_process(self.process, Signal::KILL);
            waitpid(Some(self.process), WaitOptions::empty()).ok().flatten().map(|(_, status)| status)
        })
    }

    /// What is wrong when the pager does not answer as it should.
    fn gone(&self) -> io::Error {
        let signal = self.end().and_then(|status| status.terminating_signal());
        let how = match signal {
            Some(libc::SIGSYS) => ": it was about to do what it must not (SIGSYS)".to_owned(),
            Some(libc::SIGBUS) => ": the memory's file has become shorter (SIGBUS)".to_owned(),
            Some(signal) => format!(" by signal {signal}"),
            None => String::new(),
        };
        io::Error::other(format!("the process that fetches the guest's pages has ended{how}"))
    }

    /// Maps `len` bytes from `offset` of a file.
    ///
    /// # Errors
    /// The file cannot be mapped, or the pager has ended.
    pub fn map(&self, file: &File, offset: u64, len: u64) -> io::Result<PagedRange> {
        let block = u64::try_from(rustix::fs::fstat(file)?.st_blksize).unwrap_or(0);
        // The block size of a hugetlbfs file is its page size.
        let page = if block.is_power_of_two() { block.max(4096) } else { 4096 };
        let from = offset & !(page - 1);
        let wraps = || io::Error::from(io::ErrorKind::InvalidInput);
        let end =
            offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(page)).ok_or_else(wraps)?;
        self.ask([MAP, from, end - from], Some(file.as_fd()))?;
        let (start, _) = self.answer()?;
        Ok(PagedRange { first: start + (offset - from), page, start, len: end - from })
    }

    /// From now on a page of this range that is missing is the userfaultfd's business.
    ///
    /// # Errors
    /// The kernel refuses, as for a file of a kind that has no such pages, or the pager has ended.
    pub fn register(&self, range: &PagedRange) -> io::Result<()> {
        self.ask([REGISTER, range.start, range.len], None)?;
        self.answer().map(drop)
    }

    fn ask(&self, request: Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptor) = &descriptor {
            ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
        }
        sendmsg(&self.control, &[IoSlice::new(&as_bytes(&request))], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn answer(&self) -> io::Result<(u64, Option<OwnedFd>)> {
        let mut bytes = [0; 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&self.control, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let mut descriptor = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptor = rights.last();
            }
        }
        let answer: Answer = words(bytes);
        match i32::try_from(answer[0]) {
            Ok(0) if got == bytes.len() => Ok((answer[1], descriptor)),
            Ok(error) if got == bytes.len() => Err(io::Error::from_raw_os_error(error)),
            _ => Err(self.gone()),
        }
    }

    /// Has the page at `address`, which lies in a registered range, fetched. False when that is to be tried later.
    ///
    /// # Errors
    /// The pager has ended.
    pub fn fetch(&self, address: u64, tag: u64) -> io::Result<bool> {
        let page: Page = [address, tag];
        match send(&*self.pages, &as_bytes(&page), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(_) => Err(self.gone()),
        }
    }

    /// The tag of a page that has been fetched, if there is one that was not told of yet. Never waits.
    ///
    /// # Errors
    /// The pager has ended.
    pub fn fetched(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0; 16];
        match recv(&*self.pages, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((16, _)) => Ok(Some(words(bytes)[1])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            _ => Err(self.gone()),
        }
    }

    /// Readable when [`Pager::fetched`] has something to tell.
    pub fn event(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pages)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.end();
    }
}

/// The front-end's side of a userfaultfd. For tests, which are front-ends.
#[doc(hidden)]
pub mod front_end {
    use super::*;

    /// Length of `struct uffd_msg`, and its kind that tells of a fault.
    const MESSAGE: usize = 32;
    const PAGE_FAULT: u8 = 0x12;
    /// `_IOR(0xaa, 2, struct uffdio_range)`.
    const WAKE: libc::c_ulong = 0x8010_aa02;

    /// The address of the next page that somebody waits for, if there is one.
    pub fn next_fault(userfaultfd: &OwnedFd) -> io::Result<Option<u64>> {
        let mut message = [0; MESSAGE];
        match rustix::io::read(userfaultfd, &mut message) {
            Ok(MESSAGE) if message[0] == PAGE_FAULT => {
                Ok(Some(u64::from_ne_bytes(std::array::from_fn(|i| message[16 + i]))))
            }
            Err(Errno::AGAIN) => Ok(None),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(e) => Err(e.into()),
        }
    }

    /// Lets those go on who wait for the page at `address`.
    pub fn wake(userfaultfd: &OwnedFd, address: u64, len: u64) -> io::Result<()> {
        let range = [address, len];
        // SAFETY: the kernel reads the two words of a local.
        let result = unsafe { libc::ioctl(userfaultfd.as_raw_fd(), WAKE, range.as_ptr()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const PAGE: u64 = 4096;

    fn memory(pages: u64) -> File {
        let file: File = memfd_create("pager-test", MemfdFlags::CLOEXEC).unwrap().into();
        file.set_len(pages * PAGE).unwrap();
        file
    }

    fn becomes_readable(fd: impl AsFd) {
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1));
    }

    fn fault(userfaultfd: &OwnedFd) -> u64 {
        becomes_readable(userfaultfd);
        front_end::next_fault(userfaultfd).unwrap().unwrap()
    }

    #[test]
    fn pages_are_fetched_and_those_that_never_come_stay_missing() {
        assert!(available());
        let file = memory(8);
        file.write_all_at(b"here", 5 * PAGE).unwrap();
        let (pager, faults) = Pager::start().unwrap();
        let range = pager.map(&file, PAGE, 7 * PAGE).unwrap();
        pager.register(&range).unwrap();
        // Two that are not there, and one that is.
        for page in [1, 2, 4] {
            assert!(pager.fetch(range.first + page * PAGE, page).unwrap());
        }
        becomes_readable(&*pager.event());
        assert_eq!(pager.fetched().unwrap(), Some(4));
        let mut missing = [fault(&faults), fault(&faults)];
        missing.sort_unstable();
        assert_eq!(missing, [1, 2].map(|page| range.first + page * PAGE));
        assert_eq!(pager.fetched().unwrap(), None);
        // One of them arrives.
        file.write_all_at(b"late", 2 * PAGE).unwrap();
        front_end::wake(&faults, range.first + PAGE, PAGE).unwrap();
        becomes_readable(&*pager.event());
        assert_eq!(pager.fetched().unwrap(), Some(1));
        // The other one does not, and nobody waits for it for ever.
        let begun = Instant::now();
        let process = pager.process;
        drop(pager);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(kill_process(process, Signal::KILL).is_err(), "it has ended");
        let data = |from| rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(from)).unwrap();
        assert_eq!((data(0), data(3 * PAGE)), (2 * PAGE, 5 * PAGE), "only what was put there is there");
    }

    #[test]
    fn pager_has_no_memory_of_others_and_few_descriptors() {
        let (secret, file) = (memory(16), memory(1));
        let shared = crate::sys::ring_map::RingMap::of(&secret, 0, 16 * PAGE as usize).unwrap();
        let (pager, _faults) = Pager::start().unwrap();
        pager.map(&file, 0, PAGE).unwrap();
        let proc = format!("/proc/{}", pager.process.as_raw_pid());
        let maps = std::fs::read_to_string(format!("{proc}/maps")).unwrap();
        let shared_maps = maps.lines().filter(|l| l.split(' ').nth(1).is_some_and(|p| p.ends_with('s')));
        assert_eq!(shared_maps.count(), 1, "{maps}");
        // Two sockets, the userfaultfd.
        assert_eq!(std::fs::read_dir(format!("{proc}/fd")).unwrap().count(), 3);
        for thread in std::fs::read_dir(format!("{proc}/task")).unwrap() {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        }
        if rustix::process::geteuid().is_root() {
            let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        }
        drop(shared);
    }

    #[test]
    fn death_of_the_pager_is_seen() {
        let file = memory(1);
        let (pager, _faults) = Pager::start().unwrap();
        let range = pager.map(&file, 0, PAGE).unwrap();
        pager.register(&range).unwrap();
        // Beyond the file's end.
        file.set_len(0).unwrap();
        assert!(pager.fetch(range.first, 0).unwrap());
        becomes_readable(&*pager.event());
        assert!(pager.fetched().unwrap_err().to_string().contains("SIGBUS"));
        assert!(pager.map(&file, 0, PAGE).is_err());
    }

    /// A request that makes the pager do what it must not: one of so many things.
    pub(super) const FORBIDDEN: u64 = 99;
    const WAYS_OUT: u64 = 6;

    pub(super) fn break_out(way: u64) {
        let (all, private) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: numbers and constants only, and whatever succeeds is a failure of the test.
        unsafe {
            match way {
                0 => _ = libc::open(c"/".as_ptr(), libc::O_RDONLY),
                1 => _ = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
                2 => _ = libc::syscall(libc::SYS_fork),
                3 => _ = libc::kill(libc::getppid(), 0),
                4 => _ = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC),
                5 => _ = libc::mmap(std::ptr::null_mut(), 4096, all, private, -1, 0),
                _ => {}
            }
        }
    }

    #[test]
    fn pager_that_does_what_it_must_not_is_killed_and_its_death_told() {
        for way in 0..WAYS_OUT {
            let (pager, _faults) = Pager::start().unwrap();
            // It can do its work, and even that request is no harm by itself.
            let range = pager.map(&memory(1), 0, PAGE).unwrap();
            pager.register(&range).unwrap();
            pager.ask([FORBIDDEN, WAYS_OUT, 0], None).unwrap();
            pager.map(&memory(1), 0, PAGE).unwrap();
            pager.ask([FORBIDDEN, way, 0], None).unwrap();
            becomes_readable(&*pager.event());
            let error = pager.fetched().unwrap_err().to_string();
            assert!(error.contains("SIGSYS"), "{way}: {error}");
        }
    }
}
