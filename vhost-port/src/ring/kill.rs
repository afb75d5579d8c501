//! Where a process can be killed: before any store that a successor would look at.
//!
//! Outside unit tests there is nothing here. In them, [`point`] ends the device at a store of the test's choice, with all stores
//! before it done and none after it, as SIGKILL does.

/// A store follows.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn point() {}

#[cfg(test)]
pub(super) use in_tests::{point, run};

#[cfg(test)]
mod in_tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    thread_local! {
        /// Stores that may still be done.
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// What unwinds in place of a signal.
    struct Killed;

    /// A store follows.
    pub(in crate::ring) fn point() {
        match LEFT.get() {
            Some(0) => resume_unwind(Box::new(Killed)),
            left => LEFT.set(left.map(|left| left - 1)),
        }
    }

    /// Does `work`, but no more than so many of its stores. `None` when it was killed.
    pub(in crate::ring) fn run<T>(stores: usize, work: impl FnOnce() -> T) -> Option<T> {
        LEFT.set(Some(stores));
        let outcome = catch_unwind(AssertUnwindSafe(work));
        LEFT.set(None);
        match outcome {
            Ok(value) => Some(value),
            Err(what) if what.is::<Killed>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }
}
