//! Arenas: where packets that wait are kept, and what devices read and write.
//!
//! An arena is one memfd, so that AF_XDP, VFIO or another process can be given the same memory. It is
//! backed by huge pages if enough are free, else by ordinary ones with transparent huge pages asked for.

mod arena;
mod dma;
mod io_space;

pub use arena::Arena;
pub use dma::DmaArena;
pub use io_space::{IoMapError, IoSpace, memlock_remedy};
