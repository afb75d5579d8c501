//! The pager's process.
//!
//! It is forked from a process with threads, so whatever another thread was doing, holding the allocator's lock say, it will be doing for
//! ever: nothing here allocates, panics or logs, and all of libc that is called is a bare system call. Errors end the process; the
//! other end of its sockets sees that.

use core::ffi::{c_int, c_void};
use core::mem::size_of;
use core::ptr::{null, null_mut};

use super::filter::Filter;
use super::{Answer, FETCHERS, MAP, Page, REGISTER, Request};

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)` and `_IOWR(0xaa, 0, struct uffdio_register)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
pub(super) const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;
/// Faults of the kernel, which nobody makes here, are not ours to have others wait for; so no privilege is needed.
const USER_MODE_ONLY: c_int = 1;
/// Bytes of a fetching thread's stack.
const STACK: usize = 64 << 10;
/// Private memory of at least so much is nothing that is needed here: tables, and the allocator's arenas.
const LARGE: usize = 2 << 20;
/// Nobody, as user and group.
const NOBODY: libc::c_uint = 65_534;

/// Makes a userfaultfd over the calling process's memory. Negative when there is none.
pub(super) fn userfaultfd() -> c_int {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
    // SAFETY: takes a number; makes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) as c_int };
    if fd < 0 {
        return fd;
    }
    let mut api = [UFFD_API, 0, 0];
    // SAFETY: the kernel reads and writes the three words of a local.
    if unsafe { libc::ioctl(fd, UFFDIO_API, api.as_mut_ptr()) } < 0 {
        // SAFETY: just made.
        unsafe { libc::close(fd) };
        return -1;
    }
    fd
}

/// Ends this process, all its threads.
fn exit() -> ! {
    // SAFETY: does not return, and runs nothing of what a process does when it ends in good order.
    unsafe { libc::_exit(1) }
}

/// All there is to be done in the new process.
pub(super) fn run(control: c_int, pages: c_int, parent: c_int, filter: Filter) -> ! {
    become_harmless(control, pages);
    let faults = userfaultfd();
    if faults < 0 {
        answer(control, [last_error(), 0], None);
        exit();
    }
    drop_privileges(parent);
    for _ in 0..FETCHERS {
        start_fetcher(pages);
    }
    if !confine(&filter) {
        answer(control, [last_error(), 0], None);
        exit();
    }
    answer(control, [0, 0], Some(faults));
    serve(control, faults)
}

/// Default signals, no descriptors but the two, no memory that others see.
fn become_harmless(control: c_int, pages: c_int) {
    for signal in [libc::SIGBUS, libc::SIGSEGV, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: the default action of a signal.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let (low, high) = (control.min(pages), control.max(pages));
    for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, c_int::MAX)] {
        if first <= last {
            // SAFETY: nobody here uses any of these descriptors again.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
    // What is left of shared memory after one pass would be there after the next one too.
    if !unmap_inherited() || !unmap_inherited() {
        exit();
    }
}

/// A line of `/proc/self/maps` as far as it has been read.
#[derive(Clone, Copy, Default)]
struct Line {
    start: usize,
    end: usize,
    /// Which part of the line: start, end, permissions, the rest.
    part: u8,
    shared: bool,
    named: bool,
}

impl Line {
    fn read(&mut self, byte: u8) {
        match (self.part, byte) {
            (0, b'-') | (1 | 2, b' ') => self.part += 1,
            (0, digit) => self.start = self.start << 4 | hex(digit),
            (1, digit) => self.end = self.end << 4 | hex(digit),
            (2, b's') => self.shared = true,
            (3, b'/' | b'[') => self.named = true,
            _ => {}
        }
    }

    fn has(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }
}

fn hex(digit: u8) -> usize {
    usize::from(if digit.is_ascii_digit() { digit - b'0' } else { (digit | 32).wrapping_sub(b'a' - 10) & 15 })
}

/// Unmaps what is shared with anybody, and large memory of our own. False when it cannot be found.
fn unmap_inherited() -> bool {
    // SAFETY: a path that ends with a zero.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return false;
    }
    let mut buffer = [0u8; 1024];
    let here = (&raw const buffer).addr();
    let mut line = Line::default();
    loop {
        // SAFETY: reads into a local. The kernel goes on by address, whatever was unmapped meanwhile.
        let got = unsafe { libc::read(maps, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Some(text) = usize::try_from(got).ok().and_then(|got| buffer.get(..got)) else { return false };
        if text.is_empty() {
            break;
        }
        for &byte in text {
            if byte != b'\n' {
                line.read(byte);
                continue;
            }
            let large = !line.named && line.end.wrapping_sub(line.start) >= LARGE;
            if (line.shared || large) && !line.has(here) {
                // SAFETY: nothing of it is used in this process.
                let done = unsafe {
                    libc::munmap(core::ptr::with_exposed_provenance_mut(line.start), line.end - line.start)
                };
                if done < 0 {
                    return false;
                }
            }
            line = Line::default();
        }
    }
    // SAFETY: opened above.
    unsafe { libc::close(maps) };
    true
}

/// Becomes nobody, if we may, and dies with the thread that forked us.
fn drop_privileges(parent: c_int) {
    // SAFETY: numbers only. Bare system calls: libc's own would look after threads that are not there.
    unsafe {
        if libc::geteuid() == 0 {
            libc::syscall(libc::SYS_setgroups, 0, null::<u32>());
            let done = libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY)
                | libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY);
            if done < 0 {
                exit();
            }
        }
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"pager".as_ptr());
        // After the change of user, which clears it.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            exit();
        }
    }
}

/// From now on all threads of this process can do what the filter lets them, and nothing else.
fn confine(filter: &Filter) -> bool {
    let program = libc::sock_fprog { len: filter.len, filter: filter.program.as_ptr().cast_mut() };
    let (set, all_threads) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the kernel reads a program that lives until the call returns.
    unsafe { libc::syscall(libc::SYS_seccomp, set, all_threads, &raw const program) == 0 }
}

fn last_error() -> u64 {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() as u64 }
}

/// Room for one descriptor beside a message, aligned as its header.
type Ancillary = [u64; 4];

fn message(vector: &mut libc::iovec, ancillary: &mut Ancillary) -> libc::msghdr {
    // SAFETY: plain data; all-zero is valid.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Ancillary>();
    message
}

/// Sends an answer, with a descriptor if there is one.
fn answer(control: c_int, mut answer: Answer, descriptor: Option<c_int>) {
    let mut vector = libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: size_of::<Answer>() };
    let mut ancillary: Ancillary = [0; 4];
    let mut message = message(&mut vector, &mut ancillary);
    if let Some(descriptor) = descriptor {
        const LEN: u32 = size_of::<c_int>() as u32;
        // SAFETY: the room is there, and aligned.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(LEN) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(LEN) as usize;
            libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(descriptor);
        }
    } else {
        message.msg_controllen = 0;
    }
    // SAFETY: all that the message names lives until the call returns.
    if unsafe { libc::sendmsg(control, &raw const message, libc::MSG_NOSIGNAL) } < 0 {
        exit();
    }
}

/// Does what comes by the control socket.
fn serve(control: c_int, faults: c_int) -> ! {
    loop {
        let mut request: Request = [0; 3];
        let mut vector = libc::iovec { iov_base: request.as_mut_ptr().cast(), iov_len: size_of::<Request>() };
        let mut ancillary: Ancillary = [0; 4];
        let mut message = message(&mut vector, &mut ancillary);
        // SAFETY: as in `answer`.
        let got = unsafe { libc::recvmsg(control, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if got != size_of::<Request>() as isize {
            exit();
        }
        // SAFETY: the kernel has filled in what it says is there.
        let descriptor = unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if header.is_null() { -1 } else { libc::CMSG_DATA(header).cast::<c_int>().read_unaligned() }
        };
        let [what, first, second] = request;
        match what {
            MAP => answer(control, map(descriptor, first, second), None),
            REGISTER => answer(control, register(faults, first, second), None),
            #[cfg(test)]
            super::tests::FORBIDDEN => super::tests::break_out(first),
            _ => exit(),
        }
    }
}

fn map(file: c_int, offset: u64, len: u64) -> Answer {
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start =
        unsafe { libc::mmap(null_mut(), len as usize, libc::PROT_READ, flags, file, offset as libc::off_t) };
    let answer =
        if start == libc::MAP_FAILED { [last_error(), 0] } else { [0, start.expose_provenance() as u64] };
    // SAFETY: came with the message; the mapping keeps the file.
    unsafe { libc::close(file) };
    answer
}

fn register(faults: c_int, start: u64, len: u64) -> Answer {
    let mut request = [start, len, REGISTER_MODE_MISSING, 0];
    // SAFETY: the kernel reads and writes the four words of a local.
    let done = unsafe { libc::ioctl(faults, UFFDIO_REGISTER, request.as_mut_ptr()) };
    if done < 0 { [last_error(), 0] } else { [0, 0] }
}

/// Starts a thread that touches pages. It shares everything with this one, thread-local memory too, of which it uses nothing.
fn start_fetcher(pages: c_int) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new memory; its end is the end of a stack that only the new thread uses.
    unsafe {
        let stack = libc::mmap(null_mut(), STACK, protection, flags, -1, 0);
        if stack == libc::MAP_FAILED {
            exit();
        }
        let as_thread = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let argument = core::ptr::without_provenance_mut::<c_void>(pages as usize);
        if libc::clone(fetch_all, stack.byte_add(STACK), as_thread, argument) < 0 {
            exit();
        }
    }
}

/// A fetching thread.
extern "C" fn fetch_all(argument: *mut c_void) -> c_int {
    let pages = argument.addr() as c_int;
    loop {
        let mut page: Page = [0; 2];
        // SAFETY: reads into a local.
        let got = unsafe { libc::recv(pages, page.as_mut_ptr().cast(), size_of::<Page>(), 0) };
        if got != size_of::<Page>() as isize {
            exit();
        }
        // SAFETY: an address in one of the mappings, as our parent says. What is there does not matter. Here we may sleep.
        let _ = unsafe { core::ptr::with_exposed_provenance::<u8>(page[0] as usize).read_volatile() };
        // SAFETY: sends a local.
        let sent = unsafe { libc::send(pages, page.as_ptr().cast(), size_of::<Page>(), libc::MSG_NOSIGNAL) };
        if sent < 0 {
            exit();
        }
    }
}
