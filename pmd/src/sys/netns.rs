//! Network namespaces, for tests that need one of their own.
#![expect(unsafe_code, reason = "unshare")]

use std::io;

/// Moves the calling thread into a new, empty network namespace, which goes with the thread and what it starts.
/// Needs CAP_SYS_ADMIN.
pub fn enter_new() -> io::Result<()> {
    // SAFETY: unshare with CLONE_NEWNET changes nothing but the calling thread's namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
