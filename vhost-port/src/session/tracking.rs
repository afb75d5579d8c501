//! Pages that a device records by itself when it writes them: one that does keeps the guest's rings during a migration.
//!
//! The record is begun before the front-end has its answer to VHOST_F_LOG_ALL; what was written before that is in the front-end's first pass over
//! memory. It is emptied into the front-end's log ten times a second, and once more when the device has stopped: that is before
//! the front-end is told where rings stand, and so before its last look at the log. When a device cannot say what it has written, all of
//! memory is in the log.

use pmd::virtio::features::VHOST_F_LOG_ALL;

use super::machine::Session;
use crate::memory::{DirtyLog, MemTable, Pages};
use crate::vdpa::{Engine, VdpaDev, VdpaError};

/// Why a device without a record has to give rings back.
pub(super) const UNSEEN: &str = "the guest is being moved, and the device does not log what it writes";

/// Begins or ends the record of a device. False if it keeps none.
pub(super) fn track(dev: &mut dyn VdpaDev, on: bool) -> bool {
    match dev.dirty_tracking().map(|record| record.track(on)) {
        None => false,
        Some(Ok(())) => true,
        Some(Err(e)) => {
            log::warn!("{e}");
            false
        }
    }
}

/// Has the front-end's log say what a device has recorded. After an error all of memory is in it.
pub(super) fn collect(dev: &mut dyn VdpaDev, memory: &MemTable, log: &DirtyLog) -> Result<(), VdpaError> {
    let Some(record) = dev.dirty_tracking() else { return Ok(()) };
    let told = memory.ranges().try_for_each(|(gpa, len)| {
        let last = gpa.saturating_add(len.saturating_sub(1));
        record.collect(gpa..=last, &mut |first, len| {
            // Whatever a device says, no more than was asked for.
            let end = first.saturating_add(len.saturating_sub(1)).min(last);
            let first = first.max(gpa);
            if len > 0 && first <= end {
                log.mark([Pages::of(first, end - first + 1)]);
            }
        })
    });
    told.inspect_err(|_| log.mark_all(memory))
}

impl Session {
    /// What is logged has changed, and the front-end is about to be answered: no device may go on that writes unseen.
    pub(super) fn settle_log(&mut self) {
        let wanted = self.features & VHOST_F_LOG_ALL != 0;
        let logs = self.migration.active_log(self.features).is_some();
        let Some(running) = &mut self.offload.running else { return };
        if running.between.engine() != Engine::Direct {
            return;
        }
        if running.tracked != wanted {
            running.tracked = track(&mut *running.unit.dev, wanted) && wanted;
        }
        if logs && running.writes_unseen() {
            self.take_back(UNSEEN);
            self.offload.retry = true;
        }
    }

    /// The device that kept a record has stopped.
    pub(super) fn end_record(&mut self, dev: &mut dyn VdpaDev) {
        match self.migration.active_log(self.features) {
            Some(log) => {
                if let Err(e) = collect(dev, &self.memory, log) {
                    log::error!("{}: {e}: all of memory is to be copied again", self.shared.config.name);
                }
            }
            None => self.note_unlogged(),
        }
        track(dev, false);
    }
}
