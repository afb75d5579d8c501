//! Boundary: vhost-user messages and descriptors. Whoever connects to a port's socket may send any of them, in any order.
//!
//! Property: a session ends without a panic whatever arrives, rings that run meanwhile are served by a worker, memory may be
//! truncated under it, the front-end comes and goes; and afterwards the port takes a well-behaved front-end as if nothing had been: a frame comes through.
//!
//! All messages are queued in a socket pair before the session runs on this thread, so an input is one story. The worker
//! runs in the callback that tells of changes, between two messages. The exception are stories with a pause in them, whose second part
//! another thread sends: pages of a postcopy migration are fetched by another process, and arrive in the pause or do not.

mod guest;
mod messages;

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pmd::packet::{BatchStorage, Span};
use pmd::port::{PortEvents, RxQueue, TxQueue};
use pmd::virtio::features::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost_port::fuzz::Bench;
use vhost_port::{Mode, VhostConfig};

use self::guest::{Guest, KINDS, PAIRS, RECORD_FILE, STATE};
use self::messages::{LATER, NEED_REPLY, RECONNECT, Step, WILD, step};
use super::input::Input;

const FEATURES: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_F_INDIRECT_DESC
    | VIRTIO_F_EVENT_IDX
    | VHOST_F_LOG_ALL
    | VHOST_USER_F_PROTOCOL_FEATURES;
/// Bits 0 to 5: MQ, LOG_SHMFD, RARP, REPLY_ACK, MTU, BACKEND_REQ; then PAGEFAULT, CONFIG, SEND_FD, HOST_NOTIFIER, INFLIGHT_SHMFD,
/// RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS, DEVICE_STATE.
const PROTOCOL: u64 =
    0x3f | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 19;
/// Connections of one input.
const CONNECTIONS: usize = 4;
/// How long [`LATER`] is: time for a page to arrive.
const PAUSE: Duration = Duration::from_millis(2);

/// Runs one input: when to truncate, then messages.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let truncate = input.u8();
    let bench = bench();
    let guest = Guest::new();
    let worker = Worker::new(&bench, Some((truncate, guest.memory.try_clone().unwrap())));
    bench.subscribe(Arc::clone(&worker) as Arc<dyn PortEvents>);
    for _ in 0..CONNECTIONS {
        session(&bench, &guest, &mut input);
        if input.is_empty() {
            break;
        }
    }

    let guest = Guest::new();
    let worker = Worker::new(&bench, None);
    bench.subscribe(Arc::clone(&worker) as Arc<dyn PortEvents>);
    session(&bench, &guest, &mut Input::new(&good_session()));
    let received = worker.state().received;
    // The worker holds queues of the port that tells it of changes: left so, no port would ever go, nor its descriptors.
    bench.subscribe(Arc::new(Nobody));
    assert!(received > 0, "the port is of no use to the next front-end: {:?}", bench.error());
}

/// Good sessions of every kind, some that change their mind, and one message of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let good = good_session();
    let plain = |code: u8| vec![0, code, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut again = good.clone();
    again.extend([11, 0, 11, 1 | NEED_REPLY, 38, 0, 0, 37, 0, 0, 12, 1, 0]);
    again.extend(&good);
    let mut out: Vec<Vec<u8>> = [good, again].into_iter().map(|s| [&[0][..], &s].concat()).collect();
    out.push([&[4][..], &good_session()].concat());
    // All of it is taken back at the end.
    out.push([&[0][..], &iommu_session(), &[22, 8, 0, 3]].concat());
    out.push(vec![0, WILD | 5, 1, 0, 0, 0, 8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0]);
    out.extend((1..=43).map(plain));
    // Configuration, then the state to a pipe, one from elsewhere, then a reset.
    let mut more = vec![0, 1, 3, 15, 16, 0, 25, 0, 0, 6, 9, 24, 0, 0, 24, 0];
    more.extend([42 | NEED_REPLY, 0, 0, 43, 42, 1, 1, STATE, 43, 34 | NEED_REPLY]);
    more.extend(good_session());
    out.push(more);
    out.extend([late_session(), recorded_session(false), recorded_session(true)]);
    // Each message that carries a descriptor, while rings run, with each kind of descriptor, and with several.
    for code in [5, 6, 7, 21, 32, 37, 42] {
        for kind in 0..KINDS {
            out.push([&[0][..], &good_session(), &odd_descriptors(code, &[kind])].concat());
        }
        out.push([&[0][..], &good_session(), &odd_descriptors(code, &[RECORD_FILE; 9])].concat());
    }
    out
}

/// What a front-end with two rings says, in the terms of [`step`].
fn good_session() -> Vec<u8> {
    good_session_with(&[2, 0], &[5, 4, 0, 1, 2, 3, 0], &[])
}

/// The same of a guest with an IOMMU that maps everything to itself.
fn iommu_session() -> Vec<u8> {
    let features = [&[2, 1][..], &(FEATURES | VIRTIO_F_ACCESS_PLATFORM).to_le_bytes()].concat();
    let updates = (0..8).flat_map(|region| [22 | NEED_REPLY, region, 0, 0]).collect::<Vec<_>>();
    good_session_with(&features, &[5, 4, 0, 1, 2, 3, 0], &updates)
}

/// A guest whose memory arrives late, with pauses in which some of it does; then it breaks off, and comes again as if it had arrived.
fn late_session() -> Vec<u8> {
    let memory = [28, 29 | NEED_REPLY, 5, 3, 0, 1, 2, 0, 5, 0, 37, 3, 0, 5, 0];
    let mut bytes = [&[0][..], &good_session_with(&[2, 0], &memory, &[])].concat();
    bytes.extend([LATER, 40, LATER, 40, 38, 3, 0, LATER, 30, 40, RECONNECT]);
    bytes.extend(good_session());
    bytes
}

/// A front-end that has what is in flight kept, and moves the guest away; it breaks off, and hands the same over again.
fn recorded_session(packed: bool) -> Vec<u8> {
    let kind = if packed { VIRTIO_F_RING_PACKED } else { 0 };
    let features = [&[2, 1][..], &(FEATURES | kind).to_le_bytes()].concat();
    let memory = [5, 4, 0, 1, 2, 3, 0, 31, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0];
    let session = good_session_with(&features, &memory, &[]);
    let log = [7, 0, 6 | NEED_REPLY, 0, 0, 0, 19 | NEED_REPLY, 2, 0, 0, 0, 0, 9, 0, 0];
    [&[0][..], &session, &log, &[RECONNECT], &session, &log, &[11, 0, 11, 1]].concat()
}

/// A message with descriptors it does not want.
fn odd_descriptors(code: u8, kinds: &[u8]) -> Vec<u8> {
    let before: &[u8] = match code {
        5 => &[1, 0],
        6 => &[0, 0],
        32 => &[0, 0, 0, 0, 0],
        37 | 42 => &[0],
        _ => &[],
    };
    // As many; and ten more, which is as many and not the usual.
    [&[code | NEED_REPLY], before, &[10 + kinds.len() as u8], kinds].concat()
}

/// A session with these features, memory, and translations.
fn good_session_with(features: &[u8], memory: &[u8], translations: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 3, 15, 16, 0, 21, 0];
    bytes.extend(features);
    bytes.push(17);
    bytes.extend(memory);
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

/// Queues all messages of a connection, then serves them. What comes later is sent by a thread.
fn session(bench: &Bench, guest: &Guest, input: &mut Input<'_>) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let theirs = &theirs;
    theirs.set_nonblocking(true).unwrap();
    let mut parts = vec![Vec::new()];
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        match step(input) {
            Step::Message(bytes, kinds) => parts.last_mut().unwrap().push((bytes, kinds)),
            Step::Later => parts.push(Vec::new()),
            Step::Reconnect => break,
        }
    }
    std::thread::scope(|scope| {
        let mut parts = parts.into_iter();
        let mut open = parts.next().is_some_and(|first| send(theirs, guest, &first));
        let end = || theirs.shutdown(Shutdown::Write).unwrap();
        if parts.len() == 0 {
            end();
        } else {
            scope.spawn(move || {
                for part in parts {
                    std::thread::sleep(PAUSE);
                    open = open && send(theirs, guest, &part);
                }
                end();
            });
        }
        bench.serve(ours);
    });
}

/// False when the socket is full or closed, which ends the story early.
fn send(socket: &UnixStream, guest: &Guest, messages: &[(Vec<u8>, Vec<u8>)]) -> bool {
    messages.iter().all(|(bytes, kinds)| {
        let descriptors: Vec<BorrowedFd<'_>> = kinds.iter().map(|&kind| guest.descriptor(kind)).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
    })
}
