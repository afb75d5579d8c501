//! Front-ends that break the rules of the protocol. The connection ends, the port says why, and takes the next one; a neighbour's
//! frames all arrive.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use guest::messages::{Carries, Message, State, Teller, all};
use guest::raw::{NEED_REPLY, PLAIN, Raw, message};
use guest::{Guest, MODERN, burst, wait_for};
use pmd::packet::{BatchStorage, Span};
use pmd::port::{Port, PortInfo, RxQueue};
use pmd::virtio::NetHeader;
use rustix::event::{EventfdFlags, eventfd};
use vhost_port::{Mode, VhostConfig, VhostPort};

/// A port with its socket, and what a worker has of it.
struct Victim {
    dir: tempfile::TempDir,
    port: Arc<dyn Port>,
    rxq: Box<dyn RxQueue>,
}

impl Victim {
    fn open() -> Victim {
        let dir = tempfile::tempdir().unwrap();
        let port = VhostPort::open(VhostConfig::new("v", Mode::Listen(dir.path().join("p")))).unwrap();
        let rxq = port.rx_queue(0).unwrap();
        Victim { dir, port, rxq }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("p")
    }

    /// What a worker does in one round.
    fn work(&mut self) {
        burst(&mut *self.rxq);
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        batch.receive(Span::from_slice(&[3; 60]));
        self.port.tx_queue(0).unwrap().tx_burst(&batch, &[0]);
    }

    fn gone(info: &PortInfo) -> bool {
        info.status.contains(&("status".into(), "disconnected".into()))
    }

    /// A well-behaved front-end finds the port as if nothing had been.
    fn is_of_use(&mut self) {
        let mut guest = Guest::connect(&self.path(), MODERN, 2);
        guest.send(1, NetHeader::default(), &[7; 60], &[]);
        assert_eq!(burst(&mut *self.rxq), [[7; 60]]);
        drop(guest);
        wait_for(&self.port, Victim::gone);
    }
}

/// A port and its guest that nobody harms, and the count of what passes.
struct Bystander {
    victim: Victim,
    guest: Guest,
    frames: usize,
}

impl Bystander {
    fn open() -> Bystander {
        let victim = Victim::open();
        let guest = Guest::connect(&victim.path(), MODERN, 2);
        Bystander { victim, guest, frames: 0 }
    }

    fn exchange(&mut self) {
        self.guest.send(1, NetHeader::default(), &[5; 64], &[]);
        assert_eq!(burst(&mut *self.victim.rxq), [[5; 64]], "after {} frames", self.frames);
        assert_eq!(self.guest.reclaim(1), 1);
        self.frames += 1;
    }
}

/// What else can be sent where a descriptor is wanted.
struct Wrong {
    pipe: (OwnedFd, OwnedFd),
    socket: (UnixStream, UnixStream),
    directory: File,
    read_only: File,
    empty: File,
    event: OwnedFd,
}

impl Wrong {
    fn new() -> Wrong {
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(4 << 20).unwrap();
        Wrong {
            pipe: rustix::pipe::pipe().unwrap(),
            socket: UnixStream::pair().unwrap(),
            directory: File::open("/").unwrap(),
            read_only: File::open(path.path()).unwrap(),
            empty: tempfile::tempfile().unwrap(),
            event: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        }
    }

    /// Descriptors of each kind, none, and too many.
    fn choices(&self) -> Vec<(&'static str, Vec<BorrowedFd<'_>>)> {
        vec![
            ("none", vec![]),
            ("pipe", vec![self.pipe.1.as_fd()]),
            ("socket", vec![self.socket.0.as_fd()]),
            ("directory", vec![self.directory.as_fd()]),
            ("read-only file", vec![self.read_only.as_fd()]),
            ("empty file", vec![self.empty.as_fd()]),
            ("eventfd", vec![self.event.as_fd()]),
            ("two", vec![self.event.as_fd(); 2]),
            ("nine", vec![self.event.as_fd(); 9]),
            ("sixty", vec![self.pipe.0.as_fd(); 60]),
        ]
    }
}

/// Bodies of the wrong length or with nothing right in them.
fn bodies(good: &[u8]) -> Vec<Vec<u8>> {
    let mut cut = good.to_vec();
    cut.pop();
    vec![cut, vec![], [good, &[0; 8]].concat(), vec![0xff; good.len()], vec![0; 4000]]
}

/// Sends a message in a state, lets a worker look, and leaves.
fn try_out(
    victim: &mut Victim,
    state: State,
    message: &Message,
    body: &[u8],
    fds: Option<&[BorrowedFd<'_>]>,
) {
    let mut teller = Teller::connect(&victim.path());
    teller.lead_to(state);
    let message = Message { body: body.to_vec(), ..message.clone() };
    let answers = match fds {
        Some(fds) => teller.raw.answers(message.code, NEED_REPLY, &message.body, fds),
        None => teller.tell(&message, NEED_REPLY),
    };
    assert!(answers.len() <= 1, "{answers:?} to {message:?} in {state:?}");
    victim.work();
}

#[test]
fn every_message_in_every_state_harms_nobody() {
    let (mut victim, mut bystander, wrong) = (Victim::open(), Bystander::open(), Wrong::new());
    let mut sent = 0;
    for state in State::ALL {
        for good in all() {
            try_out(&mut victim, state, &good, &good.body, None);
            for body in bodies(&good.body) {
                try_out(&mut victim, state, &good, &body, None);
                bystander.exchange();
                sent += 1;
            }
            // One message stands for those that carry nothing.
            if good.carries != Carries::Nothing || good.name == "SET_VRING_ENABLE" {
                for (_, fds) in wrong.choices() {
                    try_out(&mut victim, state, &good, &good.body, Some(&fds));
                    bystander.exchange();
                    sent += 1;
                }
            }
        }
        victim.is_of_use();
    }
    assert_eq!(bystander.frames, sent);
    assert_eq!(bystander.victim.port.info().error, None);
}

/// Also messages that no version of the protocol knows, or that nobody offered.
#[test]
fn messages_nobody_asked_for_end_the_connection_with_a_reason() {
    let (mut victim, mut bystander) = (Victim::open(), Bystander::open());
    let known: Vec<u32> = all().iter().map(|message| message.code).collect();
    for code in (0..64).chain([1 << 16, u32::MAX]).filter(|code| !known.contains(code)) {
        let mut teller = Teller::connect(&victim.path());
        teller.lead_to(State::Running);
        let answers = teller.raw.answers(code, PLAIN, &[0; 8], &[]);
        assert!(answers.is_empty(), "{answers:?} to message {code}");
        // SET_PROTOCOL_FEATURES is known, and harmless.
        if code != 16 {
            wait_for(&victim.port, |info| {
                info.error.as_deref().is_some_and(|e| e.contains("connection closed"))
            });
        }
        drop(teller);
        victim.work();
        bystander.exchange();
    }
    victim.is_of_use();
}

#[test]
fn wrong_descriptors_are_named() {
    let cases: [(&str, &str, &str); 11] = [
        ("SET_VRING_KICK", "pipe", "not an eventfd"),
        ("SET_VRING_CALL", "socket", "not an eventfd"),
        ("SET_VRING_ERR", "directory", "not an eventfd"),
        ("SET_VRING_CALL", "read-only file", "not an eventfd"),
        ("SET_MEM_TABLE", "pipe", "no regular file"),
        ("SET_MEM_TABLE", "socket", "no regular file"),
        ("SET_MEM_TABLE", "directory", "no regular file"),
        ("SET_MEM_TABLE", "read-only file", "Permission denied"),
        ("ADD_MEM_REG", "empty file", "needs 0x"),
        ("ADD_MEM_REG", "eventfd", "no regular file"),
        ("SET_BACKEND_REQ_FD", "pipe", "no unix stream socket"),
    ];
    let (mut victim, wrong) = (Victim::open(), Wrong::new());
    for (name, kind, words) in cases {
        let mut teller = Teller::connect(&victim.path());
        teller.lead_to(State::Running);
        let message = all().into_iter().find(|message| message.name == name).unwrap();
        let (_, fds) = wrong.choices().into_iter().find(|choice| choice.0 == kind).unwrap();
        let answers = teller.raw.answers(message.code, NEED_REPLY, &message.body, &fds);
        assert_eq!(answers, [(message.code, vec![1, 0, 0, 0, 0, 0, 0, 0])], "{name} with {kind}");
        let says = |info: &PortInfo| info.error.as_deref().is_some_and(|e| e.contains(words));
        assert!(
            {
                wait_for(&victim.port, Victim::gone);
                says(&victim.port.info())
            },
            "{name} with {kind}: {:?}",
            victim.port.info().error
        );
    }
    victim.is_of_use();
}

/// Guest addresses, front-end addresses, or offsets that run past the end of their number, or into each other.
#[test]
fn regions_that_wrap_or_overlap_are_refused() {
    const LEN: u64 = 1 << 20;
    const UVA: u64 = 0x7000_0000_0000;
    let region = |gpa: u64, len: u64, uva: u64, offset: u64| [gpa, len, uva, offset];
    let bad = [
        region(0, 0, UVA + (8 << 20), 0),
        region(u64::MAX - LEN + 1, LEN, UVA + (8 << 20), 0),
        region(u64::MAX - 4095, LEN, UVA + (8 << 20), 0),
        region(8 << 20, LEN, u64::MAX - 4095, 0),
        region(8 << 20, LEN, UVA + (8 << 20), u64::MAX - 4095),
        region(8 << 20, u64::MAX, UVA + (8 << 20), 0),
        region(8 << 20, u64::MAX - (8 << 20), UVA + (8 << 20), 0),
        region(LEN - 1, LEN, UVA + (8 << 20), 0),
        region(8 << 20, LEN, UVA + LEN - 1, 0),
        region(0, LEN, UVA, 0),
    ];
    let mut victim = Victim::open();
    for bad in bad {
        for whole_table in [false, true] {
            let mut teller = Teller::connect(&victim.path());
            teller.lead_to(State::Running);
            let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
            let memory = teller.memory.try_clone().unwrap();
            let answers = if whole_table {
                let good = region(0, LEN, UVA, 0);
                let body = bytes(&[&[2][..], &good, &bad].concat());
                teller.raw.answers(5, NEED_REPLY, &body, &[memory.as_fd(), memory.as_fd()])
            } else {
                let body = bytes(&[&[0][..], &bad].concat());
                teller.raw.answers(37, NEED_REPLY, &body, &[memory.as_fd()])
            };
            assert!(answers.iter().all(|answer| answer.1[0] == 1), "{bad:x?} was taken");
            assert_eq!(teller.raw.answer(), None, "{bad:x?}: the connection is closed");
            wait_for(&victim.port, |info| Victim::gone(info) && info.error.is_some());
        }
    }
    victim.is_of_use();
}

/// A peer that says five bytes and no more holds its own port only, and for no longer than it stays.
#[test]
fn five_bytes_and_silence_hold_one_port_only() {
    let (mut victim, mut bystander) = (Victim::open(), Bystander::open());
    for bytes in [message(1, 1, &[])[..5].to_vec(), message(2, 1, &[0; 8])[..15].to_vec()] {
        let mut silent = UnixStream::connect(victim.path()).unwrap();
        silent.write_all(&bytes).unwrap();
        wait_for(&victim.port, |info| !Victim::gone(info));
        for _ in 0..100 {
            bystander.exchange();
            victim.work();
        }
        drop(silent);
        wait_for(&victim.port, |info| {
            info.error.as_deref().is_some_and(|e| e.contains("ended inside a message"))
        });
        victim.is_of_use();
    }
}

/// Questions without end, and nobody who reads the answers.
#[test]
fn front_end_that_does_not_read_holds_one_port_only() {
    let (mut victim, mut bystander) = (Victim::open(), Bystander::open());
    let raw = Raw::connect(&victim.path());
    raw.0.set_nonblocking(true).unwrap();
    while raw.send(1, PLAIN, &[], &[]) {
        victim.work();
    }
    for _ in 0..100 {
        bystander.exchange();
    }
    drop(raw);
    wait_for(&victim.port, Victim::gone);
    victim.is_of_use();
}
