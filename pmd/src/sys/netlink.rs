//! Hearing of changes of network interfaces (rtnetlink(7)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// Tells that some interface of the network namespace it was opened in has changed. What changed is for the caller to
/// look up: an event may be lost when many come at once, a look never is.
#[derive(Debug)]
pub struct LinkEvents {
    socket: OwnedFd,
}

impl LinkEvents {
    /// Starts listening. Needs no privilege.
    pub fn open() -> io::Result<LinkEvents> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, libc::RTMGRP_LINK as u32))?;
        Ok(LinkEvents { socket })
    }

    /// Waits for a change. False when `stop` became readable instead.
    pub fn wait(&self, stop: impl AsFd) -> io::Result<bool> {
        loop {
            let mut fds = [PollFd::new(&stop, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(false),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            self.drain()?;
            return Ok(true);
        }
    }

    fn drain(&self) -> io::Result<()> {
        let mut message = [0; 8192];
        loop {
            match recv(&self.socket, &mut message[..], RecvFlags::empty()) {
                // Messages were lost: the caller looks anyway.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
