//! Nothing but a wake-up: how soon a thread on the switch's processor runs when the generator's writes an eventfd that it sleeps on.
//!
//! What no switch can undercut that sleeps when it has nothing to do. No rings, no frame, no lookup: the sleeper writes one word, and that is all.
//! The rest is as in `vsgen wake` and a worker of `vswitchd`: the same processors, the waking one spins through the silence, the eventfd is in an
//! edge-triggered epoll set and is never read.

use std::hint::spin_loop;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use ::tests::failure::{During as _, Failure, Result};
use pmd::sys::clock::{cycles, cycles_per_second};
use pmd::sys::cpu::pin_current_thread;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::write;

use crate::machine::{GENERATOR_CPU, SWITCH_CPU};
use crate::vsgen::Latency;

/// A sleeper that takes longer does not wake at all.
const LOST: Duration = Duration::from_secs(1);

/// What both threads hold.
struct Bed {
    kick: OwnedFd,
    epoll: OwnedFd,
    /// How often the sleeper has been awake.
    awake: AtomicU32,
    over: AtomicBool,
}

/// Wakes a thread `count` times, each after `gap` of silence, and gives how long it took from before the kick until its word was seen.
///
/// # Errors
/// A thread cannot be pinned, or the sleeper does not wake.
pub(crate) fn marks(count: u32, gap: Duration) -> Result<Latency> {
    let bed = Arc::new(Bed::new().during("an eventfd in an epoll set")?);
    let theirs = Arc::clone(&bed);
    let sleeper = thread::spawn(move || pin_current_thread(SWITCH_CPU).map(|()| sleep(&theirs)));
    let ours = Arc::clone(&bed);
    let waker = thread::spawn(move || {
        pin_current_thread(GENERATOR_CPU).during("pinning to the generator's processor")?;
        (0..count).map(|_| wake(&ours, gap)).collect::<Result<Vec<u64>>>()
    });
    let panicked = |_| Failure::new("a thread of the bare wake-up panicked");
    let ticks = waker.join().map_err(panicked);
    bed.over.store(true, Ordering::Release);
    bed.kick()?;
    sleeper.join().map_err(panicked)?.during("pinning to the switch's processor")?;
    Ok(latency(ticks??))
}

impl Bed {
    fn new() -> rustix::io::Result<Self> {
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &kick, epoll::EventData::new_u64(0), flags)?;
        Ok(Self { kick, epoll, awake: AtomicU32::new(0), over: AtomicBool::new(false) })
    }

    fn kick(&self) -> Result<()> {
        write(&self.kick, &1_u64.to_ne_bytes()).during("writing an eventfd").map(drop)
    }
}

fn sleep(bed: &Bed) {
    let mut events = [MaybeUninit::uninit(); 8];
    while !bed.over.load(Ordering::Acquire) {
        if epoll::wait(&bed.epoll, &mut events, None).is_ok() {
            bed.awake.fetch_add(1, Ordering::Release);
        }
    }
}

/// Ticks one wake-up took.
fn wake(bed: &Bed, gap: Duration) -> Result<u64> {
    let (silence, gap, patience) = (cycles(), ticks(gap), ticks(LOST));
    while cycles().wrapping_sub(silence) < gap {
        spin_loop();
    }
    let before = bed.awake.load(Ordering::Acquire);
    let start = cycles();
    bed.kick()?;
    while bed.awake.load(Ordering::Acquire) == before {
        if cycles().wrapping_sub(start) > patience {
            return Err(Failure::new("a thread that slept on an eventfd did not wake"));
        }
    }
    Ok(cycles().wrapping_sub(start))
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(u128::from(cycles_per_second()) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

fn latency(mut ticks: Vec<u64>) -> Latency {
    ticks.sort_unstable();
    let microseconds = |share: f64| {
        #[expect(clippy::cast_precision_loss, reason = "a second has far fewer ticks than 2^52")]
        let [all, hz] = [ticks.len() as f64, cycles_per_second() as f64];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
        let at = (all * share).ceil() as usize;
        #[expect(clippy::cast_precision_loss, reason = "a second has far fewer ticks than 2^52")]
        let found = ticks.get(at.saturating_sub(1)).map_or(f64::NAN, |&t| t as f64);
        found / hz * 1e6
    };
    Latency { p50: microseconds(0.5), p99: microseconds(0.99), p999: microseconds(0.999) }
}

#[cfg(test)]
mod tests {
    use super::{Bed, cycles_per_second, latency, marks, sleep};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_sleeper_is_woken_each_time() {
        let found = marks(20, Duration::from_micros(100)).unwrap();
        assert!(found.p50 > 0.0 && found.p50 <= found.p99 && found.p99 <= found.p999, "{found:?}");
    }

    #[test]
    fn a_sleeper_that_is_told_so_ends() {
        let bed = Arc::new(Bed::new().unwrap());
        let theirs = Arc::clone(&bed);
        let sleeper = thread::spawn(move || sleep(&theirs));
        bed.over.store(true, Ordering::Release);
        bed.kick().unwrap();
        sleeper.join().unwrap();
    }

    #[test]
    fn marks_are_ranks() {
        let microsecond = cycles_per_second() / 1_000_000;
        let found = latency((1..=200).rev().map(|n| n * microsecond).collect());
        let near = |a: f64, b: f64| (a - b).abs() < 0.5;
        assert!(near(found.p50, 100.0) && near(found.p99, 198.0) && near(found.p999, 200.0), "{found:?}");
        assert!(latency(Vec::new()).p50.is_nan());
    }
}
