//! Boundary: vhost-user messages and descriptors. Whoever connects to a port's socket may send any of them, in any order.
//!
//! Property: a session ends without a panic whatever arrives, rings that run meanwhile are served by a worker, memory may be
//! truncated under it; and afterwards the port takes a well-behaved front-end as if nothing had been: a frame comes through.
//!
//! All messages are queued in a socket pair before the session runs on this thread, so an input is one story. The worker
//! runs in the callback that tells of changes, between two messages.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pmd::packet::{BatchStorage, Span};
use pmd::port::{PortEvents, RxQueue, TxQueue};
use pmd::virtio::features::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost_port::fuzz::Bench;
use vhost_port::{Mode, VhostConfig};

use super::input::Input;

const PAIRS: u16 = 2;
/// The guest's memory: four regions of a quarter each, side by side in the guest.
const MEMORY: u64 = 0x4_0000;
const REGION: u64 = MEMORY / 4;
const UVA: u64 = 0x7000_0000_0000;
const RING_SIZE: u16 = 8;
/// Every ring has this much, then come buffers.
const RING_AREA: u64 = 0x1000;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const BUFFERS: u64 = 0x8000;
const BUFFER: u64 = 0x1000;
const FEATURES: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_F_INDIRECT_DESC
    | VIRTIO_F_EVENT_IDX
    | VHOST_F_LOG_ALL
    | VHOST_USER_F_PROTOCOL_FEATURES;
/// MQ, LOG_SHMFD, RARP, REPLY_ACK, MTU, BACKEND_REQ, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS, DEVICE_STATE.
const PROTOCOL: u64 =
    1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 19;
/// Kind of the descriptor that a back-end's channel usually is.
const CHANNEL: u8 = 7;
/// Kind of the descriptor by which a device's state usually travels: the end to write.
const PIPE: u8 = 8;
const NEED_REPLY: u8 = 0x40;
const WILD: u8 = 0x80;

/// Runs one input: when to truncate, then messages.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let truncate = input.u8();
    let bench = bench();
    let guest = Guest::new();
    let worker = Worker::new(&bench, Some((truncate, guest.memory.try_clone().unwrap())));
    bench.subscribe(Arc::clone(&worker) as Arc<dyn PortEvents>);
    session(&bench, &guest, &mut input);

    let guest = Guest::new();
    let worker = Worker::new(&bench, None);
    bench.subscribe(Arc::clone(&worker) as Arc<dyn PortEvents>);
    session(&bench, &guest, &mut Input::new(&good_session()));
    let received = worker.state().received;
    // The worker holds queues of the port that tells it of changes: left so, no port would ever go, nor its descriptors.
    bench.subscribe(Arc::new(Nobody));
    assert!(received > 0, "the port is of no use to the next front-end: {:?}", bench.error());
}

/// A whole good session, one that changes its mind, and one message of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let good = good_session();
    let plain = |code: u8| vec![0, code, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut again = good.clone();
    again.extend([11, 0, 11, 1 | NEED_REPLY, 38, 0, 37, 0, 12, 1, 0]);
    again.extend(&good);
    let mut out: Vec<Vec<u8>> = [good, again].into_iter().map(|s| [&[0][..], &s].concat()).collect();
    out.push([&[4][..], &good_session()].concat());
    // All of it is taken back at the end.
    out.push([&[0][..], &iommu_session(), &[22, 8, 0, 3]].concat());
    out.push(vec![0, WILD | 5, 1, 0, 0, 0, 8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0]);
    out.extend((1..=43).map(plain));
    // Configuration, then the state to a pipe and from it again, then a reset.
    let mut more = vec![0, 1, 3, 15, 16, 0, 25, 0, 0, 6, 9, 24, 0, 0, 24, 0];
    more.extend([42 | NEED_REPLY, 0, 0, 43, 42, 1, 1, 43, 34 | NEED_REPLY]);
    more.extend(good_session());
    out.push(more);
    out
}

/// What a front-end with two rings says, in the terms of [`message`].
fn good_session() -> Vec<u8> {
    good_session_with(&[2, 0], &[])
}

/// The same of a guest with an IOMMU that maps everything to itself.
fn iommu_session() -> Vec<u8> {
    let features = [&[2, 1][..], &(FEATURES | VIRTIO_F_ACCESS_PLATFORM).to_le_bytes()].concat();
    let updates = (0..8).flat_map(|region| [22 | NEED_REPLY, region, 0, 0]).collect::<Vec<_>>();
    good_session_with(&features, &updates)
}

fn good_session_with(features: &[u8], translations: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 3, 15, 16, 0, 21, 0];
    bytes.extend(features);
    bytes.extend([17, 5, 4, 0, 1, 2, 3]);
    bytes.extend(translations);
    for index in [0, 1] {
        bytes.extend([8, index, 0, 9, index, 0, 10, index, 0, 0, 13, index, 0, 14, index, 0, 12, index, 0]);
        bytes.extend([18 | NEED_REPLY, index, 1]);
    }
    bytes.extend([20, 0xdc, 5, 39, 15, 0, 40]);
    bytes
}

fn bench() -> Bench {
    let mode = Mode::Connect(PathBuf::from("fuzz"));
    Bench::new(VhostConfig { max_queue_pairs: PAIRS, ..VhostConfig::new("fuzz", mode) }).unwrap()
}

/// What a front-end has to send.
struct Guest {
    memory: File,
    event: OwnedFd,
    short: File,
    pipe: (OwnedFd, OwnedFd),
    directory: File,
    /// The back-end's channel, and the end that nobody reads.
    channel: (UnixStream, UnixStream),
}

impl Guest {
    fn new() -> Guest {
        let memory: File = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap().into();
        memory.set_len(MEMORY).unwrap();
        let short: File = memfd_create("short", MemfdFlags::CLOEXEC).unwrap().into();
        short.set_len(100).unwrap();
        for ring in 0..u64::from(PAIRS) * 2 {
            write_ring(&memory, ring);
        }
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let channel = UnixStream::pair().unwrap();
        Guest {
            memory,
            event,
            short,
            pipe: rustix::pipe::pipe().unwrap(),
            directory: File::open("/").unwrap(),
            channel,
        }
    }

    fn descriptor(&self, kind: u8) -> BorrowedFd<'_> {
        match kind % 11 {
            0..=3 => self.event.as_fd(),
            4 | 5 => self.memory.as_fd(),
            6 => self.short.as_fd(),
            7 => self.channel.0.as_fd(),
            8 => self.pipe.1.as_fd(),
            9 => self.pipe.0.as_fd(),
            _ => self.directory.as_fd(),
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
}

/// Wants to know of nothing.
struct Nobody;

impl PortEvents for Nobody {
    fn port_changed(&self) {}
}

/// A worker that looks at the port whenever it changes.
struct Worker(Mutex<State>);

struct State {
    rx: Vec<Box<dyn RxQueue>>,
    tx: Box<dyn TxQueue>,
    storage: BatchStorage,
    received: usize,
    /// The change at which to cut the memory file, if not zero, and the file.
    truncate: Option<(u8, File)>,
}

impl Worker {
    fn new(bench: &Bench, truncate: Option<(u8, File)>) -> Arc<Worker> {
        let rx = (0..usize::from(PAIRS)).map(|pair| bench.rx_queue(pair).unwrap()).collect();
        let state = State { rx, tx: bench.tx_queue(), storage: BatchStorage::new(), received: 0, truncate };
        Arc::new(Worker(Mutex::new(state)))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PortEvents for Worker {
    fn port_changed(&self) {
        let State { rx, tx, storage, received, truncate } = &mut *self.state();
        if let Some((left, file)) = truncate
            && *left > 0
        {
            *left -= 1;
            if *left == 0 {
                file.set_len(0).unwrap();
            }
        }
        for rxq in rx {
            let mut batch = storage.begin();
            *received += rxq.rx_burst(&mut batch);
            for slot in 0..batch.len() as u16 {
                let frame = batch.frame(slot);
                let mut bytes = vec![0; frame.len()];
                assert_eq!(frame.copy_to(&mut bytes), bytes.len());
            }
            rxq.rx_done();
            rxq.arm();
            rxq.disarm();
        }
        let mut batch = storage.begin();
        batch.receive(Span::from_slice(&[3; 60]));
        batch.receive(Span::from_slice(&[4; 1400]));
        assert!(tx.tx_burst(&batch, &[0, 1]) <= 2);
    }
}

/// Queues all messages, then serves them.
fn session(bench: &Bench, guest: &Guest, input: &mut Input<'_>) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (bytes, kinds) = message(input);
        let descriptors: Vec<BorrowedFd<'_>> = kinds.iter().map(|&kind| guest.descriptor(kind)).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        // A full socket ends the story early.
        if sendmsg(&theirs, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    theirs.shutdown(Shutdown::Write).unwrap();
    bench.serve(ours);
}

/// The next message: its bytes, and kinds of descriptors to send along.
///
/// The first byte is the request, with a bit that asks for a reply and one for a wild message, whose header and body are
/// as the input says. Other messages have the right size, and values that a zero byte makes the usual ones.
fn message(input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let first = input.u8();
    let code = u32::from(first & 0x3f);
    if first & WILD != 0 {
        let (flags, size) = (input.u32(), input.u16());
        let count = usize::from(input.u8() % 10);
        let body = input.bytes(usize::from(size % 512)).to_vec();
        let bytes = [code.to_le_bytes(), flags.to_le_bytes(), u32::from(size).to_le_bytes()].concat();
        return ([bytes, body].concat(), input.bytes(count).to_vec());
    }
    let (body, kinds) = body(code, input);
    let flags = 1 | u32::from(first & NEED_REPLY != 0) << 3;
    let header = [code, flags, body.len() as u32].map(u32::to_le_bytes).concat();
    ([header, body].concat(), kinds)
}

fn body(code: u32, input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let state = |index: u8, value: u32| u64::from(index) | u64::from(value) << 32;
    let or_wild = |input: &mut Input<'_>, usual: u64| if input.u8() == 0 { usual } else { input.u64() };
    match code {
        1 | 3 | 4 | 15 | 17 | 34 | 36 | 40 | 43 => (Vec::new(), Vec::new()),
        2 => (words(&[or_wild(input, FEATURES)]), Vec::new()),
        16 => (words(&[or_wild(input, PROTOCOL)]), Vec::new()),
        5 => {
            let count = input.u8() % 9;
            let regions: Vec<u64> = (0..count).flat_map(|_| region(input)).collect();
            ([words(&[u64::from(count)]), words(&regions)].concat(), vec![4; usize::from(count)])
        }
        6 => (words(&[or_wild(input, 0x1000), or_wild(input, 0)]), vec![4]),
        37 | 38 => {
            let region = region(input);
            (words(&[&[0], &region[..]].concat()), if code == 37 { vec![4] } else { Vec::new() })
        }
        8 => {
            let index = input.u8();
            let size = match input.u8() {
                0 => u32::from(RING_SIZE),
                n if n < 17 => 1 << n,
                _ => input.u32(),
            };
            (words(&[state(index, size)]), Vec::new())
        }
        9 => {
            let index = input.u8();
            let base = UVA + u64::from(index) * RING_AREA;
            let addresses =
                if input.u8() == 0 { [base, base + USED, base + AVAIL] } else { [0; 3].map(|_| input.u64()) };
            (words(&[&[u64::from(index)], &addresses[..], &[0]].concat()), Vec::new())
        }
        10 => (words(&[state(input.u8(), u32::from(input.u16()))]), Vec::new()),
        11 => (words(&[state(input.u8(), 0)]), Vec::new()),
        12..=14 => {
            let (index, kind) = (input.u8(), input.u8());
            // 8: without a descriptor, and saying so.
            if kind == 8 {
                (words(&[u64::from(index) | 0x100]), Vec::new())
            } else {
                (words(&[index.into()]), vec![kind])
            }
        }
        18 => (words(&[state(input.u8(), u32::from(input.u8()))]), Vec::new()),
        7 => (Vec::new(), vec![input.u8()]),
        19 => (words(&[input.u64()]), Vec::new()),
        21 => (Vec::new(), vec![input.u8().wrapping_add(CHANNEL)]),
        22 => (translation(input), Vec::new()),
        24 | 25 => {
            let (offset, size) = (u32::from(input.u16()), input.u8());
            let header = [offset, size.into(), 0].map(u32::to_le_bytes).concat();
            ([header, vec![input.u8(); size.into()]].concat(), Vec::new())
        }
        42 => (words(&[u64::from(input.u8() % 2)]), vec![input.u8().wrapping_add(PIPE)]),
        20 | 39 => (words(&[u64::from(input.u16())]), Vec::new()),
        _ => {
            let len = usize::from(input.u8() % 64);
            (input.bytes(len).to_vec(), Vec::new())
        }
    }
}

/// An IOTLB message: one of the regions where rings expect it, or where descriptors do, or anything.
fn translation(input: &mut Input<'_>) -> Vec<u8> {
    let words = match input.u8() {
        n if n < 8 => {
            let at = u64::from(n % 4) * REGION;
            [if n < 4 { UVA + at } else { at }, REGION, UVA + at]
        }
        8 => [0, u64::MAX, 0],
        _ => [0; 3].map(|_| input.u64()),
    };
    let or = |input: &mut Input<'_>, usual: u8| if let n @ 1.. = input.u8() { n } else { usual };
    let (access, kind) = (or(input, 3), or(input, 2));
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    [words, vec![access, kind, 0, 0, 0, 0, 0, 0]].concat()
}

/// Guest address, length, front-end address and file offset of one of the usual regions, or of any.
fn region(input: &mut Input<'_>) -> [u64; 4] {
    match input.u8() {
        n if n < 4 => {
            let at = u64::from(n) * REGION;
            [at, REGION, UVA + at, at]
        }
        _ => [0; 4].map(|_| input.u64()),
    }
}
