//! The steps that are the same whoever runs the function (VIRTIO 1.2, sections 3.1.1 and 4.1.4.3).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{self, Control};
use super::registers::{NO_VECTOR, Registers, Window, common, status};
use crate::pci::PciFn;
use crate::port::PmdError;
use crate::virtio::features::{self, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};

/// How long a reset may take.
const RESET: Duration = Duration::from_secs(1);

/// A modern virtio function. Methods are for one thread at a time.
pub struct Transport {
    registers: Registers,
    // After the registers: they hold the device open, too.
    function: Arc<dyn PciFn>,
}

/// Where a doorbell lies for somebody else to map: a file, and the stretch of it that is this doorbell's alone.
#[derive(Debug)]
pub struct DoorbellPlace {
    /// The device.
    pub fd: OwnedFd,
    /// Where the page begins in it.
    pub offset: u64,
    /// Bytes, whole pages.
    pub len: u64,
}

impl Transport {
    /// Finds the registers of a function, lets it reach memory, and resets it.
    ///
    /// # Errors
    /// It is no modern virtio function, or stays in reset.
    pub fn new(function: Arc<dyn PciFn>) -> Result<Transport, PmdError> {
        function.enable()?;
        let transport = Transport { registers: Registers::find(&*function)?, function };
        transport.reset()?;
        if transport.offered() & VIRTIO_F_VERSION_1 == 0 {
            return Err(transport.failed("it is no VIRTIO 1 device"));
        }
        Ok(transport)
    }

    /// The function.
    pub fn function(&self) -> &Arc<dyn PciFn> {
        &self.function
    }

    /// The configuration of the device: of a network card, what [`super::net`] has offsets for.
    pub fn config(&self) -> &Window {
        &self.registers.device
    }

    /// Bytes of the configuration.
    pub fn config_len(&self) -> usize {
        self.registers.device_len
    }

    /// An error that says which device it is of.
    pub fn failed(&self, what: &str) -> PmdError {
        PmdError::Config(format!("{}: {what} (virtio-net)", self.function.address()))
    }

    /// The device status: bits of [`super::status`], all ones when the device is gone.
    pub fn status(&self) -> u8 {
        self.registers.common.read8(common::STATUS)
    }

    /// Adds bits to the device status.
    pub fn set_status(&self, bits: u8) {
        let old = self.registers.common.read8(common::STATUS);
        self.registers.common.write8(common::STATUS, old | bits);
    }

    /// Writes zero and waits until it is zero: the device then has let go of its rings.
    ///
    /// # Errors
    /// It does not become zero. The device may still write memory; [`Transport::silence`] takes that right from it.
    pub fn reset(&self) -> Result<(), PmdError> {
        self.registers.common.write8(common::STATUS, 0);
        let deadline = Instant::now() + RESET;
        while self.registers.common.read8(common::STATUS) != 0 {
            if Instant::now() > deadline {
                return Err(self.failed("it does not come out of reset: unplug it, or restart its host"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Ends all its accesses to memory: by reset, and if it does not answer to that, by the bus and a reset of the whole function.
    ///
    /// # Errors
    /// As [`Transport::reset`]; it is silent all the same.
    pub fn silence(&self) -> Result<(), PmdError> {
        self.reset().inspect_err(|_| {
            self.function.silence();
            self.function.reset();
        })
    }

    /// Features it offers.
    pub fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.registers.common.write32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.registers.common.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    /// After a reset: takes these features of those it offers.
    ///
    /// # Errors
    /// It does not accept them.
    pub fn accept(&self, wanted: u64) -> Result<(), PmdError> {
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::DRIVER);
        for (select, half) in [(0, wanted as u32), (1, (wanted >> 32) as u32)] {
            self.registers.common.write32(common::DRIVER_FEATURE_SELECT, select);
            self.registers.common.write32(common::DRIVER_FEATURE, half);
        }
        self.set_status(status::FEATURES_OK);
        if self.registers.common.read8(common::STATUS) & status::FEATURES_OK == 0 {
            let names = features::names(wanted).collect::<Vec<_>>().join(" ");
            return Err(self.failed(&format!("it does not accept its own features: {names}")));
        }
        Ok(())
    }

    /// Has changes of the configuration signalled by a vector, or [`NO_VECTOR`].
    ///
    /// # Errors
    /// It has no such vector.
    pub fn set_config_vector(&self, vector: u16) -> Result<(), PmdError> {
        let registers = &self.registers.common;
        registers.write16(common::CONFIG_VECTOR, vector);
        if vector != NO_VECTOR && registers.read16(common::CONFIG_VECTOR) != vector {
            return Err(
                self.failed("it has no interrupt for changes of its configuration: give it more vectors")
            );
        }
        Ok(())
    }

    /// Changes with every change of the configuration, so that a reading of several registers can be repeated.
    pub fn config_generation(&self) -> u8 {
        self.registers.common.read8(common::CONFIG_GENERATION)
    }

    /// Most descriptors queue `index` can have, a power of two.
    ///
    /// # Errors
    /// There is no such queue.
    pub fn queue_size(&self, index: u16) -> Result<u16, PmdError> {
        self.registers.common.write16(common::QUEUE_SELECT, index);
        let offered = self.registers.common.read16(common::QUEUE_SIZE);
        if offered == 0 || offered == u16::MAX {
            return Err(self.failed(&format!("it has no queue {index}")));
        }
        Ok(1 << offered.ilog2())
    }

    /// Says where queue `index` lies (descriptors, driver's and device's part, as the device addresses them), and lets it run. Returns its
    /// doorbell.
    ///
    /// # Errors
    /// It has no such vector.
    pub fn set_up_queue(
        &self,
        index: u16,
        size: u16,
        parts: [u64; 3],
        vector: u16,
    ) -> Result<Window, PmdError> {
        let registers = &self.registers.common;
        registers.write16(common::QUEUE_SELECT, index);
        registers.write16(common::QUEUE_SIZE, size);
        registers.write16(common::QUEUE_VECTOR, vector);
        if vector != NO_VECTOR && registers.read16(common::QUEUE_VECTOR) != vector {
            return Err(self.failed(&format!("it has no interrupt for queue {index}: give it more vectors")));
        }
        for (at, address) in
            [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE].into_iter().zip(parts)
        {
            registers.write64(at, address);
        }
        let doorbell = self.doorbell_at(index);
        registers.write16(common::QUEUE_ENABLE, 1);
        Ok(self.registers.notify.at(doorbell))
    }

    /// Offset of a queue's doorbell from the first.
    fn doorbell_at(&self, index: u16) -> usize {
        self.registers.common.write16(common::QUEUE_SELECT, index);
        usize::from(self.registers.common.read16(common::QUEUE_NOTIFY_OFF)) * self.registers.notify_multiplier
    }

    /// The page that holds the doorbell of queue `index` and no other. `None` if doorbells lie closer together, or cannot be mapped.
    pub fn doorbell_place(&self, index: u16) -> Option<DoorbellPlace> {
        let page = rustix::param::page_size();
        let at = self.doorbell_at(index);
        let notify = &self.registers.notify;
        let start = notify.offset().checked_add(at)?;
        if self.registers.notify_multiplier < page || !start.is_multiple_of(page) {
            return None;
        }
        let (fd, offset) = self.function.bar_file(self.registers.notify_bar, start, page)?;
        Some(DoorbellPlace { fd, offset, len: page as u64 })
    }

    /// Sets up the control queue, whose number is that of all other queues. `None` if `index` is of no queue that can be one.
    ///
    /// # Errors
    /// No memory for it.
    pub fn control_queue(&self, features: u64, index: u16) -> Result<Option<Control>, PmdError> {
        let packed = features & VIRTIO_F_RING_PACKED != 0;
        let size = self.queue_size(index)?.min(control::SIZE);
        let arena = self.function.dma("virtio-net control", control::BYTES)?;
        let (second, third) = control::parts(packed, size);
        let addresses = [arena.iova(0), arena.iova(second), arena.iova(third)];
        let doorbell = self.set_up_queue(index, size, addresses, NO_VECTOR)?;
        Ok(Control::new(packed, size, arena, doorbell, index))
    }
}
