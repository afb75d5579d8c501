//! The buffer in which a front-end wants to have kept what is in flight: GET_INFLIGHT_FD and SET_INFLIGHT_FD.
//!
//! The front-end asks for a buffer once, and hands the same one over before it starts rings, on this connection and on all that come after
//! it. What we made and handed out is not ours to use before it has come back.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vhost::vhost_user::Result as VhostResult;
use vhost::vhost_user::message::VhostUserInflight;

use super::machine::{Session, refuse};
use crate::ring::{InflightBuffer, InflightRegion};

/// What a session has of it.
#[derive(Default)]
pub(super) struct Inflight {
    /// The buffer handed over last.
    pub(super) buffer: Option<Arc<InflightBuffer>>,
    /// Regions of rings whose bases the front-end is being told.
    pub(super) handed_back: Vec<InflightRegion>,
}

impl Session {
    /// GET_INFLIGHT_FD: an empty buffer of the shape that is asked for. It has room for rings of either kind, because features may come later.
    pub(super) fn make_inflight(&self, wanted: &VhostUserInflight) -> VhostResult<(VhostUserInflight, File)> {
        let (rings, entries) = (wanted.num_queues, wanted.queue_size);
        if usize::from(rings) > self.rings.len() {
            let has = self.rings.len();
            return Err(refuse(format!("GET_INFLIGHT_FD for {rings} rings of a port that has {has}")));
        }
        let len = InflightBuffer::len_for(rings, entries).map_err(refuse)?;
        let file = memfd_create("in-flight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .and_then(|file| ftruncate(&file, len).map(|()| file))
            .and_then(|file| {
                fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map(|()| file)
            })
            .map_err(|e| refuse(format!("in-flight buffer: {e}; raise the limit of open files")))?;
        Ok((VhostUserInflight::new(len, 0, rings, entries), file.into()))
    }

    /// SET_INFLIGHT_FD: rings that start from now on are kept there.
    pub(super) fn use_inflight(&mut self, told: &VhostUserInflight, file: &File) -> VhostResult<()> {
        let place = (told.mmap_offset, told.mmap_size);
        let shape = (told.num_queues, told.queue_size);
        let buffer = InflightBuffer::map(file, place, shape, &self.shared.alarm).map_err(refuse)?;
        self.inflight.buffer = Some(Arc::new(buffer));
        self.refresh_rings()
    }
}
