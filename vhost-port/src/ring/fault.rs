//! What a guest or front-end did wrong with a ring.

/// Why a ring was stopped.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum RingFault {
    #[error("the avail index is further ahead than the ring is long")]
    AvailIndex = 1,
    #[error("a descriptor index is beyond the ring")]
    DescriptorIndex,
    #[error("a descriptor chain is longer than the ring, or loops")]
    ChainTooLong,
    #[error("a descriptor chain names more bytes than any frame has")]
    ChainTooLarge,
    #[error("a descriptor points outside guest memory")]
    OutsideMemory,
    #[error("a descriptor has the wrong direction")]
    WrongDirection,
    #[error("an indirect table is empty, not a multiple of 16 bytes, nested, or was not negotiated")]
    BadIndirect,
    #[error("a chain is shorter than the network header")]
    NoHeader,
    #[error("the memory's file was truncated")]
    MemoryGone,
    #[error("a descriptor chain goes on at a descriptor that was not made available")]
    ChainCut,
    #[error("the device that ran it did not tell where it left it")]
    PositionLost,
    /// No fault: the ring goes on when the front-end has told where the address is. Never latched.
    #[error("an address that the guest's IOMMU has not translated yet")]
    Untranslated,
}

impl RingFault {
    const ALL: [RingFault; 12] = [
        RingFault::AvailIndex,
        RingFault::DescriptorIndex,
        RingFault::ChainTooLong,
        RingFault::ChainTooLarge,
        RingFault::OutsideMemory,
        RingFault::WrongDirection,
        RingFault::BadIndirect,
        RingFault::NoHeader,
        RingFault::MemoryGone,
        RingFault::ChainCut,
        RingFault::PositionLost,
        RingFault::Untranslated,
    ];

    /// The fault with this number; zero means none.
    pub(crate) fn from_code(code: u32) -> Option<RingFault> {
        RingFault::ALL.into_iter().find(|&fault| fault as u32 == code)
    }
}
