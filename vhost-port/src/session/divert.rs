//! The messages that the `vhost` crate does not dispatch, or not when front-ends send them.
//!
//! Before the crate reads a message, its 12-byte header is peeked at. Ours is what the crate would refuse:
//! NET_SET_MTU, SEND_RARP, SET_LOG_FD, GET/SET_STATUS (not dispatched at all) and SET_VRING_ENABLE, which QEMU sends
//! before the SET_FEATURES that the crate insists on; the messages of a postcopy migration; IOTLB_MSG, which the crate does not know; and SET_BACKEND_REQ_FD, whose socket the crate would keep to itself.
//! Peeking leaves passed descriptors queued.
//!
//! The crate reads a body with a single call and takes a short one for an error, so a message is handed on only
//! when all of it has arrived. A sender that never completes one is waited for with the thread's stop signal in view.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use pmd::sys::sigbus::Alarm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};

use super::iommu::IotlbMessage;
use super::postcopy::PostcopyMessage;

/// Bytes of a message's header.
const HEADER: usize = 12;
/// Longest body the protocol knows; the crate's limit too.
const MAX_BODY: usize = 4096;
const VERSION: u32 = 1;
const FLAG_REPLY: u32 = 4;
const FLAG_NEED_REPLY: u32 = 8;
/// Most descriptors taken with a message that is ours: a memory table's.
const MAX_DESCRIPTORS: usize = 8;

/// Requests we answer ourselves.
#[derive(Debug)]
pub(super) enum Diverted {
    /// Enable or disable a ring.
    VringEnable { index: u32, enable: bool },
    /// The MTU the guest was told.
    SetMtu(u64),
    /// Announce this MAC address in the guest's name.
    SendRarp([u8; 6]),
    /// Tell by this eventfd of bits set in the dirty log.
    LogEvent(OwnedFd),
    /// The guest driver's status.
    SetStatus(u64),
    /// Asks it back.
    GetStatus,
    /// The socket for messages from us to the front-end.
    BackendChannel(OwnedFd),
    /// A translation of the guest's IOMMU.
    Iotlb(IotlbMessage),
    /// Of a guest that runs before its memory has arrived.
    Postcopy(PostcopyMessage),
}

/// What came.
#[derive(Debug)]
pub(super) enum Event {
    /// A whole message for the crate.
    ForCrate,
    /// A message for us; `need_reply` asks for an acknowledgement.
    Ours { code: u32, request: Diverted, need_reply: bool },
    /// The alarm rang, a ring was kicked that nobody else looks after, or patience is over.
    Attention,
    /// The connection has ended.
    Closed,
    /// A message that is none, with the reason.
    Bad(String),
}

/// Waits for a whole message, for the alarm, for a kick, or until patience is over. A message comes before a kick. While memory is
/// `arriving`, messages about it are answered differently, and are ours.
pub(super) fn next_event(
    socket: &mut UnixStream,
    alarm: &Alarm,
    kicks: &[Arc<OwnedFd>],
    patience: Option<Duration>,
    arriving: bool,
) -> Event {
    let mut pause = None;
    loop {
        match wait(socket, alarm, kicks, pause, patience) {
            Ok(true) => return Event::Attention,
            Ok(false) => {}
            Err(e) => return Event::Bad(format!("poll: {e}")),
        }
        let mut header = [0u8; HEADER];
        let got = match recv(&*socket, &mut header[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Event::Closed,
            Ok((got, _)) => got,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(e) => return Event::Bad(format!("receive: {e}")),
        };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (code, flags, size) = (word(0), word(4), word(8) as usize);
        if got == HEADER && size > MAX_BODY {
            return Event::Bad(format!("message {code} with a body of {size} bytes"));
        }
        let arrived = rustix::io::ioctl_fionread(&*socket).unwrap_or(0);
        if got == HEADER && arrived >= (HEADER + size) as u64 {
            return match code {
                7 | 18..=22 | 28..=30 | 39 | 40 => ours(socket, code, flags, size),
                0 | 38 if arriving && size == 8 => ours(socket, code, flags, size),
                5 | 37 if arriving => ours(socket, code, flags, size),
                _ => Event::ForCrate,
            };
        }
        // Part of a message is there, so the socket polls readable: look again after a pause.
        let longer = pause.map_or(Duration::from_millis(1), |p: Duration| p * 2);
        pause = Some(longer.min(Duration::from_millis(100)));
        if hung_up(socket) {
            return Event::Bad("the connection ended inside a message".to_owned());
        }
    }
}

/// True when the alarm rang or, without anything from the socket, a kick came or patience was over. With a pause, waits that long for
/// the alarm alone.
fn wait(
    socket: &UnixStream,
    alarm: &Alarm,
    kicks: &[Arc<OwnedFd>],
    pause: Option<Duration>,
    patience: Option<Duration>,
) -> Result<bool, Errno> {
    let mut fds = vec![
        PollFd::from_borrowed_fd(alarm.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
    ];
    fds.extend(kicks.iter().map(|kick| PollFd::new(kick, PollFlags::IN)));
    let timeout = pause.or(patience);
    let timeout =
        timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    let watched = if pause.is_some() { &mut fds[..1] } else { &mut fds[..] };
    match poll(watched, timeout.as_ref()) {
        Ok(0) if pause.is_none() => return Ok(true),
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => return Err(e),
    }
    let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
    Ok(ready(0) || (!ready(1) && (2..fds.len()).any(ready)))
}

fn hung_up(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

/// Fills `bytes`, all of which have arrived. Returns the descriptors that came along, the first [`MAX_DESCRIPTORS`] of each part
/// that was sent by itself; the kernel closes the rest.
fn read_message(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    let (mut done, mut descriptors) = (0, Vec::new());
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got =
            recvmsg(socket, &mut [IoSliceMut::new(rest)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done += got;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
    }
    Ok(descriptors)
}

/// Reads a message that is ours. Some of them carry descriptors; those of the others are closed.
fn ours(socket: &mut UnixStream, code: u32, flags: u32, size: usize) -> Event {
    let mut bytes = [0; HEADER + MAX_BODY];
    let Some(message) = bytes.get_mut(..HEADER + size) else {
        return Event::Bad(format!("message {code} with a body of {size} bytes"));
    };
    let mut descriptors = match read_message(socket, message) {
        Ok(descriptors) => descriptors,
        Err(e) => return Event::Bad(format!("receive: {e}")),
    };
    if flags & 3 != VERSION || flags & FLAG_REPLY != 0 || flags & !0xf != 0 {
        return Event::Bad(format!("message {code} with flags {flags:#x}"));
    }
    let body = &message[HEADER..];
    let value = <[u8; 8]>::try_from(body).map(u64::from_le_bytes);
    let request = match (code, value) {
        (18, Ok(state)) => match state >> 32 {
            enable @ (0 | 1) => Diverted::VringEnable { index: state as u32, enable: enable == 1 },
            other => return Event::Bad(format!("SET_VRING_ENABLE with state {other}")),
        },
        (22, _) => match IotlbMessage::parse(body) {
            Ok(message) => Diverted::Iotlb(message),
            Err(what) => return Event::Bad(what),
        },
        (20, Ok(mtu)) => Diverted::SetMtu(mtu),
        (39, Ok(status)) => Diverted::SetStatus(status),
        (40, _) if size == 0 => Diverted::GetStatus,
        (28, _) if size == 0 => Diverted::Postcopy(PostcopyMessage::Advise),
        (29, _) if size == 0 => Diverted::Postcopy(PostcopyMessage::Listen),
        (30, _) if size == 0 => Diverted::Postcopy(PostcopyMessage::End),
        (0 | 5 | 37 | 38, _) => match PostcopyMessage::of_memory(code, body, descriptors) {
            Ok(message) => Diverted::Postcopy(message),
            Err(what) => return Event::Bad(what),
        },
        // Without a body in the specification; with an empty one where all messages have one.
        (7 | 21, _) if size == 0 || size == 8 => match (descriptors.len(), descriptors.pop()) {
            (1, Some(event)) if code == 7 => Diverted::LogEvent(event),
            (1, Some(socket)) => Diverted::BackendChannel(socket),
            (count, _) => {
                return Event::Bad(format!("message {code} with {count} descriptors instead of one"));
            }
        },
        (19, Ok(mac)) => {
            let [a, b, c, d, e, f, _, _] = mac.to_le_bytes();
            Diverted::SendRarp([a, b, c, d, e, f])
        }
        _ => return Event::Bad(format!("message {code} with a body of {size} bytes")),
    };
    Event::Ours { code, request, need_reply: flags & FLAG_NEED_REPLY != 0 }
}

/// Sends a reply with one number.
pub(super) fn reply(socket: &mut UnixStream, code: u32, value: u64) -> io::Result<()> {
    reply_with(socket, code, &value.to_le_bytes(), None)
}

/// Sends a reply, and a descriptor if there is one.
pub(super) fn reply_with(
    socket: &mut UnixStream,
    code: u32,
    body: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let header = [code, VERSION | FLAG_REPLY, body.len() as u32];
    let message = [header.map(u32::to_le_bytes).as_flattened(), body].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    let sent = sendmsg(&*socket, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    socket.write_all(message.get(sent..).unwrap_or_default())
}
