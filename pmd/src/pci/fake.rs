//! A function without hardware.
//!
//! A test writes the model of a device: what its registers say and do. The driver under test runs over it as over a real one, but
//! the model can do what hardware does once in years: stop in the middle, write rubbish back, vanish.
//!
//! The model reaches memory only through [`FakeDma`], which plays the IOMMU: an address that was not mapped is refused and counted.
#![expect(unsafe_code, reason = "reaches memory that a test has mapped")]

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Bar, PciAddress, PciFn, RegisterModel};
use crate::memory::{Arena, DmaArena, IoMapError, IoSpace};
use crate::packet::short_copy;
use crate::port::PmdError;
use crate::virtio::SharedPtr;

/// What a device does. All methods have a default, so that a model says only what it is about.
pub trait FakeModel: Send + 'static {
    /// Configuration space, 256 bytes.
    fn config(&self) -> Vec<u8> {
        vec![0; 256]
    }

    /// Reads a register.
    fn read(&mut self, bar: u8, offset: usize, width: usize) -> u32 {
        let _ = (bar, offset, width);
        0
    }

    /// Writes a register. What the device then does to memory, it does here.
    fn write(&mut self, bar: u8, offset: usize, width: usize, value: u32, dma: &FakeDma) {
        let _ = (bar, offset, width, value, dma);
    }

    /// Resets the device.
    fn reset(&mut self) {}
}

/// Memory as the device sees it, and its interrupts.
#[derive(Default)]
pub struct FakeDma {
    arenas: Mutex<Vec<(u64, Weak<Arena>)>>,
    /// What [`IoSpace::map`] has mapped.
    mapped: Mutex<Vec<Mapped>>,
    events: Mutex<Vec<Option<OwnedFd>>>,
    faults: AtomicU64,
}

/// Memory of the function's user.
struct Mapped {
    iova: u64,
    start: SharedPtr,
    len: usize,
}

impl Mapped {
    /// The memory at `iova`, if `len` bytes from there are inside.
    fn at(&self, iova: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(iova.checked_sub(self.iova)?).ok()?;
        // SAFETY: not beyond the end of what was mapped.
        (offset.checked_add(len)? <= self.len)
            .then(|| unsafe { self.start.add(offset) }.as_non_null().as_ptr())
    }
}

impl FakeDma {
    /// Reads memory at an I/O address. False, and counted, when it is not mapped; the bytes are then all ones.
    pub fn read(&self, iova: u64, bytes: &mut [u8]) -> bool {
        let mapped = lock(&self.mapped);
        if let Some(from) = mapped.iter().find_map(|mapped| mapped.at(iova, bytes.len())) {
            // SAFETY: mapped, as `IoSpace::map` was promised, and not unmapped while the lock is held.
            unsafe { short_copy::copy(from, bytes.as_mut_ptr(), bytes.len()) };
            return true;
        }
        drop(mapped);
        let done = self.with(iova, bytes.len(), |arena, offset| arena.copy_out(offset, bytes)).is_some();
        if !done {
            bytes.fill(0xff);
        }
        done
    }

    /// Writes memory at an I/O address. False, and counted, when it is not mapped.
    pub fn write(&self, iova: u64, bytes: &[u8]) -> bool {
        let mapped = lock(&self.mapped);
        if let Some(to) = mapped.iter().find_map(|mapped| mapped.at(iova, bytes.len())) {
            // SAFETY: as in `read`.
            unsafe { short_copy::copy(bytes.as_ptr(), to, bytes.len()) };
            return true;
        }
        drop(mapped);
        self.with(iova, bytes.len(), |arena, offset| arena.copy_in(offset, bytes)).is_some()
    }

    /// Accesses that were refused.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Signals the event of a vector. False when it has none.
    pub fn interrupt(&self, vector: u16) -> bool {
        let events = lock(&self.events);
        let event = events.get(usize::from(vector)).and_then(Option::as_ref);
        event.is_some_and(|event| rustix::io::write(event, &1u64.to_ne_bytes()).is_ok())
    }

    fn with<T>(&self, iova: u64, len: usize, access: impl FnOnce(&Arena, usize) -> T) -> Option<T> {
        let arenas = lock(&self.arenas);
        let found = arenas.iter().find_map(|(start, arena)| {
            let arena = arena.upgrade()?;
            let offset = usize::try_from(iova.checked_sub(*start)?).ok()?;
            (offset.checked_add(len)? <= arena.len()).then_some((arena, offset))
        });
        if found.is_none() {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        found.map(|(arena, offset)| access(&arena, offset))
    }
}

struct State {
    config: Vec<u8>,
    model: Box<dyn FakeModel>,
    /// Register writes by place.
    writes: HashMap<(u8, usize), u64>,
}

/// A function whose registers a model plays.
pub struct FakeFn {
    state: Arc<Mutex<State>>,
    dma: Arc<FakeDma>,
    next_iova: AtomicU64,
    gone: Arc<AtomicBool>,
    /// Signalled when the kernel wants the function back.
    removal: Mutex<Option<OwnedFd>>,
    virtual_functions: AtomicU16,
}

impl FakeFn {
    /// A function that behaves as the model says.
    pub fn new(model: impl FakeModel) -> Arc<FakeFn> {
        let state = State { config: model.config(), model: Box::new(model), writes: HashMap::new() };
        Arc::new(FakeFn {
            state: Arc::new(Mutex::new(state)),
            dma: Arc::default(),
            // High, so that a driver that cuts addresses to 32 bits is found out.
            next_iova: AtomicU64::new(0x70_0000_0000),
            gone: Arc::default(),
            removal: Mutex::default(),
            virtual_functions: AtomicU16::new(0),
        })
    }

    /// Memory as the device sees it.
    pub fn dma_view(&self) -> &FakeDma {
        &self.dma
    }

    /// Writes to a register so far.
    pub fn writes_at(&self, bar: u8, offset: usize) -> u64 {
        lock(&self.state).writes.get(&(bar, offset)).copied().unwrap_or(0)
    }

    /// Register writes so far, wherever.
    pub fn writes(&self) -> u64 {
        lock(&self.state).writes.values().sum()
    }

    /// Asks for the function back, as the kernel does before it is unplugged.
    pub fn ask_back(&self) {
        if let Some(event) = &*lock(&self.removal) {
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// Gives it so many virtual functions, as the kernel does.
    pub fn set_virtual_functions(&self, count: u16) {
        self.virtual_functions.store(count, Ordering::Relaxed);
    }

    /// Pulls the card: reads give all ones from now on, writes do nothing.
    pub fn pull(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Puts the card back.
    pub fn put_back(&self) {
        self.gone.store(false, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), PmdError> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(PmdError::Config(format!("{}: the device is gone", self.address())));
        }
        Ok(())
    }
}

impl PciFn for FakeFn {
    fn address(&self) -> PciAddress {
        // Always the same: there is one per test.
        "0000:00:1f.7".parse().unwrap_or_else(|_| unreachable!())
    }

    fn config_read(&self, offset: u16, bytes: &mut [u8]) -> Result<(), PmdError> {
        self.check()?;
        let state = lock(&self.state);
        for (at, byte) in (usize::from(offset)..).zip(bytes) {
            *byte = state.config.get(at).copied().unwrap_or(0xff);
        }
        Ok(())
    }

    fn config_write(&self, offset: u16, bytes: &[u8]) -> Result<(), PmdError> {
        self.check()?;
        let mut state = lock(&self.state);
        for (at, &byte) in (usize::from(offset)..).zip(bytes) {
            if let Some(old) = state.config.get_mut(at) {
                *old = byte;
            }
        }
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<Bar, PmdError> {
        let (state, dma, gone) = (self.state.clone(), self.dma.clone(), self.gone.clone());
        Ok(Bar::modelled(Arc::new(Registers { index, state, dma, gone }), 1 << 20))
    }

    /// A file of its own for each call: what is written there, nobody reads.
    fn bar_file(&self, index: u8, offset: usize, len: usize) -> Option<(OwnedFd, u64)> {
        let file = rustix::fs::memfd_create(format!("bar{index}"), rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        rustix::fs::ftruncate(&file, (offset + len) as u64).ok()?;
        Some((file, offset as u64))
    }

    fn dma(&self, name: &str, len: usize) -> Result<DmaArena, PmdError> {
        let arena = Arc::new(Arena::create(name, len)?);
        // A hole after each, so that one that runs over its end is found out.
        let iova = self.next_iova.fetch_add(arena.len() as u64 + (2 << 20), Ordering::Relaxed);
        lock(&self.dma.arenas).push((iova, Arc::downgrade(&arena)));
        Ok(DmaArena::new(arena, iova, Box::new(())))
    }

    fn vectors(&self) -> u16 {
        64
    }

    fn set_vectors(&self, events: &[Option<BorrowedFd<'_>>]) -> Result<(), PmdError> {
        self.check()?;
        let copies = events.iter().map(|event| event.map(|event| event.try_clone_to_owned()).transpose());
        let copies: Result<Vec<_>, _> = copies.collect();
        *lock(&self.dma.events) = copies.map_err(|e| PmdError::system("copying an eventfd", "", e))?;
        Ok(())
    }

    fn set_vector(&self, vector: u16, event: Option<BorrowedFd<'_>>) -> Result<(), PmdError> {
        self.check()?;
        let copy = event.map(|event| event.try_clone_to_owned()).transpose();
        let copy = copy.map_err(|e| PmdError::system("copying an eventfd", "", e))?;
        match lock(&self.dma.events).get_mut(usize::from(vector)) {
            Some(slot) => *slot = copy,
            None => return Err(PmdError::Config(format!("vector {vector} has not been set before"))),
        }
        Ok(())
    }

    fn on_removal(&self, event: BorrowedFd<'_>) -> Result<(), PmdError> {
        let copy = event.try_clone_to_owned().map_err(|e| PmdError::system("copying an eventfd", "", e))?;
        *lock(&self.removal) = Some(copy);
        Ok(())
    }

    fn virtual_functions(&self) -> u16 {
        self.virtual_functions.load(Ordering::Relaxed)
    }

    fn reset(&self) {
        if self.check().is_ok() {
            lock(&self.state).model.reset();
        }
    }
}

impl IoSpace for FakeFn {
    /// All addresses, as an IOMMU of 39 bits has them with the hole of x86 machines.
    fn ranges(&self) -> Result<Vec<(u64, u64)>, PmdError> {
        self.check()?;
        Ok(vec![(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)])
    }

    unsafe fn map(&self, iova: u64, start: *mut u8, len: usize) -> Result<(), IoMapError> {
        let refused = |what: &str| IoMapError {
            limit: false,
            what: format!("mapping {len:#x} bytes at {iova:#x}: {what}"),
            remedy: "it is the caller's fault".into(),
        };
        let Some(start) = std::ptr::NonNull::new(start) else { return Err(refused("no memory")) };
        let mut mapped = lock(&self.dma.mapped);
        let end = iova.checked_add(len as u64).ok_or_else(|| refused("beyond the end of all addresses"))?;
        if mapped.iter().any(|other| iova < other.iova + other.len as u64 && other.iova < end) {
            return Err(refused("something is mapped there"));
        }
        mapped.push(Mapped { iova, start: SharedPtr::new(start), len });
        Ok(())
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), IoMapError> {
        let mut mapped = lock(&self.dma.mapped);
        let before = mapped.len();
        mapped.retain(|one| one.iova != iova || one.len != len);
        if mapped.len() == before {
            let what = format!("nothing of {len:#x} bytes is mapped at {iova:#x}");
            return Err(IoMapError { limit: false, what, remedy: "it is the caller's fault".into() });
        }
        Ok(())
    }
}

struct Registers {
    index: u8,
    state: Arc<Mutex<State>>,
    dma: Arc<FakeDma>,
    gone: Arc<AtomicBool>,
}

impl RegisterModel for Registers {
    fn read(&self, offset: usize, width: usize) -> u32 {
        if self.gone.load(Ordering::Relaxed) {
            return u32::MAX;
        }
        lock(&self.state).model.read(self.index, offset, width)
    }

    fn write(&self, offset: usize, width: usize, value: u32) {
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        let mut state = lock(&self.state);
        *state.writes.entry((self.index, offset)).or_default() += 1;
        state.model.write(self.index, offset, width, value, &self.dma);
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl FakeModel for Nothing {}

    #[test]
    fn the_device_reaches_what_was_mapped_and_no_more() {
        let function = FakeFn::new(Nothing);
        let arena = function.dma("fake", 4096).unwrap();
        let dma = function.dma_view();
        assert!(dma.write(arena.iova(8), b"device"));
        let mut bytes = [0; 6];
        arena.copy_out(8, &mut bytes);
        assert_eq!(&bytes, b"device");
        assert!(!dma.write(arena.iova(0) + arena.len() as u64 - 1, b"xx"));
        let iova = arena.iova(0);
        drop(arena);
        assert!(!dma.read(iova, &mut bytes), "unmapped with its owner");
        assert_eq!((bytes, dma.faults()), ([0xff; 6], 2));
    }

    #[test]
    fn a_pulled_card_reads_all_ones() {
        let function = FakeFn::new(Nothing);
        let bar = function.bar(0).unwrap();
        bar.write32(16, 1);
        assert_eq!((bar.read32(16), function.writes_at(0, 16)), (0, 1));
        function.pull();
        bar.write32(16, 1);
        assert_eq!((bar.read32(16), bar.read8(3), function.writes()), (u32::MAX, 0xff, 1));
        assert_eq!(function.config_u16(0), 0xffff);
    }
}
