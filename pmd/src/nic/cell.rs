//! A ring, and who may touch it now.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::model::Fault;

/// A ring between its worker and the control side. See [`super`].
///
/// Cost for the worker: one uncontended lock and unlock per burst.
pub(super) struct Cell<R> {
    /// Empty while the card does not run.
    ring: Mutex<Option<R>>,
    /// Received payload is in use outside of the lock.
    held: AtomicBool,
    /// The fault the worker met, as a number; zero is none.
    fault: AtomicU8,
}

impl<R> Default for Cell<R> {
    fn default() -> Self {
        Cell { ring: Mutex::new(None), held: AtomicBool::new(false), fault: AtomicU8::new(0) }
    }
}

/// How long the control side waits for a worker to be done with a burst, in total, before it takes the ring all the same. Only a worker that has
/// been stopped by a debugger or an overloaded machine takes that long.
const PATIENCE: Duration = Duration::from_secs(5);

impl<R> Cell<R> {
    /// The ring, if the control side does not have it. Never waits.
    #[inline]
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Option<R>>> {
        match self.ring.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The ring, for who has it for moments: other workers of a shared transmit ring.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<R>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says, under the lock, that payload is in use until [`Cell::let_go`].
    #[inline]
    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// Whether payload is in use.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Payload is in use no more.
    #[inline]
    pub(super) fn let_go(&self) {
        self.held.store(false, Ordering::Release);
    }

    /// The ring, for the control side: waits until no payload is in use.
    pub(super) fn take(&self) -> MutexGuard<'_, Option<R>> {
        const STEP: Duration = Duration::from_micros(200);
        for _ in 0..PATIENCE.as_micros() / STEP.as_micros() {
            let guard = self.lock();
            if !self.is_held() {
                return guard;
            }
            drop(guard);
            std::thread::sleep(STEP);
        }
        self.lock()
    }

    /// Notes a fault. The first counts.
    #[cold]
    pub(super) fn report(&self, fault: Fault) {
        let number = match fault {
            Fault::BadDescriptor => 1,
            Fault::Stuck => 2,
            Fault::Gone => 3,
            Fault::NeedsReset => 4,
            Fault::Functions => 5,
        };
        let _ = self.fault.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The fault noted.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self.fault.load(Ordering::Relaxed) {
            1 => Some(Fault::BadDescriptor),
            2 => Some(Fault::Stuck),
            3 => Some(Fault::Gone),
            4 => Some(Fault::NeedsReset),
            5 => Some(Fault::Functions),
            _ => None,
        }
    }

    /// Forgets the fault: there is a new ring.
    pub(super) fn forget_fault(&self) {
        self.fault.store(0, Ordering::Relaxed);
    }
}
