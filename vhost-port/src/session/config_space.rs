//! The device's configuration space: what a guest's driver reads of its network card (virtio 1.2, 5.1.4).
//!
//! QEMU answers the driver itself. A front-end that negotiates CONFIG passes the driver's reads and writes on to the port: all
//! fields are the port's then. A driver can change one thing, its MAC address (and only a legacy driver does); what it writes elsewhere
//! is passed over, as hardware does with registers that are read only. What this switch has no word for reads as zero, and so does what
//! lies beyond the fields: the `vhost` crate's front-end waits for ever for the contents of a refusal.

use std::sync::atomic::Ordering;

use vhost::vhost_user::message::VhostUserProtocolFeatures;

use super::backend_channel::{BackendRequest, SendError};
use super::machine::Session;
use crate::net::Shared;

/// Bytes of the fields.
const LEN: usize = 17;
const MAC: std::ops::Range<usize> = 0..6;
const STATUS_LINK_UP: u16 = 1;
const SPEED_UNKNOWN: u32 = u32::MAX;
const DUPLEX_FULL: u8 = 1;
const DUPLEX_UNKNOWN: u8 = 0xff;

/// The fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ConfigSpace {
    mac: [u8; 6],
    link_up: bool,
    max_queue_pairs: u16,
    mtu: u16,
    /// Mbit/s.
    speed: Option<u32>,
}

impl ConfigSpace {
    /// The fields as of now.
    pub(super) fn of(shared: &Shared) -> ConfigSpace {
        let config = &shared.config;
        ConfigSpace {
            mac: shared.peer().mac.or(config.mac).unwrap_or_default(),
            link_up: shared.admin_up.load(Ordering::Relaxed),
            max_queue_pairs: config.max_queue_pairs,
            mtu: shared.mtu.load(Ordering::Relaxed),
            speed: config.link_speed,
        }
    }

    /// `size` bytes from `offset` on. No message carries more than 4096.
    pub(super) fn read(&self, offset: u32, size: u32) -> Vec<u8> {
        let bytes = self.bytes();
        let from = bytes.get(offset as usize..).unwrap_or_default().iter().copied();
        from.chain(std::iter::repeat(0)).take(size as usize).collect()
    }

    fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let (speed, duplex) =
            self.speed.map_or((SPEED_UNKNOWN, DUPLEX_UNKNOWN), |speed| (speed, DUPLEX_FULL));
        bytes[MAC].copy_from_slice(&self.mac);
        let status = if self.link_up { STATUS_LINK_UP } else { 0 };
        bytes[6..8].copy_from_slice(&status.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.max_queue_pairs.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.mtu.to_le_bytes());
        bytes[12..16].copy_from_slice(&speed.to_le_bytes());
        bytes[16] = duplex;
        bytes
    }
}

impl Session {
    /// Takes what the driver writes.
    pub(super) fn write_config(&mut self, offset: u32, bytes: &[u8]) {
        let before = ConfigSpace::of(&self.shared);
        let mut mac = before.mac;
        mac.iter_mut().skip(offset as usize).zip(bytes).for_each(|(place, byte)| *place = *byte);
        if mac != before.mac {
            self.shared.peer().mac = Some(mac);
            // It knows.
            self.told.mac = mac;
            self.shared.changed();
        }
    }

    /// Tells a front-end that reads the configuration space when the operator has changed it. One that does not read what we send
    /// is told at the next occasion.
    pub(super) fn tell_config(&mut self) {
        let now = ConfigSpace::of(&self.shared);
        let reads = self.protocol_features & VhostUserProtocolFeatures::CONFIG.bits() != 0;
        if now == self.told || !reads {
            return;
        }
        let Some(channel) = &self.channel else { return };
        match channel.send(BackendRequest::ConfigChange, &[]) {
            Ok(()) => self.told = now,
            Err(SendError::Full) => {}
            Err(e @ SendError::Broken(_)) => {
                log::warn!("{}: change of the configuration space not told: {e}", self.shared.config.name);
                self.channel = None;
            }
        }
    }
}
