//! The registers behind a base address register.

use std::sync::Arc;

use crate::sys::vfio::RegionMap;

/// Registers that a program plays. Called by whichever thread uses the [`Bar`]; must not call back into it.
pub trait RegisterModel: Send + Sync {
    /// Reads `width` bytes (1, 2 or 4) at `offset`.
    fn read(&self, offset: usize, width: usize) -> u32;

    /// Writes `width` bytes (1, 2 or 4) at `offset`.
    fn write(&self, offset: usize, width: usize, value: u32);
}

enum Access {
    Mapped(RegionMap),
    Model(Arc<dyn RegisterModel>),
}

/// A register space. Accesses are single loads and stores of their width, in program order, never merged.
///
/// A driver knows its offsets; one outside of the space is a device that is not what it says: reads then give all ones, as from an empty
/// slot, and writes are lost.
pub struct Bar {
    access: Access,
    len: usize,
}

macro_rules! accesses {
    ($($read:ident $write:ident $type:ty),+) => {$(
        #[doc = concat!("Reads a `", stringify!($type), "`.")]
        #[inline]
        pub fn $read(&self, offset: usize) -> $type {
            if !self.holds(offset, size_of::<$type>()) {
                return <$type>::MAX;
            }
            match &self.access {
                Access::Mapped(map) => map.$read(offset),
                Access::Model(model) => model.read(offset, size_of::<$type>()) as $type,
            }
        }

        #[doc = concat!("Writes a `", stringify!($type), "`. Stores to memory that come before are visible to the device before it is.")]
        #[inline]
        pub fn $write(&self, offset: usize, value: $type) {
            if !self.holds(offset, size_of::<$type>()) {
                return;
            }
            // On x86 stores are not reordered; this keeps the compiler, and other machines, to it.
            core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
            match &self.access {
                Access::Mapped(map) => map.$write(offset, value),
                Access::Model(model) => model.write(offset, size_of::<$type>(), u32::from(value)),
            }
        }
    )+};
}

impl Bar {
    /// Registers of a real function.
    pub(crate) fn mapped(map: RegionMap) -> Bar {
        let len = map.len();
        Bar { access: Access::Mapped(map), len }
    }

    /// Registers that `model` plays, `len` bytes of them.
    pub fn modelled(model: Arc<dyn RegisterModel>, len: usize) -> Bar {
        Bar { access: Access::Model(model), len }
    }

    /// Bytes of the space.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no registers.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn holds(&self, offset: usize, width: usize) -> bool {
        offset.is_multiple_of(width) && offset < self.len && width <= self.len - offset
    }

    accesses!(read8 write8 u8, read16 write16 u16, read32 write32 u32);
}
