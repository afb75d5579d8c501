//! The vhost-user conversation of one guest: [`vhost_port::front_end::Session`], with what a generator wants of it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pmd::virtio::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost_port::front_end::{self, SessionError, Wanted};

use crate::error::{During as _, Error};
use crate::memory::Memory;

/// What is always negotiated.
const PLAIN: u64 = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES;
/// What `--offload tso` adds.
const OFFLOAD: u64 = VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6;

/// How long a switch may take to come back, or to connect to us; Open vSwitch tries every second.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a switch may just be starting to listen, and the pause between attempts.
const STARTING: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

/// Connects to the socket, or, if the path is spelled `listen:PATH`, lets the switch connect to us.
fn connect(path: &Path) -> Result<UnixStream, Error> {
    let name = path.display();
    let Some(ours) = path.to_str().and_then(|p| p.strip_prefix("listen:")) else {
        let start = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused && start.elapsed() < STARTING => {
                    thread::sleep(PAUSE);
                }
                other => {
                    return other
                        .during(format_args!("connecting to {name} (is the switch listening there?)"));
                }
            }
        }
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
    Ok(listener.accept().during(&name)?.0)
}

/// Where the conversation is to be, and what is to be agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The port's socket.
    pub(crate) path: PathBuf,
    /// Checksum offload and TSO.
    pub(crate) offload: bool,
}

/// A running conversation; the back-end lets go of the guest when it is dropped.
pub(crate) struct Session {
    inner: front_end::Session,
    path: String,
}

impl Session {
    /// Connects, negotiates, shares the memory and starts both rings, which are as the memory has them.
    pub(crate) fn start(terms: &Terms, memory: &Memory) -> Result<Self, Error> {
        let &Terms { ref path, offload } = terms;
        let name = path.display();
        let when = |on: bool, features: u64| if on { features } else { 0 };
        let required = PLAIN | when(offload, OFFLOAD) | when(memory.is_packed(), VIRTIO_F_RING_PACKED);
        let wanted = Wanted { required, optional: 0, pairs: 1 };
        let mut inner = front_end::Session::negotiate(connect(path)?, &wanted).map_err(|error| match error {
            SessionError::NotOffered(missing) => {
                let hint = if missing.contains(&"VIRTIO_F_RING_PACKED") {
                    "; use --ring split, or turn packed rings on there"
                } else if offload {
                    "; Open vSwitch does with other_config:userspace-tso-enable=true at its start, net_vhost with tso=1"
                } else {
                    ""
                };
                let missing = missing.join(", ");
                Error::Failed(format!("{name}: the switch does not offer {missing}{hint}"))
            }
            other => Error::Failed(format!("{name}: {other}")),
        })?;
        inner.start(&memory.region(), |index| memory.place(index)).during(&name)?;
        Ok(Self { inner, path: name.to_string() })
    }

    /// The same with a switch that has been away. Of where rings stand it is told nothing, as DPDK's virtio-user tells nothing: for
    /// split rings it is in the guest's memory, and of packed ones the switch must know itself.
    pub(crate) fn resume(terms: &Terms, memory: &Memory) -> Result<Self, Error> {
        let start = Instant::now();
        loop {
            match Self::start(terms, memory) {
                Err(_) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
                other => return other,
            }
        }
    }

    /// Feature bits both sides agreed to.
    pub(crate) fn features(&self) -> u64 {
        self.inner.features()
    }

    /// Wakes the device of ring `index`.
    pub(crate) fn kick(&self, index: usize) {
        self.inner.kick(index);
    }

    /// Whether the switch still holds the connection.
    pub(crate) fn is_alive(&self) -> bool {
        self.inner.is_alive()
    }

    /// An error if the switch has closed the connection.
    pub(crate) fn must_be_alive(&self) -> Result<(), Error> {
        if self.is_alive() {
            return Ok(());
        }
        Err(Error::Failed(format!("{}: the switch closed the connection", self.path)))
    }
}
