//! Messages about rings: collect settings, and keep the shared ring in step with them.
//!
//! Whatever changes, [`Session::refresh_ring`] rebuilds the ring from its settings under its lock and resumes at the index
//! where it was. So the order in which a front-end says things does not matter, and memory, features or descriptors
//! can change while the ring runs.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use pmd::port::DropReason;
use pmd::virtio::features::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use vhost::vhost_user::Result as VhostResult;

use super::iommu::direction;
use super::machine::{Session, refuse, starts_enabled};
use crate::memory::PageLog;
use crate::net::NetRules;
use crate::ring::{
    Activated, DeviceRing, Kept, Resume, RingAddresses, RingConfig, RingConfigError, RingFault, RingRules,
    checked_size,
};

/// Checks that a descriptor is an eventfd, so that writing it can do nothing but notify, and sets it up so that writing
/// never blocks a worker.
pub(super) fn eventfd(fd: OwnedFd, what: impl Display) -> VhostResult<Arc<OwnedFd>> {
    let link = rustix::fs::readlink(proc_path(&fd), Vec::new())
        .map_err(|e| refuse(format!("{what}: cannot look at its descriptor: {e}")))?;
    if link.as_bytes() != b"anon_inode:[eventfd]" {
        return Err(refuse(format!("{what}: its descriptor is {link:?}, not an eventfd")));
    }
    let set = fcntl_setfd(&fd, FdFlags::CLOEXEC)
        .and_then(|()| fcntl_getfl(&fd))
        .and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK));
    set.map_err(|e| refuse(format!("{what}: cannot set up its descriptor: {e}")))?;
    Ok(Arc::new(fd))
}

/// The same for one of a ring's.
fn ring_eventfd(fd: Option<File>, what: &str, index: u32) -> VhostResult<Option<Arc<OwnedFd>>> {
    fd.map(|fd| eventfd(fd.into(), format_args!("ring {index}: {what}"))).transpose()
}

fn proc_path(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

impl Session {
    /// Checks a ring index.
    pub(super) fn ring_index(&self, index: u32) -> VhostResult<usize> {
        let count = self.rings.len();
        let at = usize::try_from(index).ok().filter(|&at| at < count);
        at.ok_or_else(|| {
            refuse(format!(
                "ring {index} does not exist: the port has {count} rings; raise its number of queues"
            ))
        })
    }

    pub(super) fn size_ring(&mut self, index: u32, size: u32) -> VhostResult<()> {
        let at = self.ring_index(index)?;
        let size = checked_size(size, self.packed()).map_err(|e| refuse(format!("ring {index}: {e}")))?;
        self.rings[at].size = Some(size);
        if let Some(known) = self.shared.peer().ring_sizes.get_mut(at) {
            *known = Some(size);
        }
        self.refresh_ring(at)
    }

    pub(super) fn place_ring(
        &mut self,
        index: u32,
        addresses: RingAddresses,
        used_log: Option<u64>,
    ) -> VhostResult<()> {
        let at = self.ring_index(index)?;
        self.rings[at].addresses = Some(addresses);
        self.rings[at].used_log = used_log;
        self.refresh_ring(at)
    }

    pub(super) fn base_ring(&mut self, index: u32, base: u32) -> VhostResult<()> {
        let at = self.ring_index(index)?;
        let base = if self.packed() {
            // The position to take next; above it, where used descriptors go. DPDK leaves that half zero, and we complete all that
            // we take, so it can say nothing else.
            base as u16
        } else {
            u16::try_from(base)
                .map_err(|_| refuse(format!("ring {index}: base {base:#x} is no split-ring index")))?
        };
        if self.rings[at].started {
            return Err(refuse(format!("ring {index}: SET_VRING_BASE while it runs")));
        }
        self.rings[at].base = base;
        Ok(())
    }

    pub(super) fn start_ring(&mut self, index: u32, fd: Option<File>) -> VhostResult<()> {
        let at = self.ring_index(index)?;
        let kick = ring_eventfd(fd, "kick", index)?;
        self.rings[at].kick = kick;
        self.rings[at].started = true;
        if !self.redirect_kick(at) {
            self.consider_hold(at);
        }
        self.refresh_ring(at)
    }

    pub(super) fn call_ring(&mut self, index: u32, fd: Option<File>) -> VhostResult<()> {
        let at = self.ring_index(index)?;
        let call = ring_eventfd(fd, "call", index)?;
        self.rings[at].call.clone_from(&call);
        self.redirect_call(at, call.as_ref());
        let mut guard = self.shared.rings[at].lock();
        if let Some(ring) = &mut guard.ring {
            ring.set_call(call.clone());
            // What was used between the old descriptor and the new may not have been seen.
            if let Some(call) = call {
                let _ = rustix::io::write(&call, &1u64.to_ne_bytes());
            }
        }
        Ok(())
    }

    pub(super) fn err_ring(&mut self, index: u32, fd: Option<File>) -> VhostResult<()> {
        let at = self.ring_index(index)?;
        self.rings[at].err = ring_eventfd(fd, "error", index)?;
        Ok(())
    }

    pub(super) fn enable_ring(&mut self, index: u32, enable: bool) -> Result<(), String> {
        let at = self.ring_index(index).map_err(|e| self.explain(&e))?;
        if self.rings[at].enabled != enable {
            self.rings[at].enabled = enable;
            self.rings[at].was_enabled |= enable;
            self.refresh_ring(at).map_err(|e| self.explain(&e))?;
        }
        Ok(())
    }

    /// Whether rings are packed.
    fn packed(&self) -> bool {
        self.features & VIRTIO_F_RING_PACKED != 0
    }

    /// Stops a ring and returns its base: the index it would take next; in a packed ring the position it would take next, and above it
    /// where it would write the next used descriptor. No burst is under way when this returns.
    pub(super) fn stop_ring(&mut self, at: usize) -> u32 {
        self.leave_for_stop();
        let vring = &self.shared.rings[at];
        let config = &mut self.rings[at];
        let mut guard = vring.lock();
        vring.set_usable(false);
        vring.set_awaiting(false);
        vring.set_offloaded(false);
        self.shared.late_tx.drops.add(DropReason::TxLinkDown, guard.held.clear());
        vring.clear_fault();
        if let Some(ring) = guard.ring.take() {
            config.base = retire(ring);
        }
        guard.written = None;
        drop(guard);
        self.inflight.handed_back.extend(config.inflight.take());
        config.started = false;
        config.kick = None;
        vring.set_kick(None);
        self.reported[at] = false;
        vring.wake();
        let base = u32::from(config.base);
        if self.packed() { base | base << 16 } else { base }
    }

    /// The front-end has got the answer to its last message. Rings whose bases were in it are its business from now on.
    pub(super) fn answered(&mut self) {
        for at in self.handed_back.drain(..) {
            self.shared.ring_file.forget(at);
        }
        self.inflight.handed_back.drain(..).for_each(|region| region.forget());
    }

    /// Rebuilds all rings that run.
    pub(super) fn refresh_rings(&mut self) -> VhostResult<()> {
        if self.offload.running.is_some() {
            return self.carry_over();
        }
        (0..self.rings.len())
            .filter(|&at| self.rings[at].started)
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|at| self.refresh_ring(at))
    }

    /// Makes the shared ring what the settings say, and tells of it.
    pub(super) fn refresh_ring(&mut self, at: usize) -> VhostResult<()> {
        if self.offload.running.is_some() {
            return self.compare_ring(at);
        }
        if self.rings[at].started {
            self.offload.retry = true;
            self.offload.hold_on();
            self.rebuild_ring(at)?;
            self.changed = true;
            self.discard(at);
            self.ask();
        }
        Ok(())
    }

    /// Builds a started ring anew from its settings. It goes on where it was.
    pub(super) fn rebuild_ring(&mut self, at: usize) -> VhostResult<()> {
        let rules = RingRules::new(self.features);
        let log = self.migration.active_log(self.features);
        let vring = &self.shared.rings[at];
        let config = &mut self.rings[at];
        let aside = self.offload.shadowing;
        let holds = self.offload.holds() || aside;
        let mut guard = vring.lock();
        vring.set_usable(false);
        if !holds {
            vring.set_offloaded(false);
        } else if aside {
            vring.set_offloaded(true);
        }
        let ran = guard.ring.take().map(|old| config.base = retire(old)).is_some();
        let resume = if ran { Resume::AtBase } else { Resume::ByRecord };
        let inflight = self.inflight.buffer.as_ref();
        let kept = Kept { file: &self.shared.ring_file, inflight, index: at };
        let made = config.activate(&self.addresses, rules, kept, resume);
        let (mut made, awaiting) = match made {
            Ok(made) => (made, false),
            Err(RingConfigError::Untranslated { .. }) => (None, true),
            Err(e) => return Err(refuse(format!("ring {at}: {e}"))),
        };
        if let Some(made) = &mut made
            && !ran
        {
            first_start(made, config, &self.shared.config.name, at);
        }
        if let Some(made) = &mut made {
            config.inflight = made.inflight.take();
        }
        let mut ring = made.map(|made| made.ring);
        if let (Some(ring), Some(log)) = (&mut ring, log) {
            // With an IOMMU it would be an I/O address.
            ring.log_to(log, config.used_log.filter(|_| self.features & VIRTIO_F_ACCESS_PLATFORM == 0));
        }
        let enabled = config.enabled || starts_enabled(self.features);
        let works = enabled && !holds && vring.fault().is_none() && !self.shared.alarm.tripped();
        let usable = works && ring.is_some();
        if usable
            && self.addresses.translates()
            && let Some(ring) = &mut ring
        {
            ring.survey(direction(at));
        }
        config.windows = ring.as_ref().map(|ring| ring.windows().to_vec()).unwrap_or_default();
        guard.ring = ring;
        guard.net = NetRules::new(self.features);
        guard.written = log.map(|log| PageLog::new(log, &self.memory));
        // A worker must not take kicks that are meant for `discard`.
        vring.set_kick(if enabled && !holds { config.kick.clone() } else { None });
        if !works {
            self.shared.late_tx.drops.add(DropReason::TxLinkDown, guard.held.clear());
        }
        let held = !guard.held.is_empty();
        let begins = guard.ring.is_some() || awaiting;
        vring.set_awaiting(works && (awaiting || held));
        vring.set_usable(usable && !held);
        drop(guard);
        vring.wake();
        if begins {
            self.note_start(usable);
        }
        if held {
            self.send_late(at);
        }
        Ok(())
    }

    /// Whether what the guest sends by a ring is to be dropped: its transmit ring, started, and disabled again after it had been
    /// enabled.
    fn discards(&self, at: usize) -> bool {
        let config = &self.rings[at];
        at % 2 == 1
            && config.started
            && config.was_enabled
            && !config.enabled
            && !starts_enabled(self.features)
            && !self.shared.rings[at].offloaded()
    }

    /// What wakes the control thread beside messages: kicks of rings that [`Session::discard`] looks after, a device, and pages that arrive.
    pub(super) fn awaited(&self) -> Vec<Arc<OwnedFd>> {
        let discarded = (0..self.rings.len()).filter(|&at| self.discards(at));
        let pages = self.postcopy.as_ref().map(|postcopy| postcopy.event());
        let kicks = discarded.filter_map(|at| self.rings[at].kick.clone());
        kicks.chain(self.offload.event_fd()).chain(pages).collect()
    }

    /// Drops what a guest has put into a disabled transmit ring. Does nothing for other rings.
    fn discard(&mut self, at: usize) {
        if !self.discards(at) {
            return;
        }
        let kick = self.rings[at].kick.as_ref();
        // Non-blocking; taken before the look at the ring, so that a later kick is seen.
        let _ = kick.map(|kick| rustix::io::read(kick, &mut [0; 8]));
        let vring = &self.shared.rings[at];
        let mut guard = vring.lock();
        if vring.fault().is_some() || self.shared.alarm.tripped() {
            return;
        }
        let Some(ring) = &mut guard.ring else { return };
        match ring.discard() {
            // No worker polls a disabled ring, and the lock is held: nobody else counts.
            Ok(chains) => {
                self.shared.rx_counters[at / 2].drops.add(DropReason::RxDisabled, u64::from(chains))
            }
            Err(fault) => return vring.break_down(fault),
        }
        if ring.publish() {
            ring.interrupt();
        }
        if ring.arm()
            && let Some(kick) = kick
        {
            // More has come. Its turn is after the front-end's next message, so that a guest cannot keep that waiting.
            let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
        }
    }

    /// Looks after what rang the alarm, broken rings, memory that went away and translations that are missing, after disabled
    /// rings that were kicked, and tells what the operator changed.
    pub(super) fn attend(&mut self) {
        self.ask();
        self.ask_again();
        self.report_unlogged();
        (0..self.rings.len()).for_each(|at| self.discard(at));
        self.tell_config();
        if self.shared.alarm.tripped() {
            for vring in &self.shared.rings {
                let guard = vring.lock();
                if guard.ring.is_some() && vring.fault().is_none() {
                    vring.break_down(RingFault::MemoryGone);
                }
            }
        }
        for (at, vring) in self.shared.rings.iter().enumerate() {
            let Some(fault) = vring.fault() else { continue };
            if std::mem::replace(&mut self.reported[at], true) {
                continue;
            }
            let what = format!("ring {at} stopped: {fault}; restart the guest's driver");
            log::error!("{}: {what}", self.shared.config.name);
            self.shared.peer().error = Some(what);
            if let Some(err) = &self.rings[at].err {
                // Non-blocking; full means told already.
                let _ = rustix::io::write(err, &1u64.to_ne_bytes());
            }
            self.changed = true;
        }
    }
}

/// What is to be done with a ring that did not run before on this connection.
fn first_start(made: &mut Activated, config: &RingConfig, name: &str, at: usize) {
    let Activated { ring, bad_record, .. } = made;
    if let Some(bad) = bad_record {
        log::warn!(
            "{name}: ring {at}: what was kept of it is of no use: {bad}; going on where the front-end says"
        );
    }
    let (used, base) = (ring.next_used(), config.base);
    if used != base {
        // All that is taken is completed, so the two are equal unless the last back-end died or counted otherwise. What the guest has
        // not got back is done (again).
        log::warn!(
            "{name}: ring {at}: front-end says {base:#x}, used is all up to {used:#x}; going on from there"
        );
        ring.rewind_to_used();
    }
    if let Some(call) = &config.call {
        // The last back-end may have died between giving buffers back and telling so.
        let _ = rustix::io::write(call, &1u64.to_ne_bytes());
    }
}

/// Ends a ring, and tells where it would go on. A worker may still have meant to interrupt the guest for its last burst;
/// nobody would do so later.
pub(super) fn retire(mut ring: DeviceRing) -> u16 {
    ring.interrupt();
    ring.next_avail()
}
