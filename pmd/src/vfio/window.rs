//! Which I/O addresses are free.

/// Addresses are given out from here: a null pointer of a driver, and small offsets from it, hit nothing.
const LOWEST: u64 = 16 << 20;

/// Alignment of what is given out: that of huge pages, so that the IOMMU can use large entries.
const ALIGN: u64 = 2 << 20;

/// Addresses in use.
#[derive(Default, Debug)]
pub(super) struct Window {
    /// First and one past the last, ordered.
    taken: Vec<(u64, u64)>,
}

impl Window {
    /// Takes `len` addresses inside one of `ranges` (first and last of each, as the kernel tells). `None` when there is no room.
    pub(super) fn take(&mut self, len: u64, ranges: &[(u64, u64)]) -> Option<u64> {
        let len = len.checked_next_multiple_of(ALIGN).filter(|&len| len > 0)?;
        for &(first, last) in ranges {
            let mut at = first.max(LOWEST).checked_next_multiple_of(ALIGN)?;
            for &(start, end) in &self.taken {
                if at.checked_add(len)? > start && at < end {
                    at = end.checked_next_multiple_of(ALIGN)?;
                }
            }
            if at.checked_add(len - 1).is_some_and(|end| end <= last) {
                let place = self.taken.partition_point(|&(start, _)| start < at);
                self.taken.insert(place, (at, at + len));
                return Some(at);
            }
        }
        None
    }

    /// Takes `len` addresses at the end of the highest range, below those taken there before. `None` when there is no room.
    pub(super) fn take_last(&mut self, len: u64, ranges: &[(u64, u64)]) -> Option<u64> {
        let len = len.checked_next_multiple_of(ALIGN).filter(|&len| len > 0)?;
        let &(first, last) = ranges.iter().max_by_key(|&&(_, last)| last)?;
        // Of a range that ends with the last address, that address is left out.
        let mut end = last.saturating_add(1) / ALIGN * ALIGN;
        for &(start, taken_end) in self.taken.iter().rev() {
            if taken_end > end.saturating_sub(len) {
                end = end.min(start);
            }
        }
        let start = end.checked_sub(len).filter(|&start| start >= first)?;
        let place = self.taken.partition_point(|&(other, _)| other < start);
        self.taken.insert(place, (start, end));
        Some(start)
    }

    /// Gives back what began at `start`.
    pub(super) fn give(&mut self, start: u64) {
        self.taken.retain(|&(first, _)| first != start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTEL: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)];

    #[test]
    fn the_interrupt_window_is_stepped_over() {
        let mut window = Window::default();
        assert_eq!(window.take(1, &INTEL), Some(LOWEST));
        assert_eq!(window.take(3 << 30, &INTEL), Some(LOWEST + ALIGN));
        let high = window.take(1 << 30, &INTEL).unwrap();
        assert!(high >= 0xfef0_0000);
        window.give(LOWEST + ALIGN);
        assert_eq!(window.take(ALIGN, &INTEL), Some(LOWEST + ALIGN));
        assert_eq!(window.take(1 << 40, &INTEL), None);
        assert_eq!(window.take(u64::MAX, &INTEL), None);
        assert_eq!(window.take(1, &[]), None);
    }

    #[test]
    fn the_end_is_filled_downwards() {
        let mut window = Window::default();
        let top = 0x80_0000_0000 - ALIGN;
        assert_eq!(window.take_last(1, &INTEL), Some(top));
        assert_eq!(window.take_last(3 << 20, &INTEL), Some(top - 2 * ALIGN));
        window.give(top);
        assert_eq!(window.take_last(1, &INTEL), Some(top));
        assert_eq!(window.take_last(ALIGN, &[(0, u64::MAX)]), Some(0u64.wrapping_sub(2 * ALIGN)));
        assert_eq!(window.take_last(1, &[(0, 100)]), None);
    }

    proptest! {
        #[test]
        fn nothing_is_given_out_twice(steps in prop::collection::vec((any::<bool>(), 1u64..1 << 33), 1..60)) {
            let mut window = Window::default();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (give, len) in steps {
                if give && let Some((start, _)) = held.pop() {
                    window.give(start);
                } else if let Some(start) = window.take(len, &INTEL) {
                    prop_assert!(INTEL.iter().any(|&(first, last)| start >= first && start + (len - 1) <= last));
                    prop_assert!(held.iter().all(|&(other, n)| start + len <= other || other + n <= start));
                    held.push((start, len));
                }
            }
        }
    }
}
