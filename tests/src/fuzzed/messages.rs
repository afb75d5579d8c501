//! The front-end's side of the socket: any messages in any order with any descriptors.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use pmd::packet::BatchStorage;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::front_end::Listening;

/// Reads `data` as messages and sends them: per message one byte of request, one of what else (descriptors and the
/// reply flag), one of payload length, the payload.
///
/// Invariants: the port answers, refuses or hangs up, but does not hang and does not die; the next connection works.
pub fn vhost_messages(data: &[u8]) {
    static PORT: OnceLock<Mutex<Listening>> = OnceLock::new();
    let port = PORT.get_or_init(|| Mutex::new(Listening::open()));
    let listening = port.lock().unwrap_or_else(PoisonError::into_inner);

    let front_end = listening.connect();
    let mut rest = data;
    while let Some((&[request, what, length], more)) = rest.split_first_chunk::<3>() {
        let (payload, more) = more.split_at(more.len().min(usize::from(length)));
        rest = more;
        let fds: Vec<OwnedFd> = (0..what & 0b11).map(|_| descriptor(what)).collect();
        let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let version_and_reply = 1 | u32::from(what & 0x80 != 0) << 3;
        if !front_end.send(u32::from(request), version_and_reply, payload, &borrowed) {
            break;
        }
    }
    // The worker's side must stand whatever state the session is in.
    if let Ok(mut queue) = listening.port.rx_queue(0) {
        let mut storage = BatchStorage::new();
        queue.rx_burst(&mut storage.begin());
        queue.rx_done();
    }
    front_end.finish();
    let mut next = listening.connect();
    assert!(next.settle(), "the port does not take the next front-end");
    next.finish();
}

/// Memory of one of several sizes, or an eventfd.
fn descriptor(what: u8) -> OwnedFd {
    if what & 0b100 != 0 {
        return eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    }
    let memory = memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap();
    let size = [0, 4096, 1 << 16, 1 << 20][usize::from(what >> 4 & 0b11)];
    ftruncate(&memory, size).unwrap();
    memory
}
