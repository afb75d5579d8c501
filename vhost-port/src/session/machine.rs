//! One front-end's session: its state, and a method for each message.
//!
//! An error from a method is refused with a nack where the front-end asked for one, and ends the connection: a
//! front-end that sent what it must not, or that we could not follow, is not to be guessed at.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pmd::port::LinkState;
use pmd::virtio::features::{VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_ACCESS_PLATFORM};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error as VhostError, GpuBackend, Result as VhostResult, VhostUserBackendReqHandlerMut,
};

use super::backend_channel::BackendChannel;
use super::config_space::ConfigSpace;
use super::device_state::Transfer;
use super::divert::{Diverted, reply};
use super::features;
use super::inflight::Inflight;
use super::iommu::Iommu;
use super::migration::Migration;
use super::postcopy::Postcopy;
use crate::memory::{MAX_REGIONS, MemTable, MemoryError, Region, RegionSpec};
use crate::net::{Peer, Shared};
use crate::ring::{RingAddresses, RingConfig};
use crate::vdpa::Offload;

/// A front-end that hangs up so soon after it was told our features has not liked them.
const HASTE: Duration = Duration::from_secs(1);

/// State of one connection.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) memory: Arc<MemTable>,
    /// What moving the guest needs.
    pub(super) migration: Migration,
    /// What rings and descriptors say where things are: the memory, through the IOMMU if the guest has one.
    pub(super) addresses: Arc<MemTable>,
    /// The guest's IOMMU, from ACCESS_PLATFORM on; or the pages that have arrived, while not all have.
    pub(super) iommu: Option<Iommu>,
    /// A guest whose memory arrives while it runs.
    pub(super) postcopy: Option<Postcopy>,
    /// Acknowledged virtio features.
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    /// The driver's device status, kept for GET_STATUS.
    pub(super) device_status: u64,
    /// State on its way to or from another back-end.
    pub(super) transfer: Option<Transfer>,
    pub(super) rings: Vec<RingConfig>,
    /// Where we can send messages of our own.
    pub(super) channel: Option<BackendChannel>,
    /// The configuration space as the front-end was last told that it changed.
    pub(super) told: ConfigSpace,
    /// Ring faults already reported.
    pub(super) reported: Vec<bool>,
    /// Rings whose bases the front-end is being told.
    pub(super) handed_back: Vec<usize>,
    /// Where the front-end wants to have kept what is in flight.
    pub(super) inflight: Inflight,
    /// Devices that can run the rings.
    pub(super) offload: Offload,
    opened: Instant,
    /// Something that [`Session::tell`] has to tell.
    pub(super) changed: bool,
}

/// A refusal with its reason.
#[expect(clippy::needless_pass_by_value, reason = "takes errors as `map_err` hands them over")]
pub(super) fn refuse(reason: impl ToString) -> VhostError {
    VhostError::ReqHandlerError(io::Error::other(reason.to_string()))
}

impl Session {
    /// Starts a session on a new connection.
    pub(super) fn open(shared: Arc<Shared>) -> Session {
        shared.alarm.reset();
        let count = shared.rings.len();
        {
            let mut peer = shared.peer();
            let link_resets = peer.link_resets;
            *peer = Peer { connected: true, link_resets, ring_sizes: vec![None; count], ..Peer::default() };
        }
        shared.changed();
        Session {
            memory: Arc::default(),
            migration: Migration::default(),
            addresses: Arc::default(),
            iommu: None,
            postcopy: None,
            features: 0,
            protocol_features: 0,
            device_status: 0,
            transfer: None,
            rings: (0..count).map(|_| RingConfig::default()).collect(),
            channel: None,
            told: ConfigSpace::of(&shared),
            reported: vec![false; count],
            handed_back: Vec::new(),
            inflight: Inflight::default(),
            offload: Offload::begin(&shared.vdpa),
            opened: Instant::now(),
            changed: false,
            shared,
        }
    }

    /// Ends the session: rings stop, memory goes.
    pub(super) fn close(&mut self, error: Option<String>) {
        let hasty = self.opened.elapsed() < HASTE && self.features == 0;
        self.shared.vdpa.note_end(hasty && self.offload.offer() != u64::MAX);
        self.park_devices();
        self.reset();
        {
            let mut peer = self.shared.peer();
            let link_resets = peer.link_resets + u64::from(peer.link == LinkState::Up);
            // A ring's fault stays visible if nothing newer went wrong.
            let error = error.or_else(|| peer.error.take());
            *peer = Peer { link_resets, error, ..Peer::default() };
        }
        self.changed = false;
        self.shared.rings_changed();
    }

    /// Stops everything and forgets what the front-end said.
    fn reset(&mut self) {
        for index in 0..self.rings.len() {
            self.stop_ring(index);
            self.rings[index] = RingConfig::default();
        }
        self.forget_postcopy();
        self.memory = Arc::default();
        self.addresses = Arc::default();
        self.inflight.buffer = None;
        self.carry_memory();
        self.iommu = None;
        self.features = 0;
        self.forget_migration();
        self.changed = true;
    }

    /// The guest starts over on the same connection: rings stop and their settings go, and so do the features. What belongs to the
    /// connection stays: the protocol features, the memory (QEMU sends changes to it only, and none for a reset), and the
    /// descriptors by which the front-end is told of used buffers and errors.
    fn reset_guest(&mut self) {
        for index in 0..self.rings.len() {
            self.stop_ring(index);
            let RingConfig { call, err, .. } = std::mem::take(&mut self.rings[index]);
            self.rings[index] = RingConfig { call, err, ..RingConfig::default() };
        }
        self.features = 0;
        self.iommu = None;
        self.forget_pages();
        self.use_addresses();
        self.device_status = 0;
        self.tell_of_log();
        self.shared.peer().forget_guest();
        self.changed = true;
    }

    /// Tells queues and subscriber what the last message changed.
    pub(super) fn tell(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.shared.rings_changed();
        }
    }

    /// The words for an error of the vhost crate.
    pub(super) fn explain(&self, error: &VhostError) -> String {
        match error {
            VhostError::ReqHandlerError(reason) => reason.to_string(),
            VhostError::InactiveOperation(bits) => format!("message of a feature not negotiated ({bits:?})"),
            other => other.to_string(),
        }
    }

    /// Answers a message that the vhost crate does not know.
    pub(super) fn divert(
        &mut self,
        socket: &mut UnixStream,
        code: u32,
        request: Diverted,
        need_reply: bool,
    ) -> Result<(), String> {
        let has = |s: &Session, bit: VhostUserProtocolFeatures| s.protocol_features & bit.bits() != 0;
        let ack = need_reply && has(self, VhostUserProtocolFeatures::REPLY_ACK);
        let status = has(self, VhostUserProtocolFeatures::STATUS);
        let result = match request {
            Diverted::VringEnable { index, enable } => self.enable_ring(index, enable),
            Diverted::SetMtu(mtu) if has(self, VhostUserProtocolFeatures::MTU) => self.set_guest_mtu(mtu),
            Diverted::SendRarp(mac) if has(self, VhostUserProtocolFeatures::RARP) => self.announce(mac),
            Diverted::LogEvent(event) => self.use_log_event(event),
            Diverted::SetStatus(value) if status => {
                self.device_status = value;
                Ok(())
            }
            Diverted::BackendChannel(socket) if has(self, VhostUserProtocolFeatures::BACKEND_REQ) => {
                BackendChannel::new(socket).map(|channel| self.channel = Some(channel))
            }
            Diverted::Iotlb(message) => self.translate(message),
            Diverted::Postcopy(message) if has(self, VhostUserProtocolFeatures::PAGEFAULT) => {
                return self.postcopy(socket, code, message, ack);
            }
            Diverted::GetStatus if status => {
                return reply(socket, code, self.device_status).map_err(|e| format!("send: {e}"));
            }
            other => Err(format!("{other:?}, whose feature was not negotiated")),
        };
        if ack {
            reply(socket, code, u64::from(result.is_err())).map_err(|e| format!("send: {e}"))?;
        }
        result
    }

    fn set_guest_mtu(&mut self, mtu: u64) -> Result<(), String> {
        let mtu = u16::try_from(mtu).ok().filter(|&mtu| mtu >= 68);
        let mtu = mtu.ok_or("NET_SET_MTU with an MTU out of range")?;
        self.shared.peer().mtu = Some(mtu);
        self.shared.changed();
        Ok(())
    }

    /// Moves all rings to another table.
    pub(super) fn use_memory(&mut self, memory: MemTable) -> VhostResult<()> {
        self.memory = Arc::new(memory);
        self.use_addresses();
        self.carry_memory();
        self.refresh_rings()
    }

    /// After another memory table, or features, came.
    pub(super) fn use_addresses(&mut self) {
        let arriving = self.arriving();
        self.addresses = match &mut self.iommu {
            Some(iommu) => Arc::new(iommu.rebase(&self.memory, arriving)),
            None => Arc::clone(&self.memory),
        };
    }

    fn map(&self, region: &VhostUserMemoryRegion, file: &File) -> Result<Region, MemoryError> {
        let spec = RegionSpec {
            gpa: region.guest_phys_addr,
            len: region.memory_size,
            uva: region.user_addr,
            offset: region.mmap_offset,
        };
        Region::map(spec, file, &self.shared.alarm)
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> VhostResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> VhostResult<()> {
        self.reset();
        self.handed_back.extend(0..self.rings.len());
        Ok(())
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        log::info!("{}: the front-end resets the device", self.shared.config.name);
        self.reset_guest();
        self.handed_back.extend(0..self.rings.len());
        Ok(())
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        let offered = features::offered(&self.shared.config);
        Ok(if self.shared.vdpa.offers_all() { offered } else { offered & self.offload.offer() })
    }

    fn set_features(&mut self, acked: u64) -> VhostResult<()> {
        // A guest that has been running without a device knows more than it is offered now.
        let unknown = acked & !features::offered(&self.shared.config);
        if unknown != 0 {
            return Err(refuse(format!("SET_FEATURES with bits that were not offered: {unknown:#x}")));
        }
        if acked != self.features {
            let changed = acked ^ self.features;
            self.features = acked;
            self.shared.peer().features = acked;
            if changed & VIRTIO_F_ACCESS_PLATFORM != 0 {
                let needed = acked & VIRTIO_F_ACCESS_PLATFORM != 0 || self.arriving();
                self.iommu = needed.then(|| Iommu::new(self));
            }
            self.use_addresses();
            self.refresh_rings()?;
            self.settle_log();
            self.tell_of_log();
            self.changed = true;
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        Ok(features::protocol())
    }

    fn set_protocol_features(&mut self, acked: u64) -> VhostResult<()> {
        let unknown = acked & !features::protocol().bits();
        if unknown != 0 {
            return Err(refuse(format!(
                "SET_PROTOCOL_FEATURES with bits that were not offered: {unknown:#x}"
            )));
        }
        self.protocol_features = acked;
        self.shared.peer().protocol_features = acked;
        Ok(())
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        Ok(u64::from(self.shared.config.max_queue_pairs))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> VhostResult<Option<Vec<u64>>> {
        // All of it is there: the migration has ended before it would have become postcopy.
        self.forget_postcopy();
        let mut table = MemTable::default();
        for (region, file) in regions.iter().zip(&files) {
            let mapped = self.map(region, file).map_err(refuse)?;
            table = table.with(mapped).map_err(refuse)?;
        }
        self.use_memory(table)?;
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> VhostResult<Option<u64>> {
        self.forget_postcopy();
        let mapped = self.map(region, &file).map_err(refuse)?;
        let table = self.memory.with(mapped).map_err(refuse)?;
        self.use_memory(table)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        let (gpa, uva, len) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let table = self.memory.without(gpa, uva, len).map_err(refuse)?;
        self.forget_region(gpa, len);
        self.use_memory(table)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> VhostResult<()> {
        self.size_ring(index, num)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> VhostResult<()> {
        let used_log = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        self.place_ring(index, RingAddresses { descriptors: descriptor, avail: available, used }, used_log)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        self.base_ring(index, base)
    }

    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        let at = self.ring_index(index)?;
        let base = self.stop_ring(at);
        self.handed_back.push(at);
        self.changed = true;
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.start_ring(u32::from(index), fd)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.call_ring(u32::from(index), fd)
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.err_ring(u32::from(index), fd)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> VhostResult<()> {
        self.enable_ring(index, enable).map_err(refuse)
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> VhostResult<Vec<u8>> {
        Ok(ConfigSpace::of(&self.shared).read(offset, size))
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _: VhostUserConfigFlags) -> VhostResult<()> {
        self.write_config(offset, bytes);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> VhostResult<()> {
        Err(VhostError::InvalidOperation("this is no GPU"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> VhostResult<File> {
        Err(VhostError::InvalidOperation("SHARED_OBJECT was not offered"))
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> VhostResult<(VhostUserInflight, File)> {
        self.make_inflight(wanted)
    }

    fn set_inflight_fd(&mut self, told: &VhostUserInflight, file: File) -> VhostResult<()> {
        self.use_inflight(told, &file)
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        file: File,
    ) -> VhostResult<Option<File>> {
        let begun = self.begin_transfer(direction, file);
        self.note_transfer(begun).map(|()| None)
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        let ended = self.check_transfer();
        self.note_transfer(ended)
    }

    fn get_shmem_config(&mut self) -> VhostResult<VhostUserShMemConfig> {
        Err(VhostError::InvalidOperation("SHMEM was not offered"))
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> VhostResult<()> {
        self.use_log(log.mmap_offset, log.mmap_size, &file)
    }
}

/// Whether a ring is enabled by itself: without protocol features there is no message to enable it.
pub(super) fn starts_enabled(features: u64) -> bool {
    features & VHOST_USER_F_PROTOCOL_FEATURES == 0
}
