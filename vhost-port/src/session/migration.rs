//! What a front-end says when it moves a guest away or has received one: the dirty log, and the announcement.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use pmd::virtio::features::VHOST_F_LOG_ALL;
use vhost::vhost_user::Result as VhostResult;

use super::machine::{Session, refuse};
use super::rings::eventfd;
use crate::memory::DirtyLog;
use crate::vdpa::Running;

/// A session's part in a migration.
#[derive(Default)]
pub(super) struct Migration {
    /// Where written pages are noted while [`VHOST_F_LOG_ALL`] is acknowledged.
    log: Option<Arc<DirtyLog>>,
    /// Eventfd of a front-end that wants to hear of bits set there.
    event: Option<Arc<OwnedFd>>,
    /// That a page did not fit the log has been reported.
    reported: bool,
    /// Rings have run on this connection.
    begun: bool,
    /// Pages were written that are to be in the log and are not: any of the guest's.
    unlogged: bool,
}

impl Migration {
    /// The log, if with these features written pages are to be noted.
    pub(super) fn active_log(&self, features: u64) -> Option<&Arc<DirtyLog>> {
        self.log.as_ref().filter(|_| features & VHOST_F_LOG_ALL != 0)
    }
}

impl Session {
    /// SET_LOG_BASE: another log from now on.
    pub(super) fn use_log(&mut self, offset: u64, len: u64, file: &File) -> VhostResult<()> {
        let log = DirtyLog::map(file, offset, len, &self.memory, &self.shared.alarm).map_err(refuse)?;
        if let Some(event) = &self.migration.event {
            log.tell_by(event);
        }
        self.migration.log = Some(Arc::new(log));
        self.migration.reported = false;
        self.tell_of_log();
        if self.offload.running.as_ref().is_some_and(Running::writes_unseen) {
            self.note_unlogged();
        }
        self.refresh_rings()?;
        self.settle_log();
        Ok(())
    }

    /// Pages were written that ought to be in the log, and are not.
    pub(super) fn note_unlogged(&mut self) {
        self.migration.unlogged |= self.features & VHOST_F_LOG_ALL != 0;
    }

    /// A ring has been started, or started again; `usable` if workers use it.
    ///
    /// The first one of a connection that logs from its beginning is that of a migration under way, and the switch that was
    /// there before has died in it: it may have written pages, those of a burst, and not have had the time to say which. The same
    /// is so of what is written before the log has come: QEMU hands it over after it has started the rings.
    pub(super) fn note_start(&mut self, usable: bool) {
        let logs = self.features & VHOST_F_LOG_ALL != 0;
        let first = !std::mem::replace(&mut self.migration.begun, true);
        let untold = usable && self.migration.log.is_none();
        self.migration.unlogged |= logs && (first || untold);
    }

    /// Makes the log complete again: all of memory is in it, since nobody knows what is not. To be done after each message, when all
    /// rings log; the front-end's last look at the log comes after a later one, which stops them.
    pub(super) fn complete_log(&mut self) {
        if !self.migration.unlogged {
            return;
        }
        let Some(log) = self.migration.active_log(self.features) else { return };
        log::warn!(
            "{}: memory was written while no log told of it: all of it is to be copied again",
            self.shared.config.name
        );
        log.mark_all(&self.memory);
        self.migration.unlogged = false;
    }

    /// SET_LOG_FD: who is told when bits are set.
    pub(super) fn use_log_event(&mut self, event: OwnedFd) -> Result<(), String> {
        let event = eventfd(event, "dirty log").map_err(|e| self.explain(&e))?;
        if let Some(log) = &self.migration.log {
            log.tell_by(&event);
        }
        self.migration.event = Some(event);
        Ok(())
    }

    /// SEND_RARP: a guest has arrived that does not announce itself.
    pub(super) fn announce(&mut self, mac: [u8; 6]) -> Result<(), String> {
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(format!("SEND_RARP of {mac:02x?}, which is no card's address"));
        }
        self.shared.rings[1].announce(Some(mac));
        Ok(())
    }

    /// Forgets all of it.
    pub(super) fn forget_migration(&mut self) {
        self.migration = Migration::default();
        self.shared.rings[1].announce(None);
        self.tell_of_log();
    }

    /// Lets the operator see whether pages are being logged.
    pub(super) fn tell_of_log(&mut self) {
        let pages = self.migration.active_log(self.features).map(|log| log.pages());
        let before = std::mem::replace(&mut self.shared.peer().logged_pages, pages);
        if before.is_some() != pages.is_some() {
            let what =
                if pages.is_some() { "the guest is being moved: logging" } else { "no longer logging" };
            log::info!("{}: {what} written pages", self.shared.config.name);
            self.changed = true;
        }
    }

    /// Reports, once per log, that there was no room in it for a written page.
    pub(super) fn report_unlogged(&mut self) {
        let Some(log) = self.migration.log.as_ref().filter(|log| log.outside() > 0) else { return };
        if std::mem::replace(&mut self.migration.reported, true) {
            return;
        }
        let what = format!(
            "the dirty log has bits for {} pages and a page beyond them was written: what the migration copies is incomplete",
            log.pages()
        );
        log::error!("{}: {what}", self.shared.config.name);
        self.shared.peer().error = Some(what);
        self.changed = true;
    }
}
