//! What a worker counts about itself. One writer, relaxed loads and stores, read by anybody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

macro_rules! worker_counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of one worker.
        #[derive(Default, Debug)]
        #[repr(align(128))]
        pub struct WorkerCounters {
            $(pub(super) $name: AtomicU64,)+
            /// Whether the worker waits for events now.
            pub(super) sleeping: AtomicBool,
        }

        /// The numbers of a [`WorkerCounters`] at one moment.
        #[derive(Clone, Copy, Default, Debug)]
        pub struct WorkerSnapshot {
            $($(#[doc = $doc])+ pub $name: u64,)+
            /// Whether the worker waited for events.
            pub sleeping: bool,
        }

        impl WorkerCounters {
            /// The numbers now.
            pub fn snapshot(&self) -> WorkerSnapshot {
                WorkerSnapshot { $($name: self.$name.load(Relaxed),)+ sleeping: self.sleeping.load(Relaxed) }
            }
        }
    };
}

worker_counters! {
    /// Packets received from ports.
    packets,
    /// Bursts that brought at least one packet.
    bursts,
    /// Packets whose flow the signature cache knew.
    emc_hits,
    /// Packets whose flow the megaflow table knew.
    megaflow_hits,
    /// Packets no flow matched.
    misses,
    /// Packets carried out for the slow path.
    executed,
    /// Megaflows installed now.
    flows,
    /// Times the worker went to sleep.
    sleeps,
    /// Time-stamp counter ticks spent on bursts with packets.
    busy_cycles,
    /// Ticks since the worker started, as of its last look at the clock.
    total_cycles,
}

/// Adds to a counter that only this thread writes.
#[inline]
pub(super) fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Load one receive queue causes. Travels with the queue when it moves to another worker.
#[derive(Default, Debug)]
#[repr(align(64))]
pub struct RxqCounters {
    packets: AtomicU64,
    cycles: AtomicU64,
}

impl RxqCounters {
    #[inline]
    pub(super) fn add(&self, packets: u64, cycles: u64) {
        bump(&self.packets, packets);
        bump(&self.cycles, cycles);
    }

    /// Packets carried from this queue.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// Ticks spent on them.
    pub fn cycles(&self) -> u64 {
        self.cycles.load(Relaxed)
    }
}
