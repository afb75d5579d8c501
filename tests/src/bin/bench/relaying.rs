//! Nothing but the copies: a thread that reads each frame from one TAP device and writes it to the other.
//!
//! What no switch can exceed that carries frames between two TAP devices in one thread: the kernel copies a frame out when it is read and in when it is
//! written, and nobody looks at it in between. The devices offer what ours do, checksums and TCP segmentation, so frames are as large as they get.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use ::tests::failure::{During as _, Failure, Result};
use pmd::sys::netif::InterfaceName;
use pmd::sys::tun::{self, offload};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, read, write};

/// The largest frame, with its virtio-net header.
const FRAME: usize = 65_536 + 64;
/// Frames from one device before the other has its turn.
const BURST: usize = 32;

/// A thread between two devices; it ends when this is dropped, and the devices with it.
#[derive(Debug)]
pub(crate) struct Relay {
    over: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Makes two TAP devices, and starts.
    ///
    /// # Errors
    /// The kernel refuses a device.
    pub(crate) fn start(devices: [&str; 2]) -> Result<Self> {
        let [a, b] = devices.map(device);
        let taps = [a?, b?];
        let over = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).during("an eventfd")?);
        let theirs = Arc::clone(&over);
        let thread = Some(thread::spawn(move || relay(&taps, &theirs)));
        Ok(Self { over, thread })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = write(&self.over, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn device(name: &str) -> Result<OwnedFd> {
    let name = InterfaceName::new(name).map_err(Failure::new)?;
    let open = || -> io::Result<OwnedFd> {
        let fd = tun::open_queue(&name, false)?;
        tun::set_offload(&fd, offload::CSUM | offload::TSO4 | offload::TSO6 | offload::TSO_ECN)?;
        Ok(fd)
    };
    open().during(format_args!("TAP device {}", name.as_str()))
}

/// Sleeps when neither device has a frame, and ends when `over` is written.
fn relay(taps: &[OwnedFd; 2], over: &OwnedFd) {
    let [a, b] = taps;
    let mut frame = vec![0_u8; FRAME];
    loop {
        if pass(a, b, &mut frame) | pass(b, a, &mut frame) {
            continue;
        }
        let mut fds = [a, b, over].map(|fd| PollFd::new(fd, PollFlags::IN));
        let _ = poll(&mut fds, None);
        if fds.last().is_some_and(|over| !over.revents().is_empty()) {
            return;
        }
    }
}

/// Carries what one device has, and says whether that was anything. A frame that the other does not take is lost, as in a switch.
fn pass(from: &OwnedFd, to: &OwnedFd, frame: &mut [u8]) -> bool {
    for passed in 0..BURST {
        match read(from, &mut *frame) {
            Ok(len) => {
                let _ = frame.get(..len).map(|whole| write(to, whole));
            }
            Err(Errno::INTR) => {}
            Err(_) => return passed > 0,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{FRAME, Relay, pass};
    use rustix::io::{read, write};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::OwnedFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap()
    }

    #[test]
    fn frames_pass_whole_and_in_order() {
        let ((near, a), (b, far)) = (pair(), pair());
        let mut frame = vec![0; FRAME];
        assert!(!pass(&a, &b, &mut frame));
        for sent in [&b"one"[..], b"another"] {
            write(&near, sent).unwrap();
        }
        assert!(pass(&a, &b, &mut frame));
        for sent in [&b"one"[..], b"another"] {
            let len = read(&far, &mut frame[..]).unwrap();
            assert_eq!(&frame[..len], sent);
        }
    }

    #[test]
    fn a_relay_has_two_devices_and_ends() {
        let names = ["a", "b"].map(|end| format!("rl{}{end}", std::process::id()));
        let exists = |name: &String| std::path::Path::new("/sys/class/net").join(name).exists();
        let relay = Relay::start([&names[0], &names[1]]).unwrap();
        assert!(names.iter().all(exists));
        drop(relay);
        assert!(!names.iter().any(exists));
    }
}
