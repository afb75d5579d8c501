//! Hugepages for a measurement, reserved at run time and given back.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::failure::{During as _, Failure, Result};

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// 2 MiB pages reserved beyond what the machine had; given back when dropped.
#[derive(Debug)]
pub struct Hugepages {
    before: u64,
}

impl Hugepages {
    /// Makes sure that `pages` pages of 2 MiB are free.
    ///
    /// # Errors
    /// The kernel has no hugepages or its memory is too fragmented for so many.
    pub fn reserve(pages: u64) -> Result<Self> {
        let before = count()?;
        let guard = Self { before };
        fs::write(COUNT, (before + pages).to_string()).during(COUNT)?;
        let got = count()?.saturating_sub(before);
        if got < pages {
            return Err(Failure::new(format!(
                "the kernel gave {got} of {pages} hugepages; free memory, or reserve them at boot (hugepages={pages})"
            )));
        }
        Ok(guard)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        // Pages of a process that has just ended may take a moment to come back.
        for _ in 0..50 {
            let _ = fs::write(COUNT, self.before.to_string());
            if count().is_ok_and(|now| now <= self.before) {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn count() -> Result<u64> {
    fs::read_to_string(COUNT).during(COUNT)?.trim().parse().during(COUNT)
}
