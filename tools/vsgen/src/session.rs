//! The vhost-user conversation of one guest, as front-end.
//!
//! Says what DPDK's virtio-user says, in an order that our switch, Open vSwitch and DPDK's `net_vhost` all take: owner, features,
//! memory, then per ring size, addresses, base, call and kick descriptor (DPDK calls a ring ready only with both), enable. With
//! `REPLY_ACK` every message is answered, so an error names the message that was refused.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use pmd::virtio::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MRG_RXBUF, names,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::error::{During as _, Error};

/// What is always negotiated.
const PLAIN: u64 = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES;
/// What `--offload tso` adds.
const OFFLOAD: u64 = VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6;
/// Rings of a guest: one pair.
const RINGS: usize = 2;

/// A ring's two event descriptors.
pub(crate) struct Events {
    /// Written to wake the device.
    pub(crate) kick: EventFd,
    /// Written by the device to wake us; nobody waits for it, but a ring without one never becomes ready.
    _call: EventFd,
}

/// How long a switch that connects to us may take to try again; Open vSwitch does every second.
const PATIENCE: Duration = Duration::from_secs(15);

/// Connects to the socket, or, if the path is spelled `listen:PATH`, lets the switch connect to us.
fn connect(path: &Path) -> Result<Frontend, Error> {
    let name = path.display();
    let Some(ours) = path.to_str().and_then(|p| p.strip_prefix("listen:")) else {
        return Frontend::connect(path, RINGS as u64)
            .during(format_args!("connecting to {name} (is the switch listening there?)"));
    };
    // Left by an earlier run, or there is nothing to remove.
    let _ = std::fs::remove_file(ours);
    let listener = UnixListener::bind(ours).during(&name)?;
    let mut waiting = [PollFd::new(&listener, PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    if poll(&mut waiting, Some(&patience)).during(&name)? == 0 {
        let seconds = PATIENCE.as_secs();
        return Err(Error::Failed(format!("{name}: the switch did not connect within {seconds} s")));
    }
    let (stream, _) = listener.accept().during(&name)?;
    Ok(Frontend::from_stream(stream, RINGS as u64))
}

/// A running conversation; the back-end lets go of the guest when it is dropped.
pub(crate) struct Session {
    frontend: Frontend,
    events: Vec<Events>,
    features: u64,
    path: String,
}

impl Session {
    /// Connects, negotiates, shares the memory and starts both rings.
    pub(crate) fn start(
        path: &Path,
        offload: bool,
        packed: bool,
        region: VhostUserMemoryRegionInfo,
        ring: impl Fn(usize) -> VringConfigData,
    ) -> Result<Self, Error> {
        let name = path.display();
        let mut frontend = connect(path)?;
        let during = |message: &str| format!("{name}: {message}");
        frontend.set_owner().during(during("SET_OWNER"))?;
        let offered = frontend.get_features().during(during("GET_FEATURES"))?;
        let when = |on: bool, features: u64| if on { features } else { 0 };
        let features = PLAIN | when(offload, OFFLOAD) | when(packed, VIRTIO_F_RING_PACKED);
        let missing: Vec<_> = names(features & !offered).collect();
        if !missing.is_empty() {
            let hint = if packed && offered & VIRTIO_F_RING_PACKED == 0 {
                "; use --ring split, or turn packed rings on there"
            } else if offload {
                "; Open vSwitch does with other_config:userspace-tso-enable=true at its start, net_vhost with tso=1"
            } else {
                ""
            };
            let missing = missing.join(", ");
            return Err(Error::Failed(format!("{name}: the switch does not offer {missing}{hint}")));
        }
        let protocol = frontend.get_protocol_features().during(during("GET_PROTOCOL_FEATURES"))?;
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        frontend.set_protocol_features(protocol & wanted).during(during("SET_PROTOCOL_FEATURES"))?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        frontend.set_features(features).during(during("SET_FEATURES"))?;
        frontend.set_mem_table(&[region]).during(during("SET_MEM_TABLE"))?;
        let mut session = Self { frontend, events: Vec::new(), features, path: name.to_string() };
        for index in 0..RINGS {
            session.start_ring(index, &ring(index))?;
        }
        Ok(session)
    }

    fn start_ring(&mut self, index: usize, config: &VringConfigData) -> Result<(), Error> {
        let path = self.path.clone();
        let during = |message: &str| format!("{path}: {message} of ring {index}");
        let event = || EventFd::new(EFD_NONBLOCK).during("eventfd");
        let events = Events { kick: event()?, _call: event()? };
        // A fresh packed ring begins with the driver's wrap counter at one.
        let base = if self.features & VIRTIO_F_RING_PACKED != 0 { 1 << 15 } else { 0 };
        let frontend = &mut self.frontend;
        frontend.set_vring_num(index, config.queue_size).during(during("SET_VRING_NUM"))?;
        frontend.set_vring_addr(index, config).during(during("SET_VRING_ADDR"))?;
        frontend.set_vring_base(index, base).during(during("SET_VRING_BASE"))?;
        frontend.set_vring_call(index, &events._call).during(during("SET_VRING_CALL"))?;
        frontend.set_vring_kick(index, &events.kick).during(during("SET_VRING_KICK"))?;
        frontend.set_vring_enable(index, true).during(during("SET_VRING_ENABLE"))?;
        self.events.push(events);
        Ok(())
    }

    /// Feature bits both sides agreed to.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// Wakes the device of ring `index`.
    pub(crate) fn kick(&self, index: usize) {
        if let Some(events) = self.events.get(index) {
            // It fails only when 2⁶⁴ - 1 kicks wait, and then the device has been told.
            let _ = events.kick.write(1);
        }
    }

    /// An error if the switch has closed the connection.
    pub(crate) fn must_be_alive(&self) -> Result<(), Error> {
        #[expect(unsafe_code, reason = "the front-end gives its descriptor as a number only")]
        // SAFETY: the front-end owns the descriptor and outlives this borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(self.frontend.as_raw_fd()) };
        let mut polled = [PollFd::new(&socket, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).during("poll")?;
        if polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(Error::Failed(format!("{}: the switch closed the connection", self.path)));
        }
        Ok(())
    }
}
