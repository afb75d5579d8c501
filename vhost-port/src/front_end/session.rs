//! One vhost-user conversation, as front-end.
//!
//! Says what DPDK's virtio-user says, in an order that our switch, Open vSwitch and DPDK's `net_vhost` all take: owner, features,
//! memory, then per ring size, addresses, base, call and kick descriptor (DPDK calls a ring ready only with both), enable. With
//! `REPLY_ACK` every message is answered, so an error names the message that was refused.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pmd::virtio::features::{VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, names};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

/// Rings the crate may address; how many there are is checked here.
const MOST_RINGS: u64 = 256;

/// Why a conversation failed.
#[derive(thiserror::Error, Debug)]
pub enum SessionError {
    /// The back-end lacks features that must be.
    #[error("the back-end does not offer {}", .0.join(", "))]
    NotOffered(Vec<&'static str>),
    /// A message failed, or was refused.
    #[error("{message}: {source}")]
    Message {
        /// The message.
        message: String,
        /// How.
        #[source]
        source: vhost::Error,
    },
    /// The kernel refused a descriptor.
    #[error("{0}: {1}")]
    System(&'static str, #[source] std::io::Error),
}

/// What a front-end wants of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Features without which it makes no sense.
    pub required: u64,
    /// Features it takes if they are offered.
    pub optional: u64,
    /// Most queue pairs.
    pub pairs: u16,
}

/// Memory to share.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// The memory's file.
    pub fd: BorrowedFd<'a>,
    /// Bytes.
    pub len: usize,
    /// Address of the first byte in descriptors.
    pub guest: u64,
    /// Address of the first byte in what places rings.
    pub user: u64,
}

/// Where a ring is.
#[derive(Clone, Copy, Debug)]
pub struct RingPlace {
    /// Entries.
    pub size: u16,
    /// Addresses, in terms of [`Region::user`], of its three parts.
    pub parts: [u64; 3],
}

/// A ring's two event descriptors.
struct Events {
    /// Written to wake the device.
    kick: Arc<OwnedFd>,
    /// Written by the device to wake us; a ring without one never becomes ready.
    call: Arc<OwnedFd>,
}

/// A conversation; the back-end lets go of the rings when it is dropped.
pub struct Session {
    frontend: Frontend,
    events: Vec<Events>,
    features: u64,
    pairs: u16,
}

fn during<T>(message: &str, result: vhost::Result<T>) -> Result<T, SessionError> {
    result.map_err(|source| SessionError::Message { message: message.to_owned(), source })
}

impl Session {
    /// Agrees on features and queue pairs with whoever is at the other end. Blocks for as long as it takes to answer, or
    /// as the stream's read timeout says.
    ///
    /// # Errors
    /// It does not offer what is required, or a message fails.
    pub fn negotiate(stream: UnixStream, wanted: &Wanted) -> Result<Session, SessionError> {
        let pairs = queue_pairs(&stream, wanted)?;
        let mut frontend = Frontend::from_stream(stream, MOST_RINGS);
        during("SET_OWNER", frontend.set_owner())?;
        let offered = during("GET_FEATURES", frontend.get_features())?;
        let missing: Vec<_> = names(wanted.required & !offered).collect();
        if !missing.is_empty() {
            return Err(SessionError::NotOffered(missing));
        }
        let features = wanted.required | wanted.optional & offered;
        if features & VHOST_USER_F_PROTOCOL_FEATURES != 0 {
            let protocol = during("GET_PROTOCOL_FEATURES", frontend.get_protocol_features())?;
            let taken = protocol & (VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK);
            during("SET_PROTOCOL_FEATURES", frontend.set_protocol_features(taken))?;
            if taken.contains(VhostUserProtocolFeatures::REPLY_ACK) {
                frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
        }
        during("SET_FEATURES", frontend.set_features(features))?;
        Ok(Session { frontend, events: Vec::new(), features, pairs })
    }

    /// Shares the memory and starts both rings of every pair: ring `2 * i` to receive by, the next to send by.
    ///
    /// # Errors
    /// A message fails.
    pub fn start(
        &mut self,
        region: &Region<'_>,
        place: impl Fn(usize) -> RingPlace,
    ) -> Result<(), SessionError> {
        let shared = VhostUserMemoryRegionInfo {
            guest_phys_addr: region.guest,
            memory_size: region.len as u64,
            userspace_addr: region.user,
            mmap_offset: 0,
            mmap_handle: region.fd.as_raw_fd(),
        };
        during("SET_MEM_TABLE", self.frontend.set_mem_table(&[shared]))?;
        for index in 0..2 * usize::from(self.pairs) {
            self.start_ring(index, place(index))?;
        }
        Ok(())
    }

    fn start_ring(&mut self, index: usize, place: RingPlace) -> Result<(), SessionError> {
        let during = |message: &str, result| during(&format!("{message} of ring {index}"), result);
        let (kick, call) = (event()?, event()?);
        let [desc_table_addr, avail_ring_addr, used_ring_addr] = place.parts;
        let config = VringConfigData {
            queue_max_size: place.size,
            queue_size: place.size,
            flags: 0,
            desc_table_addr,
            avail_ring_addr,
            used_ring_addr,
            log_addr: None,
        };
        // A fresh packed ring begins with the driver's wrap counter at one.
        let base = if self.features & VIRTIO_F_RING_PACKED != 0 { 1 << 15 } else { 0 };
        let frontend = &mut self.frontend;
        during("SET_VRING_NUM", frontend.set_vring_num(index, place.size))?;
        during("SET_VRING_ADDR", frontend.set_vring_addr(index, &config))?;
        during("SET_VRING_BASE", frontend.set_vring_base(index, base))?;
        during("SET_VRING_CALL", frontend.set_vring_call(index, &for_crate(&call)?))?;
        during("SET_VRING_KICK", frontend.set_vring_kick(index, &for_crate(&kick)?))?;
        if self.features & VHOST_USER_F_PROTOCOL_FEATURES != 0 {
            during("SET_VRING_ENABLE", frontend.set_vring_enable(index, true))?;
        }
        self.events.push(Events { kick: Arc::new(kick), call: Arc::new(call) });
        Ok(())
    }

    /// Feature bits both sides agreed to.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Queue pairs in use.
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// What to write to, to wake the device of ring `index`.
    pub fn kick_fd(&self, index: usize) -> Option<&Arc<OwnedFd>> {
        self.events.get(index).map(|events| &events.kick)
    }

    /// What the device of ring `index` writes to.
    pub fn call_fd(&self, index: usize) -> Option<&Arc<OwnedFd>> {
        self.events.get(index).map(|events| &events.call)
    }

    /// Wakes the device of ring `index`.
    pub fn kick(&self, index: usize) {
        if let Some(fd) = self.kick_fd(index) {
            kick(fd);
        }
    }

    /// The connection, to wait for its end.
    pub fn socket(&self) -> BorrowedFd<'_> {
        #[expect(unsafe_code, reason = "the front-end gives its descriptor as a number only")]
        // SAFETY: the front-end owns the descriptor and outlives this borrow.
        unsafe {
            BorrowedFd::borrow_raw(self.frontend.as_raw_fd())
        }
    }

    /// Whether the back-end still holds the connection.
    pub fn is_alive(&self) -> bool {
        let socket = self.socket();
        let mut polled = [PollFd::new(&socket, PollFlags::IN)];
        let gone = PollFlags::HUP | PollFlags::ERR;
        poll(&mut polled, Some(&Timespec::default())).is_ok() && !polled[0].revents().intersects(gone)
    }
}

/// Wakes the device behind an event descriptor of its ring.
pub(super) fn kick(fd: &OwnedFd) {
    // It fails only when 2⁶⁴ - 1 kicks wait, and then the device has been told.
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// How many pairs there will be. The crate takes the answer for a number of rings and refuses to address more; so it is asked for by
/// a front-end of its own on the same connection.
fn queue_pairs(stream: &UnixStream, wanted: &Wanted) -> Result<u16, SessionError> {
    if wanted.pairs <= 1 || (wanted.required | wanted.optional) & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
        return Ok(1);
    }
    let stream = stream.try_clone().map_err(|e| SessionError::System("duplicating the connection", e))?;
    let mut frontend = Frontend::from_stream(stream, MOST_RINGS);
    let offered = during("GET_FEATURES", frontend.get_features())?;
    if offered & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
        return Ok(1);
    }
    let protocol = during("GET_PROTOCOL_FEATURES", frontend.get_protocol_features())?;
    if !protocol.contains(VhostUserProtocolFeatures::MQ) {
        return Ok(1);
    }
    during("SET_PROTOCOL_FEATURES", frontend.set_protocol_features(VhostUserProtocolFeatures::MQ))?;
    let most = during("GET_QUEUE_NUM", frontend.get_queue_num())?;
    Ok(u16::try_from(most).unwrap_or(u16::MAX).clamp(1, wanted.pairs))
}

fn event() -> Result<OwnedFd, SessionError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| SessionError::System("making an eventfd", e.into()))
}

/// A second descriptor of the same event, as the crate wants it.
fn for_crate(event: &OwnedFd) -> Result<EventFd, SessionError> {
    let copy = event.try_clone().map_err(|e| SessionError::System("duplicating an eventfd", e))?;
    #[expect(unsafe_code, reason = "the crate has no other way in")]
    // SAFETY: the descriptor is an eventfd that nobody else owns.
    Ok(unsafe { EventFd::from_raw_fd(copy.into_raw_fd()) })
}
