//! Programs and maps in the kernel: the system call bpf(2) (Linux `include/uapi/linux/bpf.h`).
#![expect(unsafe_code, reason = "bpf(2), whose arguments hold addresses")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One instruction: eight bytes, `struct bpf_insn`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Instruction {
    /// Class, size or operation, source.
    pub code: u8,
    /// Low half the destination register, high half the source.
    pub registers: u8,
    /// Offset of a load, store or jump.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
}

/// Where in a device's path a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver, before a buffer for the stack is made.
    Native,
    /// In the stack, for any driver, on a buffer made already.
    Generic,
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;

const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const XDP_HAS_FRAGS: u32 = 1 << 5;
const FLAG_SKB_MODE: u32 = 1 << 1;
const FLAG_DRV_MODE: u32 = 1 << 2;

/// Makes a map from queue numbers below `queues` to AF_XDP sockets.
pub fn socket_map(queues: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        kind: u32,
        key: u32,
        value: u32,
        entries: u32,
        rest: [u32; 8],
    }
    let mut create = Create { kind: MAP_TYPE_XSKMAP, key: 4, value: 4, entries: queues, rest: [0; 8] };
    // SAFETY: the structure holds no addresses.
    unsafe { make(MAP_CREATE, &mut create) }
}

/// Puts a socket into a map.
pub fn put_socket(map: impl AsFd, queue: u32, socket: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let socket = socket.as_fd().as_raw_fd();
    let mut update = Update {
        map: map.as_fd().as_raw_fd() as u32,
        padding: 0,
        key: (&raw const queue).addr() as u64,
        value: (&raw const socket).addr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads four bytes of key and four of value, which live here.
    unsafe { call(MAP_UPDATE, &mut update) }.map(drop)
}

/// Loads an XDP program, which may see frames in several pieces. The error of a program that the kernel's verifier refuses is
/// [`io::ErrorKind::InvalidData`] with its words.
pub fn load_xdp(program: &[Instruction]) -> io::Result<OwnedFd> {
    match load(program, &mut []) {
        Err(error)
            if error.raw_os_error() == Some(libc::EACCES) || error.raw_os_error() == Some(libc::EINVAL) =>
        {
            let mut words = vec![0; 64 << 10];
            load(program, &mut words).map_err(|again| {
                let end = words.iter().position(|&byte| byte == 0).unwrap_or(0);
                let said = String::from_utf8_lossy(words.get(..end).unwrap_or_default()).into_owned();
                let text = format!("the kernel does not take the program: {again}: {}", said.trim_end());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })
        }
        other => other,
    }
}

fn load(program: &[Instruction], words: &mut [u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
        name: [u8; 16],
        rest: [u32; 20],
    }
    let license = c"Apache-2.0";
    let mut load = Load {
        kind: PROG_TYPE_XDP,
        count: program.len() as u32,
        program: program.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: u32::from(!words.is_empty()),
        log_size: words.len() as u32,
        log: if words.is_empty() { 0 } else { words.as_mut_ptr().addr() as u64 },
        version: 0,
        flags: XDP_HAS_FRAGS,
        name: *b"vswitch_xsk\0\0\0\0\0",
        rest: [0; 20],
    };
    // SAFETY: the kernel reads `count` instructions and a string that ends in zero, and writes at most `log_size` bytes of `words`; all
    // of them live until it returns.
    unsafe { make(PROG_LOAD, &mut load) }
}

/// Attaches a program to a device until the descriptor is closed, by whatever end the process comes to (Linux 5.9).
pub fn attach_xdp(program: impl AsFd, ifindex: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attach {
        program: u32,
        target: u32,
        kind: u32,
        flags: u32,
        rest: [u32; 12],
    }
    let mut attach = Attach {
        program: program.as_fd().as_raw_fd() as u32,
        target: ifindex,
        kind: ATTACH_XDP,
        flags: if mode == XdpMode::Native { FLAG_DRV_MODE } else { FLAG_SKB_MODE },
        rest: [0; 12],
    };
    // SAFETY: the structure holds no addresses.
    unsafe { make(LINK_CREATE, &mut attach) }
}

/// Runs an XDP program once on a frame, and gives its verdict.
pub fn test_run(program: impl AsFd, frame: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    struct Run {
        program: u32,
        verdict: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        rest: [u32; 10],
    }
    let mut run = Run {
        program: program.as_fd().as_raw_fd() as u32,
        verdict: 0,
        size_in: frame.len() as u32,
        size_out: 0,
        data_in: frame.as_ptr().addr() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
        rest: [0; 10],
    };
    // SAFETY: the kernel reads `size_in` bytes of the frame, and writes no data out.
    unsafe { call(PROG_TEST_RUN, &mut run) }?;
    Ok(run.verdict)
}

/// # Safety
/// As [`call`], and the command returns a new descriptor.
unsafe fn make<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: forwarded.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel has just made the descriptor for us (contract).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attributes` begins with what the command reads, and addresses in it are valid as the command wants them.
unsafe fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    let attributes: *mut T = attributes;
    // SAFETY: bpf(2) reads and writes at most the bytes of one T (contract).
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
