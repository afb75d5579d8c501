//! Registers of a modern virtio function (VIRTIO 1.2, section 4.1.4) and of its network device (5.1.4).

use std::sync::Arc;

use crate::pci::{Bar, Capabilities, Capability, PciFn};
use crate::port::PmdError;

/// Offsets in the common configuration.
pub(super) mod common {
    pub(crate) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(crate) const DEVICE_FEATURE: usize = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(crate) const DRIVER_FEATURE: usize = 12;
    pub(crate) const CONFIG_VECTOR: usize = 16;
    pub(crate) const STATUS: usize = 20;
    pub(crate) const CONFIG_GENERATION: usize = 21;
    pub(crate) const QUEUE_SELECT: usize = 22;
    pub(crate) const QUEUE_SIZE: usize = 24;
    pub(crate) const QUEUE_VECTOR: usize = 26;
    pub(crate) const QUEUE_ENABLE: usize = 28;
    pub(crate) const QUEUE_NOTIFY_OFF: usize = 30;
    pub(crate) const QUEUE_DESC: usize = 32;
    pub(crate) const QUEUE_DRIVER: usize = 40;
    pub(crate) const QUEUE_DEVICE: usize = 48;
    /// Bytes of it.
    pub(crate) const LEN: usize = 56;
}

/// Bits of the device status (VIRTIO 1.2, section 2.1).
pub mod status {
    /// The device has been noticed.
    pub const ACKNOWLEDGE: u8 = 1;
    /// There is a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready: the device runs.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error that only a reset ends.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// Offsets in the configuration of a network device (5.1.4).
pub mod net {
    /// MAC address, six bytes.
    pub const MAC: usize = 0;
    /// Link state in bit 0, two bytes.
    pub const STATUS: usize = 6;
    /// Most queue pairs, two bytes.
    pub const MAX_PAIRS: usize = 8;
    /// Largest MTU, two bytes.
    pub const MTU: usize = 10;
    /// Speed in Mbit/s, four bytes.
    pub const SPEED: usize = 12;
    /// Full duplex if one, a byte.
    pub const DUPLEX: usize = 16;
}

/// No vector for this queue or event.
pub const NO_VECTOR: u16 = 0xffff;

/// A part of a register space. Holds the device open.
#[derive(Clone)]
pub struct Window {
    bar: Arc<Bar>,
    offset: usize,
}

impl Window {
    /// Reads a byte.
    pub fn read8(&self, at: usize) -> u8 {
        self.bar.read8(self.offset + at)
    }

    /// Reads two bytes.
    pub fn read16(&self, at: usize) -> u16 {
        self.bar.read16(self.offset + at)
    }

    /// Reads four bytes.
    pub fn read32(&self, at: usize) -> u32 {
        self.bar.read32(self.offset + at)
    }

    /// Writes a byte.
    pub fn write8(&self, at: usize, value: u8) {
        self.bar.write8(self.offset + at, value);
    }

    /// Writes two bytes.
    #[inline]
    pub fn write16(&self, at: usize, value: u16) {
        self.bar.write16(self.offset + at, value);
    }

    pub(super) fn write32(&self, at: usize, value: u32) {
        self.bar.write32(self.offset + at, value);
    }

    /// Writes 64 bits as two halves, low one first, as the specification allows for addresses.
    pub(super) fn write64(&self, at: usize, value: u64) {
        self.write32(at, value as u32);
        self.write32(at + 4, (value >> 32) as u32);
    }

    /// A register of its own.
    pub(super) fn at(&self, offset: usize) -> Window {
        Window { bar: self.bar.clone(), offset: self.offset + offset }
    }

    /// Where it begins in its register space.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }
}

/// Where the parts of the function lie.
pub(super) struct Registers {
    pub(super) common: Window,
    pub(super) notify: Window,
    /// Bytes from the doorbell of one notify offset to that of the next.
    pub(super) notify_multiplier: usize,
    /// Base address register that the doorbells are behind.
    pub(super) notify_bar: u8,
    pub(super) device: Window,
    /// Bytes of the device's configuration.
    pub(super) device_len: usize,
}

/// Kinds of parts, as the capabilities name them.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

impl Registers {
    /// Finds and maps them.
    ///
    /// # Errors
    /// A part is missing: the function is no modern virtio function.
    pub(super) fn find(function: &dyn PciFn) -> Result<Registers, PmdError> {
        let mut bars: [Option<Arc<Bar>>; 6] = Default::default();
        let (mut common, mut notify, mut device) = (None, None, None);
        let (mut notify_multiplier, mut notify_bar, mut device_len) = (0, 0, 0);
        for capability in Capabilities::of(function).filter(|cap| cap.id == Capability::VENDOR) {
            let mut body = [0; 20];
            function.config_read(u16::from(capability.offset), &mut body)?;
            let [_, _, _, kind, index, ..] = body;
            let word =
                |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]) as usize;
            let slot = match kind {
                COMMON => &mut common,
                NOTIFY => &mut notify,
                DEVICE => &mut device,
                _ => continue,
            };
            // The first of a kind is the one the device likes best.
            let Some(known) = bars.get_mut(usize::from(index)).filter(|_| slot.is_none()) else { continue };
            let bar = match known {
                Some(bar) => bar.clone(),
                None => known.insert(Arc::new(function.bar(index)?)).clone(),
            };
            let (offset, len) = (word(8), word(12));
            if offset.checked_add(len).is_none_or(|end| end > bar.len())
                || (kind == COMMON && len < common::LEN)
            {
                continue;
            }
            match kind {
                NOTIFY => (notify_multiplier, notify_bar) = (word(16), index),
                DEVICE => device_len = len,
                _ => {}
            }
            *slot = Some(Window { bar, offset });
        }
        match (common, notify, device) {
            (Some(common), Some(notify), Some(device)) => {
                Ok(Registers { common, notify, notify_multiplier, notify_bar, device, device_len })
            }
            _ => Err(PmdError::Config(format!(
                "{} has no modern virtio interface (VIRTIO 1.0): in QEMU, set disable-legacy=on or do not set disable-modern=on",
                function.address()
            ))),
        }
    }
}
