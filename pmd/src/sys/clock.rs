//! Clocks of the data path.
//!
//! [`cycles`] is the time-stamp counter: about 20 cycles to read, used for spinning and load. [`coarse_ms`] is the
//! kernel's tick clock: a few nanoseconds, a few milliseconds coarse, used for ages.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Ticks of the time-stamp counter, or nanoseconds where there is none.
#[inline]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        timestamp_counter()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[expect(unsafe_code, reason = "the counter has no safe wrapper")]
fn timestamp_counter() -> u64 {
    // SAFETY: reading the counter has no precondition on x86_64.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks of [`cycles`] per second. Measured once, over 10 ms, by the first caller.
pub fn cycles_per_second() -> u64 {
    static RATE: OnceLock<u64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (from, start) = (cycles(), Instant::now());
        std::thread::sleep(Duration::from_millis(10));
        let (ticks, time) = (u128::from(cycles().wrapping_sub(from)), start.elapsed().as_nanos().max(1));
        u64::try_from(ticks * 1_000_000_000 / time).unwrap_or(u64::MAX).max(1)
    })
}

/// Milliseconds of the monotonic clock, as of the last kernel tick.
#[inline]
pub fn coarse_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
