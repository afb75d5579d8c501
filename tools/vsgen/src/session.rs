//! The vhost-user conversation of one guest: [`vhost_port::front_end::Session`], with what a generator wants of it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use pmd::virtio::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost_port::front_end::{self, Region, RingPlace, SessionError, Wanted};

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

/// How long a switch that connects to us may take to try again; Open vSwitch does every second.
const PATIENCE: Duration = Duration::from_secs(15);

/// Attempts to connect to a switch that is just starting to listen, and the pause between them.
const ATTEMPTS: (u32, Duration) = (5, Duration::from_millis(100));

/// Connects to the socket, or, if the path is spelled `listen:PATH`, lets the switch connect to us.
fn connect(path: &Path) -> Result<UnixStream, Error> {
    let name = path.display();
    let Some(ours) = path.to_str().and_then(|p| p.strip_prefix("listen:")) else {
        let mut left = ATTEMPTS.0;
        loop {
            match UnixStream::connect(path) {
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused && left > 0 => left -= 1,
                other => {
                    return other
                        .during(format_args!("connecting to {name} (is the switch listening there?)"));
                }
            }
            thread::sleep(ATTEMPTS.1);
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

/// A running conversation; the back-end lets go of the guest when it is dropped.
pub(crate) struct Session {
    inner: front_end::Session,
    path: String,
}

impl Session {
    /// Connects, negotiates, shares the memory and starts both rings.
    pub(crate) fn start(
        path: &Path,
        offload: bool,
        packed: bool,
        region: &Region<'_>,
        ring: impl Fn(usize) -> RingPlace,
    ) -> Result<Self, Error> {
        let name = path.display();
        let when = |on: bool, features: u64| if on { features } else { 0 };
        let required = PLAIN | when(offload, OFFLOAD) | when(packed, VIRTIO_F_RING_PACKED);
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
        inner.start(region, ring).during(&name)?;
        Ok(Self { inner, path: name.to_string() })
    }

    /// Feature bits both sides agreed to.
    pub(crate) fn features(&self) -> u64 {
        self.inner.features()
    }

    /// Wakes the device of ring `index`.
    pub(crate) fn kick(&self, index: usize) {
        self.inner.kick(index);
    }

    /// An error if the switch has closed the connection.
    pub(crate) fn must_be_alive(&self) -> Result<(), Error> {
        if self.inner.is_alive() {
            return Ok(());
        }
        Err(Error::Failed(format!("{}: the switch closed the connection", self.path)))
    }
}
