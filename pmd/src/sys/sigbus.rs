//! Surviving memory whose file shrinks under us.
//!
//! A guest's memory is a file that the front-end can truncate at any time; touching a page beyond its new end
//! raises SIGBUS, which by default ends the process and with it every other guest's network. Here a mapping that
//! someone else's file backs is registered with a [`Guard`]. The signal handler looks the faulting address up; if a
//! guard covers it, it maps zero pages over the whole range, so the interrupted access goes on and finds zeros, and trips the
//! range's [`Alarm`]. The owner of the range sees the alarm and stops using it.
//!
//! A SIGBUS elsewhere goes to whoever handled the signal before us (by default: the process dies, as it should).
//!
//! The handler only does what is safe in a signal: atomic loads and stores, `mmap`, and `write` to an eventfd.
//! The registry is a fixed array of atomics for that reason. Registration costs a scan of it, on control threads only.
#![expect(unsafe_code, reason = "installs a signal handler and replaces mappings")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::event::{EventfdFlags, eventfd};

/// Most ranges guarded at once: sixteen guests with every memory slot used.
const SLOTS: usize = 8192;

/// Tripped when a guarded range lost its file. Shared by the ranges of one owner.
#[derive(Debug)]
pub struct Alarm {
    tripped: AtomicBool,
    event: OwnedFd,
}

impl Alarm {
    /// An alarm that is not tripped.
    pub fn new() -> io::Result<Arc<Alarm>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Alarm { tripped: AtomicBool::new(false), event }))
    }

    /// Whether a range lost its file since the last [`Alarm::reset`]. Cheap: one relaxed load.
    #[inline]
    pub fn tripped(&self) -> bool {
        self.tripped.load(Ordering::Relaxed)
    }

    /// Forgets a past trip, when the ranges have been replaced.
    pub fn reset(&self) {
        self.tripped.store(false, Ordering::Relaxed);
    }

    /// Makes the event readable, as a trip does: for owners that wait on it for other reasons too.
    pub fn ring(&self) {
        // A full counter means that the event is readable already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Makes the event unreadable again.
    pub fn clear(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.event, &mut count);
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// One guarded range. `start` is written last and cleared first, so a handler that sees it nonzero sees the rest.
struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
    alarm: AtomicPtr<Alarm>,
}

static REGISTRY: [Slot; SLOTS] = [const {
    Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), alarm: AtomicPtr::new(std::ptr::null_mut()) }
}; SLOTS];

/// Slots ever used: the handler looks no further.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Serialises registration.
static WRITER: Mutex<()> = Mutex::new(());
/// What handled SIGBUS before us; set once, before our handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();

/// Keeps a range guarded until dropped.
#[derive(Debug)]
pub struct Guard {
    slot: usize,
    /// The handler reaches the alarm by address.
    _alarm: Arc<Alarm>,
}

impl Guard {
    /// Guards `len` bytes from address `start`: a whole shared file mapping of the caller's, page-aligned.
    ///
    /// The guard must be dropped before the range is unmapped, and the range no longer used by then. Fails when
    /// the handler cannot be installed or all slots are in use.
    pub fn new(start: usize, len: usize, alarm: &Arc<Alarm>) -> io::Result<Guard> {
        install()?;
        let _writer = WRITER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let free = REGISTRY.iter().position(|slot| slot.start.load(Ordering::Relaxed) == 0);
        let Some(index) = free else {
            return Err(io::Error::other(format!("more than {SLOTS} memory regions mapped")));
        };
        let slot = &REGISTRY[index];
        slot.len.store(len, Ordering::Relaxed);
        slot.alarm.store(Arc::as_ptr(alarm).cast_mut(), Ordering::Relaxed);
        USED.fetch_max(index + 1, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Ok(Guard { slot: index, _alarm: Arc::clone(alarm) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _writer = WRITER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        REGISTRY[self.slot].start.store(0, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    let result = INSTALLED.get_or_init(|| {
        // SAFETY: plain data; all-zero is a valid value for both.
        let (mut old, mut new): (libc::sigaction, libc::sigaction) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: `old` is a valid place for the answer.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut old) } != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
        }
        let _ = PREVIOUS.set(old);
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        new.sa_sigaction = handler as libc::sighandler_t;
        // On the alternate stack where there is one; and the previous handler may fault on purpose.
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: `new` is filled in and its handler is async-signal-safe (see the module's words).
        if unsafe { libc::sigaction(libc::SIGBUS, &new, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
        }
        Ok(())
    });
    result.map_err(io::Error::from_raw_os_error)
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is the thread's own; it is put back at the end, since the interrupted code may look at it.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo; si_addr is set for SIGBUS raised by a fault.
    let (address, from_fault) = unsafe { ((*info).si_addr().addr(), (*info).si_code > 0) };
    if !(from_fault && replace(address)) {
        forward(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Maps zeros over the guarded range that holds `address` and trips its alarm; false when there is none.
fn replace(address: usize) -> bool {
    for slot in REGISTRY.iter().take(USED.load(Ordering::Relaxed)) {
        let start = slot.start.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if start == 0 || address.wrapping_sub(start) >= len {
            continue;
        }
        // SAFETY: the range is a mapping that its owner registered for exactly this; its thread is the one
        // interrupted, or uses the range like it, so the guard is alive.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::with_exposed_provenance_mut(start),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        // SAFETY: the guard of the slot holds the alarm.
        let alarm = unsafe { &*slot.alarm.load(Ordering::Relaxed) };
        alarm.tripped.store(true, Ordering::Relaxed);
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes of a local to a descriptor the alarm owns.
        unsafe { libc::write(alarm.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        return true;
    }
    false
}

/// Does what would have been done without us.
fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(previous) = PREVIOUS.get() else { return };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The default action is wanted: put it back. The instruction faults again when we return, or, if
            // somebody sent the signal, is raised again here.
            // SAFETY: restores a disposition that was in force before; raise is async-signal-safe.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Action = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: SA_SIGINFO says that the stored address is a function of this type.
            let action = unsafe { std::mem::transmute::<libc::sighandler_t, Action>(handler) };
            action(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO the stored address is a function of this type.
            let action =
                unsafe { std::mem::transmute::<libc::sighandler_t, extern "C" fn(libc::c_int)>(handler) };
            action(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    #[test]
    fn truncated_file_reads_as_zeros_and_trips_the_alarm() {
        let len = 8 * 4096;
        let file = memfd_create("sigbus-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, len as u64).unwrap();
        let alarm = Alarm::new().unwrap();
        // SAFETY: a fresh mapping, used by address below and unmapped at the end.
        unsafe {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let map = mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &file, 0).unwrap().cast::<u8>();
            let guard = Guard::new(map.expose_provenance(), len, &alarm).unwrap();
            map.add(5 * 4096).write_volatile(7);
            assert!(!alarm.tripped());
            ftruncate(&file, 4096).unwrap();
            assert_eq!(map.add(5 * 4096).read_volatile(), 0);
            assert!(alarm.tripped());
            map.add(6 * 4096).write_volatile(1);
            assert_eq!(map.add(6 * 4096).read_volatile(), 1);
            drop(guard);
            munmap(map.cast(), len).unwrap();
        }
        alarm.reset();
        assert!(!alarm.tripped());
    }

    #[test]
    fn slots_are_reused() {
        let alarm = Alarm::new().unwrap();
        for _ in 0..SLOTS + 1 {
            drop(Guard::new(0x1000, 0, &alarm).unwrap());
        }
    }
}
