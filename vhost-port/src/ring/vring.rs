//! A ring as worker and control thread share it: the lock word, and what may be read without it.
//!
//! A worker takes the lock once per burst (a receiving one holds it until the burst's payloads are no longer named);
//! the control thread takes it for every change. So a change never happens under a burst, and neither side needs to
//! know more about the other. Uncontended the lock costs one atomic exchange per burst.
#![expect(unsafe_code, reason = "the lock hands out its contents")]

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use pmd::port::Waker;
use pmd::sys::sigbus::Alarm;

use super::device::DeviceRing;
use super::fault::RingFault;
use crate::memory::PageLog;
use crate::net::{Held, NetRules};

/// Times a worker looks at a held lock before it gives up for this burst: some tens of microseconds, the time another
/// worker takes to send a full burst of large frames through the same ring. Only a holder that lost its CPU takes longer.
const SPINS: u32 = 2000;

/// Started, enabled and not broken: worth a worker's look.
const USABLE: u8 = 1;
/// There is something to say in the guest's name.
const ANNOUNCES: u8 = 2;
/// A device runs it, or it is on its way there or back.
const OFFLOADED: u8 = 4;

/// What the lock protects.
#[derive(Default)]
pub(crate) struct RingState {
    /// The running ring, if the front-end started it.
    pub(crate) ring: Option<DeviceRing>,
    /// What was negotiated about frames.
    pub(crate) net: NetRules,
    /// Where frames are put is noted here, while the guest is being migrated.
    pub(crate) written: Option<PageLog>,
    /// What is to be sent when the guest's buffers have been translated. A ring that is usable has none.
    pub(crate) held: Held,
}

/// One ring of a port. Exists as long as the port, whether or not a guest is there.
pub(crate) struct Vring {
    lock: AtomicBool,
    /// [`USABLE`], [`ANNOUNCES`], [`OFFLOADED`].
    signs: AtomicU8,
    /// The MAC address to announce.
    announced: AtomicU64,
    /// Would be usable, but waits for the translation of an address.
    awaiting: AtomicBool,
    /// Code of the [`RingFault`] that stopped the ring, or zero.
    fault: AtomicU32,
    state: UnsafeCell<RingState>,
    kick: ArcSwapOption<OwnedFd>,
    waker: Mutex<Option<Waker>>,
    /// A queue box for this ring exists.
    pub(crate) taken: AtomicBool,
    /// Rung when the ring breaks, for the control thread.
    alarm: Arc<Alarm>,
}

// SAFETY: `state` is only reached with the lock held; the rest synchronises itself.
unsafe impl Send for Vring {}
// SAFETY: as above.
unsafe impl Sync for Vring {}

impl Vring {
    pub(crate) fn new(alarm: Arc<Alarm>) -> Vring {
        Vring {
            lock: AtomicBool::new(false),
            signs: AtomicU8::new(0),
            announced: AtomicU64::new(0),
            awaiting: AtomicBool::new(false),
            fault: AtomicU32::new(0),
            state: UnsafeCell::new(RingState::default()),
            kick: ArcSwapOption::empty(),
            waker: Mutex::new(None),
            taken: AtomicBool::new(false),
            alarm,
        }
    }

    /// Whether a burst can be tried.
    #[inline]
    pub(crate) fn usable(&self) -> bool {
        self.signs.load(Ordering::Acquire) & USABLE != 0
    }

    /// Whether a burst can be tried and there is nothing else to do.
    #[inline]
    pub(crate) fn merely_usable(&self) -> bool {
        self.signs.load(Ordering::Acquire) == USABLE
    }

    /// Whether there is something to announce.
    pub(crate) fn announces(&self) -> bool {
        self.signs.load(Ordering::Acquire) & ANNOUNCES != 0
    }

    /// Has this MAC address announced to the network by whoever receives from the ring, once it is usable; or nothing.
    pub(crate) fn announce(&self, mac: Option<[u8; 6]>) {
        let [a, b, c, d, e, f] = mac.unwrap_or_default();
        self.announced.store(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), Ordering::Relaxed);
        self.set_sign(ANNOUNCES, mac.is_some());
        self.wake();
    }

    /// Takes the MAC address to announce. For the worker that receives.
    #[cold]
    pub(crate) fn take_announced(&self) -> Option<[u8; 6]> {
        if !self.usable() || self.signs.fetch_and(!ANNOUNCES, Ordering::AcqRel) & ANNOUNCES == 0 {
            return None;
        }
        let [a, b, c, d, e, f, _, _] = self.announced.load(Ordering::Relaxed).to_le_bytes();
        Some([a, b, c, d, e, f])
    }

    fn set_sign(&self, sign: u8, on: bool) {
        if on {
            self.signs.fetch_or(sign, Ordering::AcqRel);
        } else {
            self.signs.fetch_and(!sign, Ordering::AcqRel);
        }
    }

    /// For the control thread, with the lock held or before any worker sees the ring.
    pub(crate) fn set_usable(&self, usable: bool) {
        self.set_sign(USABLE, usable);
    }

    /// Whether the guest could use it: a burst can be tried, now or when a translation has come, or a device runs it.
    pub(crate) fn live(&self) -> bool {
        self.usable() || self.awaiting() || self.offloaded()
    }

    /// Whether a device has it: workers leave it alone.
    pub(crate) fn offloaded(&self) -> bool {
        self.signs.load(Ordering::Acquire) & OFFLOADED != 0
    }

    /// For the control thread, with the lock held. An offloaded ring is not usable.
    pub(crate) fn set_offloaded(&self, offloaded: bool) {
        self.set_sign(OFFLOADED, offloaded);
    }

    /// Whether it waits for a translation.
    #[inline]
    pub(crate) fn awaiting(&self) -> bool {
        self.awaiting.load(Ordering::Acquire)
    }

    /// With the lock held: it has to wait for a translation, or need not any more. The miss has been reported by the memory table.
    #[cold]
    pub(crate) fn set_awaiting(&self, awaiting: bool) {
        self.awaiting.store(awaiting, Ordering::Release);
    }

    /// What broke the ring.
    pub(crate) fn fault(&self) -> Option<RingFault> {
        RingFault::from_code(self.fault.load(Ordering::Acquire))
    }

    /// Forgets what broke the ring: the front-end has stopped it.
    pub(crate) fn clear_fault(&self) {
        self.fault.store(0, Ordering::Release);
    }

    /// Stops the ring for what the guest did. Called with the lock held. The control thread reports it. A ring that only lacks
    /// a translation waits for it.
    #[cold]
    pub(crate) fn break_down(&self, fault: RingFault) {
        if fault == RingFault::Untranslated {
            self.set_awaiting(true);
            return self.set_usable(false);
        }
        self.fault.store(fault as u32, Ordering::Release);
        self.set_usable(false);
        self.alarm.ring();
    }

    /// Whether the memory lost its file: what was read may be zeros.
    #[inline]
    pub(crate) fn memory_gone(&self) -> bool {
        self.alarm.tripped()
    }

    /// Descriptor that becomes readable when the guest kicks.
    pub(crate) fn kick(&self) -> Option<Arc<OwnedFd>> {
        self.kick.load_full()
    }

    /// Whether there is one.
    pub(crate) fn has_kick(&self) -> bool {
        self.kick.load().is_some()
    }

    /// Replaces it.
    pub(crate) fn set_kick(&self, kick: Option<Arc<OwnedFd>>) {
        self.kick.store(kick);
    }

    /// Sets who is woken when the ring changes.
    pub(crate) fn set_waker(&self, waker: Option<Waker>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    /// Wakes the receiving worker, if it gave a waker.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waker.wake();
        }
    }

    #[inline]
    fn try_acquire(&self) -> bool {
        self.lock.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock if it comes free soon ([`SPINS`]). For workers.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<VringGuard<'_>> {
        if self.try_acquire() || (0..SPINS).any(|_| self.spin_once()) {
            return Some(VringGuard { vring: self });
        }
        None
    }

    #[cold]
    fn spin_once(&self) -> bool {
        std::hint::spin_loop();
        !self.lock.load(Ordering::Relaxed) && self.try_acquire()
    }

    /// Takes the lock, however long it takes. For the control thread only: a worker holds it for one iteration.
    pub(crate) fn lock(&self) -> VringGuard<'_> {
        let mut tries = 0u32;
        while !self.try_acquire() {
            tries += 1;
            if tries < 100 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
        VringGuard { vring: self }
    }

    /// Takes back a lock that [`VringGuard::hold`] kept.
    ///
    /// # Safety
    /// `hold` was called on this ring and not yet followed by `resume`, by the same owner.
    #[inline]
    pub(crate) unsafe fn resume(&self) -> VringGuard<'_> {
        VringGuard { vring: self }
    }
}

/// The held lock of a ring.
pub(crate) struct VringGuard<'a> {
    vring: &'a Vring,
}

impl VringGuard<'_> {
    /// Keeps the lock taken beyond the guard's life, for [`Vring::resume`].
    #[inline]
    pub(crate) fn hold(self) {
        std::mem::forget(self);
    }
}

impl Deref for VringGuard<'_> {
    type Target = RingState;
    #[inline]
    fn deref(&self) -> &RingState {
        // SAFETY: the lock is held by this guard.
        unsafe { &*self.vring.state.get() }
    }
}

impl DerefMut for VringGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut RingState {
        // SAFETY: the lock is held by this guard, which is borrowed exclusively.
        unsafe { &mut *self.vring.state.get() }
    }
}

impl Drop for VringGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.vring.lock.store(false, Ordering::Release);
    }
}
