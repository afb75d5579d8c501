//! A doorbell that is silent from the moment its device is stopped.

use std::sync::{PoisonError, RwLock};

use super::device::Doorbell;

/// What rings, until it is closed.
pub(super) struct GatedDoorbell {
    bell: RwLock<Option<Box<dyn Fn() + Send + Sync>>>,
}

impl GatedDoorbell {
    /// `bell` tells the device. It must not block, and may hold what keeps the device open.
    pub(super) fn new(bell: impl Fn() + Send + Sync + 'static) -> GatedDoorbell {
        GatedDoorbell { bell: RwLock::new(Some(Box::new(bell))) }
    }

    /// From now on it rings so, unless it has been closed.
    pub(super) fn rewire(&self, bell: impl Fn() + Send + Sync + 'static) {
        let mut known = self.bell.write().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            *known = Some(Box::new(bell));
        }
    }

    /// Makes it silent, and lets go of what it held. Whoever is just ringing is waited for.
    pub(super) fn close(&self) {
        *self.bell.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Doorbell for GatedDoorbell {
    fn ring(&self) {
        // Written to be closed: who meets that comes too late. Or to be rewired: whoever does that rings it next.
        if let Ok(bell) = self.bell.try_read()
            && let Some(bell) = &*bell
        {
            bell();
        }
    }
}
