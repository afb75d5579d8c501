//! A ring of either kind; told apart once per burst.

use super::{BadDevice, BufferView, Buffers, BurstRing, Direction, PackedBurstRing};
use crate::virtio::driver_ring::RingMemory;

/// Driver side of a ring.
#[derive(Debug)]
pub enum EitherRing {
    /// Three parts, with indexes.
    Split(BurstRing),
    /// One part, with flags.
    Packed(PackedBurstRing),
}

/// The same for either kind.
macro_rules! either {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            EitherRing::Split($ring) => $what,
            EitherRing::Packed($ring) => $what,
        }
    };
}

impl EitherRing {
    /// Bytes of a ring of `size` entries, and the offsets of its second and third part: [`BurstRing::layout`] or
    /// [`PackedBurstRing::layout`].
    pub const fn layout(packed: bool, size: u16) -> (usize, usize, usize) {
        if packed { PackedBurstRing::layout(size) } else { BurstRing::layout(size) }
    }

    /// Starts a ring: [`BurstRing::new`] or [`PackedBurstRing::new`].
    ///
    /// # Safety
    /// As for those.
    pub unsafe fn new(
        packed: bool,
        memory: RingMemory,
        size: u16,
        direction: Direction,
        buffers: Buffers,
        event_idx: bool,
    ) -> Option<EitherRing> {
        // SAFETY: forwarded.
        unsafe {
            if packed {
                PackedBurstRing::new(memory, size, direction, buffers, event_idx).map(EitherRing::Packed)
            } else {
                BurstRing::new(memory, size, direction, buffers, event_idx).map(EitherRing::Split)
            }
        }
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    /// Buffers that can be staged.
    #[inline]
    pub fn free(&self) -> u16 {
        either!(self, ring => ring.free())
    }

    /// Buffers the device has been shown and that have not been taken back.
    #[inline]
    pub fn outstanding(&self) -> u16 {
        either!(self, ring => ring.outstanding())
    }

    /// Buffers staged that the device has not been shown.
    #[inline]
    pub fn staged(&self) -> u16 {
        either!(self, ring => ring.staged())
    }

    /// [`BurstRing::for_each_buffer`].
    pub fn for_each_buffer(&mut self, each: impl FnMut(BufferView<'_>)) {
        either!(self, ring => ring.for_each_buffer(each));
    }

    /// [`BurstRing::stage`].
    #[inline]
    pub fn stage(&mut self, n: u16, each: impl FnMut(BufferView<'_>)) -> u16 {
        either!(self, ring => ring.stage(n, each))
    }

    /// [`BurstRing::stage_unchanged`].
    #[inline]
    pub fn stage_unchanged(&mut self, n: u16) -> u16 {
        either!(self, ring => ring.stage_unchanged(n))
    }

    /// [`BurstRing::publish`].
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    /// [`BurstRing::show`].
    #[inline]
    pub fn show(&mut self) {
        either!(self, ring => ring.show());
    }

    /// [`BurstRing::wants_kick`].
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn wants_kick(&mut self) -> bool {
        either!(self, ring => ring.wants_kick())
    }

    /// [`BurstRing::prefetch_free`].
    #[inline]
    pub fn prefetch_free<const LINES: usize>(&self, n: u16, skip: usize) {
        either!(self, ring => ring.prefetch_free::<LINES>(n, skip));
    }

    /// [`BurstRing::take_used`].
    ///
    /// # Errors
    /// The device breaks the rules.
    #[inline]
    pub fn take_used<const LINES: usize>(
        &mut self,
        max: u16,
        each: impl FnMut(BufferView<'_>, u32),
    ) -> Result<u16, BadDevice> {
        either!(self, ring => ring.take_used::<LINES>(max, each))
    }

    /// [`BurstRing::reclaim`].
    ///
    /// # Errors
    /// The device breaks the rules.
    #[inline]
    pub fn reclaim(&mut self, max: u16) -> Result<u16, BadDevice> {
        either!(self, ring => ring.reclaim(max))
    }

    /// Asks for an interrupt at the next used buffer. True when one waits already.
    pub fn enable_interrupts(&mut self) -> bool {
        either!(self, ring => ring.enable_interrupts())
    }

    /// Wants no interrupts.
    pub fn disable_interrupts(&mut self) {
        either!(self, ring => ring.disable_interrupts());
    }
}
