//! The kernel's side of a vDPA device, played: what `/dev/vhost-vdpa-N` answers, with the model of a card behind it.
#![expect(unsafe_code, reason = "names the memory it is shown")]

use std::any::Any;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pmd::sys::vhost_vdpa::{VhostVdpaCalls, backend};
use pmd::virtio::SharedPtr;
use pmd::virtio::pci::status;
use rustix::io::Errno;

use crate::vdpa::device::{Capabilities, RingStart, Start, StoppedRing, VdpaDev};
use crate::vdpa::fake::{Fake, FakeVf};
use crate::vdpa::memory::{DmaMapping, HostMemory};

/// What has been said of a ring.
#[derive(Default)]
struct PlayedRing {
    size: u16,
    addresses: [u64; 3],
    base: u32,
    kick: Option<OwnedFd>,
    call: Option<Arc<OwnedFd>>,
    enabled: bool,
}

/// How it answers, and what it was told.
pub(super) struct State {
    /// Bits of [`backend`] that it offers, and those that were taken.
    pub(super) backend: u64,
    taken: u64,
    /// It takes rings that do not begin at zero.
    pub(super) begins_anywhere: bool,
    /// It takes features.
    pub(super) accepts: bool,
    /// Most bytes of memory that it maps.
    pub(super) most: u64,
    pub(super) status: u8,
    features: u64,
    rings: [PlayedRing; 2],
    stopped: Vec<StoppedRing>,
    vf: FakeVf,
    caps: Capabilities,
}

/// The device and its test. Clones are the same.
#[derive(Clone)]
pub(super) struct Played {
    pub(super) card: Fake,
    state: Arc<Mutex<State>>,
}

impl Played {
    /// A device with such a card behind it, of a kernel that knows all that we use.
    pub(super) fn new(caps: &Capabilities) -> Played {
        let card = Fake::new(caps.clone());
        let state = State {
            backend: backend::IOTLB_MSG_V2 | backend::SUSPEND | backend::IOTLB_PERSIST | 1 << 40,
            taken: 0,
            begins_anywhere: true,
            accepts: true,
            most: u64::MAX,
            status: 0,
            features: 0,
            rings: Default::default(),
            stopped: Vec::new(),
            vf: card.open(),
            caps: caps.clone(),
        };
        Played { card, state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a ring was kicked since this was asked last, at the descriptor that is watched.
    pub(super) fn kicked(&self, ring: usize) -> bool {
        self.state().rings[ring].kick.as_ref().is_some_and(|kick| rustix::io::read(kick, &mut [0; 8]).is_ok())
    }

    fn ring<T>(&self, ring: u16, change: impl FnOnce(&mut PlayedRing) -> T) -> io::Result<T> {
        let mut state = self.state();
        state.rings.get_mut(usize::from(ring)).map(change).ok_or_else(|| Errno::NOBUFS.into())
    }
}

fn copy(event: Option<BorrowedFd<'_>>) -> io::Result<Option<OwnedFd>> {
    event.map(|event| event.try_clone_to_owned()).transpose()
}

impl State {
    fn run(&mut self) -> bool {
        let rings: Vec<_> = self.rings.iter().filter(|ring| ring.enabled).map(start_of).collect();
        let start = Start { features: self.features, rings: &rings, queue_pairs: 1, mac: None };
        self.vf.start(start).is_ok()
    }

    fn reset(&mut self) {
        let _ = self.vf.reset();
        self.features = 0;
        for ring in &mut self.rings {
            // The descriptors stay, as in the kernel.
            let (kick, call) = (ring.kick.take(), ring.call.take());
            *ring = PlayedRing { kick, call, ..PlayedRing::default() };
        }
    }
}

fn start_of(ring: &PlayedRing) -> RingStart {
    let [descriptors, driver, device] = ring.addresses;
    let (size, index, call) = (ring.size, ring.base as u16, ring.call.clone());
    RingStart { size, descriptors, driver, device, index, call, kick: None }
}

impl VhostVdpaCalls for Played {
    fn device_id(&self) -> io::Result<u32> {
        Ok(1)
    }

    fn features(&self) -> io::Result<u64> {
        Ok(self.state().caps.features)
    }

    fn set_features(&self, features: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.status & status::FEATURES_OK != 0 {
            return Err(Errno::BUSY.into());
        }
        state.features = features;
        Ok(())
    }

    fn backend_features(&self) -> io::Result<u64> {
        Ok(self.state().backend)
    }

    fn set_backend_features(&self, features: u64) -> io::Result<()> {
        let mut state = self.state();
        if features & !state.backend != 0 {
            return Err(Errno::OPNOTSUPP.into());
        }
        state.taken = features;
        Ok(())
    }

    fn status(&self) -> io::Result<u8> {
        Ok(self.state().status)
    }

    fn set_status(&self, wanted: u8) -> io::Result<()> {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.status, wanted);
        if wanted == 0 {
            state.reset();
            if state.taken & backend::IOTLB_PERSIST == 0 {
                for (iova, _) in self.card.reaches() {
                    let _ = state.vf.unmap(iova);
                }
            }
        }
        if !state.accepts {
            state.status &= !status::FEATURES_OK;
        }
        if wanted & !before & status::DRIVER_OK != 0 && !state.run() {
            state.status |= status::NEEDS_RESET;
        }
        Ok(())
    }

    fn config_size(&self) -> io::Result<u32> {
        Ok(12)
    }

    fn read_config(&self, offset: u32, into: &mut [u8]) -> io::Result<()> {
        if offset as usize + into.len() > 12 {
            return Err(Errno::TOOBIG.into());
        }
        self.state().vf.read_config(offset, into).map_err(io::Error::other)
    }

    fn write_config(&self, _: u32, _: &[u8]) -> io::Result<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    fn max_ring_size(&self) -> io::Result<u16> {
        Ok(self.state().caps.max_ring_size)
    }

    fn iova_range(&self) -> io::Result<(u64, u64)> {
        Ok((0, (1 << 39) - 1))
    }

    fn set_ring_size(&self, ring: u16, size: u16) -> io::Result<()> {
        self.ring(ring, |ring| ring.size = size)
    }

    fn set_ring_addresses(&self, ring: u16, addresses: [u64; 3]) -> io::Result<()> {
        self.ring(ring, |ring| ring.addresses = addresses)
    }

    fn set_ring_base(&self, ring: u16, base: u32) -> io::Result<()> {
        if base != 0 && !self.state().begins_anywhere {
            return Err(Errno::OPNOTSUPP.into());
        }
        self.ring(ring, |ring| ring.base = base)
    }

    fn ring_base(&self, ring: u16) -> io::Result<u32> {
        match self.state().stopped.get(usize::from(ring)) {
            Some(StoppedRing::At(at)) => Ok((*at).into()),
            _ => Err(Errno::OPNOTSUPP.into()),
        }
    }

    fn set_kick(&self, ring: u16, event: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let event = copy(event)?;
        self.ring(ring, |ring| ring.kick = event)
    }

    fn set_call(&self, ring: u16, event: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let event = copy(event)?.map(Arc::new);
        self.ring(ring, |ring| ring.call.clone_from(&event))?;
        self.state().vf.set_call(ring, event).map_err(io::Error::other)
    }

    fn set_config_call(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn enable_ring(&self, ring: u16) -> io::Result<()> {
        self.ring(ring, |ring| ring.enabled = true)
    }

    fn suspend(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.taken & backend::SUSPEND == 0 {
            return Err(Errno::OPNOTSUPP.into());
        }
        state.stopped = state.vf.stop().map_err(io::Error::other)?;
        Ok(())
    }

    unsafe fn map(&self, iova: u64, start: *mut u8, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len > state.most {
            return Err(Errno::FAULT.into());
        }
        let start = NonNull::new(start).ok_or(Errno::FAULT)?;
        let owner: Arc<dyn Any + Send + Sync> = Arc::new(());
        // SAFETY: it stays mapped until it is taken away (the caller's promise).
        let memory = unsafe { HostMemory::new(SharedPtr::new(start), len, owner) };
        state.vf.map(DmaMapping { iova, memory }).map_err(io::Error::other)
    }

    fn unmap(&self, iova: u64, _: u64) -> io::Result<()> {
        self.state().vf.unmap(iova).map_err(io::Error::other)
    }
}
