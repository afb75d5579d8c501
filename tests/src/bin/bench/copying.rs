//! Nothing but the copy: how fast the switch's processor moves large frames from one guest's buffers to another's.
//!
//! What no switch can exceed that copies a frame once. No rings, no lookup, and nobody else touches the buffers, which lie and cycle as those
//! of `vsgen` do in the row `gso64k`: together they are larger than a processor's own caches.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use ::tests::failure::{During as _, Failure, Result};
use pmd::sys::cpu::pin_current_thread;

use crate::machine::SWITCH_CPU;

/// Transmit buffers of a guest that sends large frames, and bytes from one to the next.
const SOURCES: usize = 128;
const SOURCE_STRIDE: usize = 65_600;
/// Receive buffers, their length, and bytes from one to the next.
const TARGETS: usize = 1024;
const TARGET: usize = 4096;
const TARGET_STRIDE: usize = 4416;
/// Frames between looks at the clock.
const FRAMES: usize = 64;

/// Gbit/s at which frames of `size` bytes are copied for about `time`.
///
/// # Errors
/// The thread cannot be pinned.
pub(crate) fn rate(size: usize, time: Duration) -> Result<f64> {
    let copying = thread::spawn(move || pin_current_thread(SWITCH_CPU).map(|()| copy(size, time)));
    let copied = copying.join().map_err(|_| Failure::new("the copying thread panicked"))?;
    copied.during("pinning to the switch's processor")
}

fn copy(size: usize, time: Duration) -> f64 {
    let size = size.min(SOURCE_STRIDE);
    let sources = vec![1_u8; SOURCES * SOURCE_STRIDE];
    let mut targets = vec![0_u8; TARGETS * TARGET_STRIDE];
    let (mut frames, mut target, began) = (0_usize, 0_usize, Instant::now());
    while began.elapsed() < time {
        for frame in frames..frames + FRAMES {
            let start = frame % SOURCES * SOURCE_STRIDE;
            for piece in sources[start..start + size].chunks(TARGET) {
                let at = target % TARGETS * TARGET_STRIDE;
                targets[at..at + piece.len()].copy_from_slice(piece);
                target += 1;
            }
            black_box(&mut targets);
        }
        frames += FRAMES;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
    let bits = (frames * size) as f64 * 8.0;
    bits / began.elapsed().as_secs_f64() / 1e9
}

#[cfg(test)]
mod tests {
    use super::{copy, rate};
    use std::time::Duration;

    #[test]
    fn frames_are_copied_at_some_rate() {
        assert!(copy(65_226, Duration::from_millis(1)) > 0.0);
        assert!(rate(100, Duration::from_millis(1)).unwrap() > 0.0);
    }
}
