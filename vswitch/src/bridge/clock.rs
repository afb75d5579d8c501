//! Where bridges and slow path take the time from.

use std::fmt;
use std::sync::Arc;

use pmd::sys::clock::coarse_ms;

/// Milliseconds that never go back. The same clock that workers stamp flows with; a test gives its own.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Clock {
    /// A clock that is read by a function.
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
        Clock { read: Arc::new(read) }
    }

    /// The time.
    pub fn now_ms(&self) -> u64 {
        (self.read)()
    }
}

impl Default for Clock {
    /// The kernel's coarse monotonic clock.
    fn default() -> Clock {
        Clock::new(coarse_ms)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({} ms)", self.now_ms())
    }
}
