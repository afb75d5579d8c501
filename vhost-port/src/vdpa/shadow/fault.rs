//! What ends a shadow.

use pmd::virtio::driver_ring::BadUsed;

use crate::ring::RingFault;

/// Who broke the rules, and how.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShadowFault {
    /// The guest: its ring stops, as it would in software. What the device has of it may still come back.
    #[error(transparent)]
    Guest(#[from] RingFault),
    /// The device, or it cannot serve this guest: the guest is to go on without it.
    #[error(transparent)]
    Device(#[from] DeviceFault),
}

/// Why a device is not to be used any more.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeviceFault {
    /// It returned what it does not have.
    #[error("{0}")]
    Returned(#[from] BadUsed),
    /// It says that it wrote more than there was room for.
    #[error("the device says that it wrote {len} bytes into a buffer of {capacity}")]
    TooLong {
        /// Bytes it says it wrote.
        len: u32,
        /// Bytes there were.
        capacity: u32,
    },
    /// Frames that fill several buffers came in buffers out of turn: put back in order, they would be other frames.
    #[error(
        "the device used receive buffers out of order, which cannot be relayed with VIRTIO_NET_F_MRG_RXBUF"
    )]
    OutOfOrder,
    /// A guest's chain does not fit the device's ring, and the device knows no indirect tables.
    #[error(
        "a chain of {pieces} pieces does not fit the device's ring of {size}, which has no indirect descriptors"
    )]
    ChainTooLong {
        /// Pieces of the chain.
        pieces: usize,
        /// Descriptors of the ring.
        size: u16,
    },
}
