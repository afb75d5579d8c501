//! Replaying a capture.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::Capture;
use crate::drivers::queue_slots::Taken;
use crate::packet::{BURST, Batch, Span};
use crate::port::{Armed, PmdError, QueueCounters, RxQueue, Waker};
use crate::sys::clock;

/// The receive queue of a capture.
pub(super) struct Replay {
    capture: Arc<Capture>,
    next: usize,
    repeat: bool,
    pace: Option<Pace>,
    counters: Arc<QueueCounters>,
    _taken: Taken,
}

/// Keeps the distances in time that the capture has.
struct Pace {
    /// Cycle count when the first frame of this round went out.
    started: Option<u64>,
    /// Wakes a sleeping worker for the next frame.
    timer: Arc<OwnedFd>,
}

impl Pace {
    fn new() -> Result<Pace, PmdError> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|e| PmdError::system("making a timer for a paced replay", "", e))?;
        // Measures the clock now, which takes a while, and not in the worker's first burst.
        clock::cycles_per_second();
        Ok(Pace { started: None, timer: Arc::new(timer) })
    }

    /// Nanoseconds since the first frame of this round.
    fn passed_ns(&mut self) -> u64 {
        let now = clock::cycles();
        let passed = u128::from(now.wrapping_sub(*self.started.get_or_insert(now)));
        u64::try_from(passed * 1_000_000_000 / u128::from(clock::cycles_per_second())).unwrap_or(u64::MAX)
    }

    /// Makes the timer's descriptor readable in `ns` nanoseconds. False when the kernel refuses.
    fn wake_in(&self, ns: u64) -> bool {
        let ns = i64::try_from(ns).unwrap_or(i64::MAX).max(1);
        let value = Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).is_ok()
    }
}

impl Replay {
    pub(super) fn new(
        capture: Arc<Capture>,
        repeat: bool,
        paced: bool,
        taken: Taken,
    ) -> Result<Replay, PmdError> {
        let pace = if paced { Some(Pace::new()?) } else { None };
        Ok(Replay { capture, next: 0, repeat, pace, counters: Arc::default(), _taken: taken })
    }

    /// Index up to which frames of the next burst are due.
    fn due(&mut self) -> usize {
        let most = self.capture.len().min(self.next + BURST);
        let Some(pace) = &mut self.pace else { return most };
        let passed = pace.passed_ns();
        (self.next..most).find(|&index| self.capture.offset_ns(index) > passed).unwrap_or(most)
    }
}

impl RxQueue for Replay {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        if self.repeat && self.next >= self.capture.len() {
            self.next = 0;
            if let Some(pace) = &mut self.pace {
                pace.started = None;
            }
        }
        let end = self.due();
        let mut bytes = 0;
        while self.next < end {
            let frame = self.capture.frame(self.next);
            if !batch.receive(Span::from_slice(frame)) {
                break;
            }
            bytes += frame.len() as u64;
            self.next += 1;
        }
        if !batch.is_empty() {
            self.counters.add_burst(batch.len() as u64, bytes);
        }
        batch.len()
    }

    fn rx_done(&mut self) {}

    fn arm(&mut self) -> Armed {
        if self.next >= self.capture.len() {
            return if self.repeat && !self.capture.is_empty() { Armed::Work } else { Armed::Idle };
        }
        let at = self.capture.offset_ns(self.next);
        let Some(pace) = &mut self.pace else { return Armed::Work };
        match at.saturating_sub(pace.passed_ns()) {
            0 => Armed::Work,
            left if pace.wake_in(left) => Armed::Idle,
            _ => Armed::Work,
        }
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        self.pace.as_ref().map(|pace| pace.timer.clone())
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::drivers::pcap::file;
    use crate::drivers::queue_slots::QueueSlots;
    use crate::packet::BatchStorage;

    /// A capture of one-byte frames at these times.
    fn replay(seconds: &[u32], nanoseconds: u32, repeat: bool, paced: bool) -> Replay {
        let mut bytes = file::header(100).to_vec();
        for (i, &second) in seconds.iter().enumerate() {
            bytes.extend(file::record(second, if i == 0 { 0 } else { nanoseconds }, 1, 1));
            bytes.push(i as u8);
        }
        let taken = QueueSlots::new(1).take("p", 0).unwrap();
        Replay::new(Arc::new(Capture::parse(bytes).unwrap()), repeat, paced, taken).unwrap()
    }

    fn burst(replay: &mut Replay) -> Vec<u8> {
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        let n = replay.rx_burst(&mut batch);
        let bytes = (0..n).map(|slot| batch.packet(slot as u16).head()[0]).collect();
        replay.rx_done();
        bytes
    }

    #[test]
    fn repeats_without_end() {
        let mut replay = replay(&[1, 2, 3], 0, true, false);
        for _ in 0..3 {
            assert_eq!(burst(&mut replay), [0, 1, 2]);
            assert_eq!(replay.arm(), Armed::Work);
        }
    }

    #[test]
    fn frames_wait_for_their_time() {
        let mut replay = replay(&[100, 110, 1_000_000], 0, true, true);
        assert_eq!(burst(&mut replay), [0]);
        assert_eq!(replay.arm(), Armed::Idle);
        assert_eq!(burst(&mut replay), []);
        // As if 20 seconds had gone by.
        let earlier = clock::cycles().wrapping_sub(20 * clock::cycles_per_second());
        replay.pace.as_mut().unwrap().started = Some(earlier);
        assert_eq!(replay.arm(), Armed::Work);
        assert_eq!(burst(&mut replay), [1]);
        replay.next = 3;
        assert_eq!(burst(&mut replay), [0], "a new round has a new start");
        assert_eq!(burst(&mut replay), []);
    }

    #[test]
    fn a_sleeper_is_woken_for_the_next_frame() {
        let mut replay = replay(&[5, 5], 30_000_000, false, true);
        assert_eq!(burst(&mut replay), [0]);
        // On a slow machine the time may have come already; then there is nothing to wait for.
        let timer = replay.wait_fd().unwrap();
        while replay.arm() == Armed::Idle {
            poll(&mut [PollFd::new(&*timer, PollFlags::IN)], None).unwrap();
        }
        assert_eq!(burst(&mut replay), [1]);
        assert_eq!(replay.arm(), Armed::Idle);
    }
}
