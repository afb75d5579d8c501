//! Translations that a worker looked for and did not find, on their way to the control thread.
//!
//! A fixed table of words, written by any worker and emptied by the control thread, without a lock. Each word is a page and what is
//! wanted there. A miss that is in the table already is not put in again, one that finds no room is dropped: whoever needs it will
//! look, and miss, again. The control thread is woken once for all that came since it looked last.
//!
//! Only looks that fail come here, so nothing of this costs a ring whose addresses are translated, or need not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pmd::sys::sigbus::Alarm;

use super::iotlb::Access;

/// Translations are asked for by pages of this size, the smallest any IOMMU maps.
pub(crate) const PAGE: u64 = 4096;
/// Misses that can wait: two bursts of four rings.
const SLOTS: usize = 256;
/// Slots tried for one miss.
const PROBES: usize = 8;

/// A page without a translation, or without enough of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Miss {
    /// Address of the page.
    pub(crate) page: u64,
    pub(crate) access: Access,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct MissQueue {
    slots: [AtomicU64; SLOTS],
    /// Something was put in since the control thread began to look last.
    rung: AtomicBool,
    alarm: Arc<Alarm>,
}

impl MissQueue {
    /// An empty queue; `alarm` wakes who empties it.
    pub(crate) fn new(alarm: Arc<Alarm>) -> MissQueue {
        MissQueue { slots: [const { AtomicU64::new(0) }; SLOTS], rung: AtomicBool::new(false), alarm }
    }

    /// Who is woken.
    pub(super) fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    /// Reports that `iova` has no translation for this access. Never waits.
    pub(super) fn report(&self, iova: u64, access: Access) {
        let page = iova & !(PAGE - 1);
        let word = page | u64::from(access.bits());
        let first = (page / PAGE) as usize;
        for probe in 0..PROBES {
            let slot = &self.slots[first.wrapping_add(probe) % SLOTS];
            match slot.compare_exchange(0, word, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(other) if other == word => break,
                Err(_) => {}
            }
        }
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.alarm.ring();
        }
    }

    /// Takes all misses out.
    pub(crate) fn drain(&self) -> impl Iterator<Item = Miss> + '_ {
        // Before the slots: what is put into one that has been passed rings again.
        self.rung.store(false, Ordering::Release);
        self.slots.iter().filter_map(|slot| {
            let word = slot.swap(0, Ordering::AcqRel);
            let access = Access::from_bits((word % PAGE) as u8)?;
            Some(Miss { page: word & !(PAGE - 1), access })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_come_out_once_and_ring_once() {
        let alarm = Alarm::new().unwrap();
        let queue = MissQueue::new(Arc::clone(&alarm));
        let rung = || {
            use std::os::fd::AsFd;
            rustix::io::read(alarm.as_fd(), &mut [0; 8]).is_ok()
        };
        assert!(!rung());
        for _ in 0..3 {
            queue.report(0x7000, Access::READ);
            queue.report(0x7fff, Access::READ);
            queue.report(0x7001, Access::WRITE);
            // The same slot.
            queue.report(0x7000 + PAGE * SLOTS as u64, Access::WRITE);
        }
        assert!(rung() && !rung());
        let mut misses: Vec<_> = queue.drain().map(|miss| (miss.page, miss.access.bits())).collect();
        misses.sort_unstable();
        assert_eq!(misses, [(0x7000, 1), (0x7000, 2), (0x7000 + PAGE * SLOTS as u64, 2)]);
        assert_eq!(queue.drain().count(), 0);
        for page in 0..10 * SLOTS as u64 {
            queue.report(page * PAGE, Access::BOTH);
        }
        assert!(rung() && !rung());
        assert_eq!(queue.drain().count(), SLOTS);
    }
}
