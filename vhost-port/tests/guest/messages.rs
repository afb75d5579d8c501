//! All messages of a front-end in their good form, and a front-end that can say them in any state of a session.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use pmd::virtio::features::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};

use super::raw::{GET_FEATURES, GET_PROTOCOL_FEATURES, NEED_REPLY, PLAIN, Raw};

const REGION: u64 = 1 << 20;
const UVA: u64 = 0x7000_0000_0000;
const RING_SIZE: u32 = 64;
const FEATURES: u64 =
    VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_F_INDIRECT_DESC | VHOST_USER_F_PROTOCOL_FEATURES;

/// What a message is answered with if it asks for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answered {
    /// A number: zero is yes.
    WithYes,
    /// Its own contents, asked for or not.
    WithContents,
}

/// The descriptor that goes with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carries {
    Nothing,
    Memory,
    Event,
    Socket,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) code: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) carries: Carries,
    pub(crate) answered: Answered,
}

/// Every message that the port knows, good when a session has got as far as [`State::Running`].
pub(crate) fn all() -> Vec<Message> {
    use Answered::{WithContents, WithYes};
    use Carries::{Event, Memory, Nothing, Socket};
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let ring = |index: u64, value: u64| words(&[index | value << 32]);
    let config = |offset: u32, bytes: &[u8]| {
        let header = [offset, bytes.len() as u32, 0].map(u32::to_le_bytes).concat();
        [header, bytes.to_vec()].concat()
    };
    let message = |name, code, body, carries, answered| Message { name, code, body, carries, answered };
    vec![
        message("GET_FEATURES", GET_FEATURES, vec![], Nothing, WithContents),
        message("SET_FEATURES", 2, words(&[FEATURES]), Nothing, WithYes),
        message("SET_OWNER", 3, vec![], Nothing, WithYes),
        message("RESET_OWNER", 4, vec![], Nothing, WithYes),
        message("SET_MEM_TABLE", 5, words(&[1, 0, REGION, UVA, 0]), Memory, WithYes),
        message("SET_LOG_BASE", 6, words(&[0x1000, 0]), Memory, WithContents),
        message("SET_LOG_FD", 7, vec![], Event, WithYes),
        message("SET_VRING_NUM", 8, ring(1, RING_SIZE.into()), Nothing, WithYes),
        message("SET_VRING_ADDR", 9, ring_addresses(1), Nothing, WithYes),
        message("SET_VRING_BASE", 10, ring(3, 5), Nothing, WithYes),
        message("GET_VRING_BASE", 11, ring(1, 0), Nothing, WithContents),
        message("SET_VRING_KICK", 12, words(&[1]), Event, WithYes),
        message("SET_VRING_CALL", 13, words(&[1]), Event, WithYes),
        message("SET_VRING_ERR", 14, words(&[1]), Event, WithYes),
        message("SET_VRING_KICK without", 12, words(&[0x101]), Nothing, WithYes),
        message("SET_VRING_CALL without", 13, words(&[0x101]), Nothing, WithYes),
        message("SET_VRING_ERR without", 14, words(&[0x101]), Nothing, WithYes),
        message("GET_PROTOCOL_FEATURES", GET_PROTOCOL_FEATURES, vec![], Nothing, WithContents),
        message("GET_QUEUE_NUM", 17, vec![], Nothing, WithContents),
        message("SET_VRING_ENABLE", 18, ring(1, 0), Nothing, WithYes),
        message("SEND_RARP", 19, words(&[0x0506_0708_5452]), Nothing, WithYes),
        message("NET_SET_MTU", 20, words(&[1400]), Nothing, WithYes),
        message("SET_BACKEND_REQ_FD", 21, vec![], Socket, WithYes),
        message("GET_CONFIG", 24, config(0, &[0; 20]), Nothing, WithContents),
        message("SET_CONFIG", 25, config(0, &[2, 0, 0, 0, 0, 9]), Nothing, WithYes),
        message("POSTCOPY_ADVISE", 28, vec![], Nothing, WithContents),
        message("POSTCOPY_END", 30, vec![], Nothing, WithContents),
        message("GET_INFLIGHT_FD", 31, words(&[0, 0, 2 | 64 << 16]), Nothing, WithContents),
        message("SET_INFLIGHT_FD", 32, words(&[0x2000, 0, 2 | 64 << 16]), Memory, WithYes),
        message("RESET_DEVICE", 34, vec![], Nothing, WithYes),
        message("GET_MAX_MEM_SLOTS", 36, vec![], Nothing, WithContents),
        message("ADD_MEM_REG", 37, words(&[0, REGION, REGION, UVA + REGION, 0]), Memory, WithYes),
        message("REM_MEM_REG", 38, words(&[0, 0, REGION, UVA, 0]), Nothing, WithYes),
        message("SET_STATUS", 39, words(&[15]), Nothing, WithYes),
        message("GET_STATUS", 40, vec![], Nothing, WithContents),
        message("SET_DEVICE_STATE_FD", 42, words(&[0]), Socket, WithContents),
        message("CHECK_DEVICE_STATE", 43, vec![], Nothing, WithContents),
    ]
}

fn ring_addresses(index: u64) -> Vec<u8> {
    let base = UVA + index * 0x1_0000;
    let words = [index, base, base + 0x8000, base + 0x4000, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// How far a session has got. Each state comes after the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum State {
    Connected,
    ProtocolFeatures,
    Features,
    Memory,
    /// Rings 0 and 1 have all but a kick descriptor.
    RingsSet,
    /// They run.
    Running,
    /// And ring 1 is disabled again.
    Disabled,
    /// Rings have been stopped.
    Stopped,
    /// RESET_DEVICE.
    Reset,
    /// What memory there was has been cut from its file, while rings ran.
    Truncated,
}

impl State {
    pub(crate) const ALL: [State; 10] = [
        State::Connected,
        State::ProtocolFeatures,
        State::Features,
        State::Memory,
        State::RingsSet,
        State::Running,
        State::Disabled,
        State::Stopped,
        State::Reset,
        State::Truncated,
    ];
}

/// A front-end with what it has to send along.
pub(crate) struct Teller {
    pub(crate) raw: Raw,
    pub(crate) memory: File,
    pub(crate) event: OwnedFd,
    pub(crate) socket: (UnixStream, UnixStream),
}

impl Teller {
    pub(crate) fn connect(path: &Path) -> Teller {
        let memory: File = memfd_create("teller", MemfdFlags::CLOEXEC).unwrap().into();
        memory.set_len(2 * REGION).unwrap();
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        Teller { raw: Raw::connect(path), memory, event, socket: UnixStream::pair().unwrap() }
    }

    /// Says what leads to a state. All of it is good, so the port takes it.
    pub(crate) fn lead_to(&mut self, state: State) {
        let steps: &[(State, &[&str])] = &[
            (State::ProtocolFeatures, &["GET_FEATURES", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES"]),
            (State::Features, &["SET_OWNER", "SET_FEATURES"]),
            (State::Memory, &["SET_MEM_TABLE"]),
            (State::RingsSet, &["SET_VRING_NUM", "SET_VRING_ADDR", "SET_VRING_CALL", "SET_VRING_ERR"]),
            (State::Running, &["SET_VRING_KICK", "enable 0", "enable 1"]),
            (State::Disabled, &["SET_VRING_ENABLE"]),
            (State::Stopped, &["GET_VRING_BASE"]),
            (State::Reset, &["RESET_DEVICE"]),
        ];
        let last = if state == State::Truncated { State::Running } else { state };
        for (_, names) in steps.iter().filter(|(step, _)| *step <= last) {
            names.iter().for_each(|name| self.say_for_both_rings(name));
        }
        if state == State::Truncated {
            self.memory.set_len(0).unwrap();
        }
    }

    fn say_for_both_rings(&mut self, name: &str) {
        let number = |words: u64| words.to_le_bytes().to_vec();
        let special = |code, body| Message {
            name: "",
            code,
            body,
            carries: Carries::Nothing,
            answered: Answered::WithYes,
        };
        match name {
            "SET_PROTOCOL_FEATURES" => {
                let offered = self.raw.answers(GET_PROTOCOL_FEATURES, PLAIN, &[], &[]);
                self.say(&special(16, offered[0].1.clone()), NEED_REPLY);
            }
            "enable 0" => self.say(&special(18, number(1 << 32)), NEED_REPLY),
            "enable 1" => self.say(&special(18, number(1 << 32 | 1)), NEED_REPLY),
            _ => {
                let message = all().into_iter().find(|message| message.name == name).unwrap();
                let of_a_ring = name.contains("VRING") && name != "SET_VRING_ENABLE";
                if of_a_ring {
                    let mut first = message.clone();
                    if name == "SET_VRING_ADDR" {
                        first.body = ring_addresses(0);
                    } else {
                        first.body[0] = 0;
                    }
                    self.say(&first, PLAIN);
                }
                self.say(&message, PLAIN);
            }
        }
    }

    /// Sends a message that the port takes, and reads the answer if there is one.
    fn say(&mut self, message: &Message, flags: u32) {
        let answers = self.tell(message, flags);
        let wanted = usize::from(message.answered == Answered::WithContents || flags == NEED_REPLY);
        assert_eq!(answers.len(), wanted, "{message:?}");
    }

    /// Sends a message, and tells what came back.
    pub(crate) fn tell(&mut self, message: &Message, flags: u32) -> Vec<super::raw::Answer> {
        let fds: Vec<BorrowedFd<'_>> = match message.carries {
            Carries::Nothing => vec![],
            Carries::Memory => vec![self.memory.as_fd()],
            Carries::Event => vec![self.event.as_fd()],
            Carries::Socket => vec![self.socket.0.as_fd()],
        };
        self.raw.answers(message.code, flags, &message.body, &fds)
    }
}
