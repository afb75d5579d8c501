//! A guest's ring of either kind; told apart once per burst.

use pmd::virtio::burst_driver::{BadDevice, BufferView, BurstRing, PackedBurstRing};

/// Driver side of a ring.
#[derive(Debug)]
pub(crate) enum Ring {
    /// Three parts, with indexes.
    Split(BurstRing),
    /// One part, with flags.
    Packed(PackedBurstRing),
}

/// The same for either kind.
macro_rules! either {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            Ring::Split($ring) => $what,
            Ring::Packed($ring) => $what,
        }
    };
}

impl Ring {
    pub(crate) fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    #[inline]
    pub(crate) fn free(&self) -> u16 {
        either!(self, ring => ring.free())
    }

    #[inline]
    pub(crate) fn outstanding(&self) -> u16 {
        either!(self, ring => ring.outstanding())
    }

    pub(crate) fn for_each_buffer(&mut self, each: impl FnMut(BufferView<'_>)) {
        either!(self, ring => ring.for_each_buffer(each));
    }

    #[inline]
    pub(crate) fn stage(&mut self, n: u16, each: impl FnMut(BufferView<'_>)) -> u16 {
        either!(self, ring => ring.stage(n, each))
    }

    #[inline]
    pub(crate) fn stage_unchanged(&mut self, n: u16) -> u16 {
        either!(self, ring => ring.stage_unchanged(n))
    }

    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub(crate) fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    #[inline]
    pub(crate) fn take_used<const LINES: usize>(
        &mut self,
        max: u16,
        each: impl FnMut(BufferView<'_>, u32),
    ) -> Result<u16, BadDevice> {
        either!(self, ring => ring.take_used::<LINES>(max, each))
    }

    #[inline]
    pub(crate) fn reclaim(&mut self, max: u16) -> Result<u16, BadDevice> {
        either!(self, ring => ring.reclaim(max))
    }
}
