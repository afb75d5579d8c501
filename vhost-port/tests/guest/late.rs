//! Memory that arrives late: the front-end of a guest that runs here before all of it has (postcopy).

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use pmd::sys::pager::front_end::{next_fault, wake};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

use super::raw::{NEED_REPLY, PLAIN, message};
use super::{Guest, MEMORY, SPLIT, UVA, negotiate};

const PAGE: u64 = 4096;
const ADVISE: u32 = 28;
const LISTEN: u32 = 29;
const END: u32 = 30;
const SET_MEM_TABLE: u32 = 5;
const ADD_MEM_REG: u32 = 37;

/// What is still at the guest's old home.
pub(crate) struct Late {
    socket: UnixStream,
    file: File,
    /// The memory as it was when the guest left.
    pub(crate) source: Vec<u8>,
    /// Pages that have arrived.
    arrived: Vec<bool>,
    faults: OwnedFd,
    /// Where the port says it has the two regions.
    bases: [u64; 2],
}

impl Guest {
    /// A guest that has done at its old home what `before` does, and arrives without its memory.
    pub(crate) fn arrive(
        path: &Path,
        features: u64,
        rings: usize,
        slots: bool,
        before: impl FnOnce(&mut Guest),
    ) -> (Guest, Late) {
        let mut frontend = Frontend::connect(path, rings as u64).unwrap();
        negotiate(&mut frontend, features);
        let mut guest = Guest::unplugged(frontend, features, rings, super::RING_SIZE);
        before(&mut guest);
        let late = Late::begin(&guest, slots);
        guest.frontend.set_features(features).unwrap();
        for index in 0..rings {
            guest.start_ring(index, guest.first_base());
            guest.enable(index, true);
        }
        (guest, late)
    }
}

impl Late {
    fn begin(guest: &Guest, slots: bool) -> Late {
        use std::os::fd::AsRawFd;
        let source = guest.read(0, MEMORY as usize);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&guest.file, punch, 0, MEMORY).unwrap();
        // SAFETY: open as long as the front-end is.
        let socket = unsafe { BorrowedFd::borrow_raw(guest.frontend.as_raw_fd()) };
        let mut socket = UnixStream::from(socket.try_clone_to_owned().unwrap());
        let (body, faults) = ask(&mut socket, ADVISE, PLAIN, &[], &[], 0);
        assert_eq!(body, []);
        let file = guest.file.try_clone().unwrap();
        let arrived = vec![false; (MEMORY / PAGE) as usize];
        let faults = faults.expect("a userfaultfd");
        let mut late = Late { socket, file, source, arrived, faults, bases: [0; 2] };
        assert_eq!(late.ask(LISTEN, NEED_REPLY, &[], 8), [0; 8]);
        late.tell_memory(slots);
        late
    }

    fn ask(&mut self, code: u32, flags: u32, body: &[u8], answer: usize) -> Vec<u8> {
        ask(&mut self.socket, code, flags, body, &[], answer).0
    }

    /// Says where memory is, by one message or by one for each region, and that faults are handled now.
    fn tell_memory(&mut self, slots: bool) {
        let region = |i: u64| [i * SPLIT, SPLIT, UVA[i as usize], i * SPLIT];
        let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let (code, bodies) = if slots {
            let bodies = [0, 1].map(|i| bytes(&[&[0], &region(i)[..]].concat()));
            (ADD_MEM_REG, bodies.to_vec())
        } else {
            (SET_MEM_TABLE, vec![bytes(&[&[2], &region(0)[..], &region(1)].concat())])
        };
        let mut bases = Vec::new();
        for body in &bodies {
            let files = vec![self.file.as_fd(); body.len() / 32];
            let (answer, _) = ask(&mut self.socket, code, PLAIN, body, &files, body.len());
            for (told, asked) in answer[8..].chunks(32).zip(body[8..].chunks(32)) {
                assert_eq!((&told[..16], &told[24..]), (&asked[..16], &asked[24..]));
                bases.push(u64::from_le_bytes(told[16..24].try_into().unwrap()));
            }
        }
        self.bases = bases.try_into().unwrap();
        self.socket.write_all(&message(code, PLAIN, &[0; 8])).unwrap();
    }

    /// The guest address of the next page that the port waits for.
    pub(crate) fn fault(&self) -> u64 {
        let long = Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut fds = [PollFd::from_borrowed_fd(self.faults.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&long)), Ok(1), "the port waits for a page");
        self.fault_now().unwrap()
    }

    /// The same, if there is one by now.
    pub(crate) fn fault_now(&self) -> Option<u64> {
        let address = next_fault(&self.faults).unwrap()?;
        let region = self.bases.iter().position(|base| address.wrapping_sub(*base) < SPLIT);
        let region = region.expect("a fault in a region");
        Some(address - self.bases[region] + region as u64 * SPLIT)
    }

    /// A page arrives, and whoever waits for it goes on.
    pub(crate) fn deliver(&mut self, gpa: u64) {
        let page = (gpa / PAGE) as usize;
        if !std::mem::replace(&mut self.arrived[page], true) {
            let at = page * PAGE as usize;
            self.file.write_all_at(&self.source[at..at + PAGE as usize], at as u64).unwrap();
        }
        let gpa = page as u64 * PAGE;
        wake(&self.faults, self.bases[(gpa / SPLIT) as usize] + gpa % SPLIT, PAGE).unwrap();
    }

    /// The rest arrives, and the port is told.
    pub(crate) fn end(&mut self) {
        self.only_what_arrived_is_there();
        (0..MEMORY / PAGE).for_each(|page| self.deliver(page * PAGE));
        assert_eq!(self.ask(END, NEED_REPLY, &[], 8), [0; 8]);
    }

    /// Nobody has touched a page too early: it would be there, full of zeros, and what is on its way would be lost.
    pub(crate) fn only_what_arrived_is_there(&self) {
        for (page, arrived) in (0..).zip(&self.arrived) {
            let at = page * PAGE;
            let there = seek(&self.file, SeekFrom::Data(at)).is_ok_and(|data| data == at);
            assert_eq!(there, *arrived, "page {at:#x}");
        }
    }
}

/// Sends a message and reads its answer: so many bytes, and a descriptor.
fn ask(
    socket: &mut UnixStream,
    code: u32,
    flags: u32,
    body: &[u8],
    files: &[BorrowedFd<'_>],
    answer: usize,
) -> (Vec<u8>, Option<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(files.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(files)));
    let bytes = message(code, flags, body);
    sendmsg(&*socket, &[std::io::IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut header = [0; 12];
    let into = &mut [std::io::IoSliceMut::new(&mut header)];
    assert_eq!(recvmsg(&*socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes, 12);
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => rights.last(),
        _ => None,
    });
    let mut body = vec![0; answer];
    socket.read_exact(&mut body).unwrap();
    let words = [code, 5, answer as u32].map(u32::to_le_bytes);
    assert_eq!(header[..], *words.as_flattened());
    (body, descriptor)
}
