//! A virtio network device for tests: split rings, and the ways in which hardware fails.
//!
//! Here and not among the tests, because those of `vhost-port` use it, too. It never panics: what a driver does wrong is counted, as
//! [`ModelDevice::complaints`] and by [`FakeDma::faults`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::registers::{common, status};
use crate::pci::{FakeDma, FakeModel};
use crate::virtio::features::*;
use crate::virtio::split::{DESC_F_NEXT, DESC_F_WRITE};

/// Where the parts lie in BAR 4.
const DEVICE: usize = 0x1000;
const NOTIFY: usize = 0x2000;
const NOTIFY_END: usize = 0x10_000;
const BAR: u8 = 4;

#[derive(Clone, Copy, Default)]
struct Queue {
    size: u16,
    vector: u16,
    enabled: bool,
    parts: [u64; 3],
    next_avail: u16,
    used: u16,
}

/// The device.
#[derive(Default)]
pub struct ModelDevice {
    /// Features it offers.
    pub offered: u64,
    /// Features the driver has taken.
    pub accepted: u64,
    select: u32,
    status: u8,
    queue: u16,
    queues: Vec<Queue>,
    /// What it says of its link.
    pub link_up: bool,
    /// Frames the driver has sent, without header.
    pub sent: Vec<Vec<u8>>,
    /// Class, command and first byte of data.
    pub commands: Vec<[u8; 3]>,
    /// Control commands it refuses, as class and command.
    pub refused: Vec<[u8; 2]>,
    /// Resets so far.
    pub resets: u32,
    /// Bytes from one doorbell to the next.
    pub doorbell_stride: usize,
    /// What the driver did that no driver may do.
    pub complaints: Vec<String>,
    /// Takes no frames to send.
    pub stuck: bool,
    /// Returns a buffer that does not exist for the next frame.
    pub lies: bool,
    /// Says of the next buffer it fills that it wrote more than there is.
    pub overstates: bool,
    /// Says that it needs a reset, until it is reset.
    pub needs_reset: bool,
    /// Stays in reset.
    pub dead: bool,
}

/// A device that a test and a function share.
#[derive(Clone)]
pub struct VirtioNetModel(Arc<Mutex<ModelDevice>>);

impl VirtioNetModel {
    /// A device with two queue pairs and a control queue.
    pub fn new(more: u64) -> VirtioNetModel {
        let offered = VIRTIO_F_VERSION_1
            | VIRTIO_F_ACCESS_PLATFORM
            | VIRTIO_NET_F_MAC
            | VIRTIO_NET_F_STATUS
            | VIRTIO_NET_F_CTRL_VQ
            | VIRTIO_NET_F_CTRL_RX
            | VIRTIO_NET_F_MQ
            | more;
        let queues = vec![Queue { size: 256, ..Queue::default() }; 5];
        let device =
            ModelDevice { offered, queues, link_up: true, doorbell_stride: 4, ..ModelDevice::default() };
        VirtioNetModel(Arc::new(Mutex::new(device)))
    }

    /// The device, for the test. Not while a driver is being called.
    pub fn lock(&self) -> MutexGuard<'_, ModelDevice> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModelDevice {
    /// Brings a frame in by a queue pair, in as many buffers as it takes. False when there are too few.
    pub fn deliver(&mut self, dma: &FakeDma, pair: usize, frame: &[u8]) -> bool {
        let merges = self.accepted & VIRTIO_NET_F_MRG_RXBUF != 0;
        let Some(queue) = self.queues.get(2 * pair).copied() else { return false };
        let mut left = [&[0; 12][..], frame].concat();
        let mut used = Vec::new();
        let mut header_at = 0;
        while !left.is_empty() {
            let Some((id, addr, len)) = queue.buffer(dma, used.len() as u16) else { return false };
            let n = left.len().min(len as usize);
            if !merges && n != left.len() {
                self.complaints.push("a frame does not fit and may not be split".into());
                return false;
            }
            dma.write(addr, &left[..n]);
            if used.is_empty() {
                header_at = addr;
            }
            used.push((id, n as u32));
            left.drain(..n);
        }
        dma.write(header_at + 10, &(used.len() as u16).to_le_bytes());
        for (id, len) in used {
            let id = if std::mem::take(&mut self.lies) { 9999 } else { id };
            let len = if std::mem::take(&mut self.overstates) { u32::MAX } else { len };
            self.queues[2 * pair].put_used(dma, id, len);
        }
        dma.interrupt(self.queues[2 * pair].vector);
        true
    }

    fn notified(&mut self, dma: &FakeDma, index: usize) {
        if index.is_multiple_of(2) && index != 4 {
            return;
        }
        while !self.stuck || index == 4 {
            let Some(queue) = self.queues.get(index).copied() else { return };
            let Some((id, ..)) = queue.buffer(dma, 0) else { return };
            let (bytes, answer) = queue.chain(dma, id);
            if index == 4 {
                let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
                self.commands.push([byte(0), byte(1), byte(2)]);
                dma.write(answer, &[self.refused.contains(&[byte(0), byte(1)]).into()]);
            } else {
                if bytes.get(10..12) != Some(&[0, 0]) {
                    self.complaints.push(format!("a frame to send has num_buffers: {bytes:02x?}"));
                }
                self.sent.push(bytes.get(12..).unwrap_or_default().to_vec());
            }
            let id = if index != 4 && std::mem::take(&mut self.lies) { 9999 } else { id };
            self.queues[index].put_used(dma, id, 0);
            if index != 4 {
                dma.interrupt(queue.vector);
            }
        }
    }

    /// Has a queue that has been set up go on where another device left it.
    pub fn begin_at(&mut self, queue: usize, index: u16) {
        if let Some(queue) = self.queues.get_mut(queue) {
            (queue.next_avail, queue.used) = (index, index);
        }
    }

    /// Where a queue stands.
    pub fn index(&self, queue: usize) -> u16 {
        self.queues.get(queue).map_or(0, |queue| queue.next_avail)
    }
}

impl Queue {
    /// Address, length, flags and next of a descriptor.
    fn descriptor(&self, dma: &FakeDma, id: u16) -> (u64, u32, u16, u16) {
        let mut d = [0; 16];
        dma.read(self.parts[0] + u64::from(id) * 16, &mut d);
        let part =
            |range: std::ops::Range<usize>| d[range].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        (part(0..8), part(8..12) as u32, part(12..14) as u16, part(14..16) as u16)
    }

    /// What the driver has written in a chain, and where in it the device may write first.
    fn chain(&self, dma: &FakeDma, head: u16) -> (Vec<u8>, u64) {
        let (mut bytes, mut id) = (Vec::new(), head);
        // No chain is longer than its ring.
        for _ in 0..self.size {
            let (addr, len, flags, next) = self.descriptor(dma, id);
            if flags & DESC_F_WRITE != 0 {
                return (bytes, addr);
            }
            let mut part = vec![0; (len as usize).min(1 << 17)];
            // Of an address that is not mapped it reads ones, and the function counts a fault.
            dma.read(addr, &mut part);
            bytes.extend(part);
            if flags & DESC_F_NEXT == 0 {
                break;
            }
            id = next;
        }
        (bytes, 0)
    }

    /// The buffer `skip` places after the next one available.
    fn buffer(&self, dma: &FakeDma, skip: u16) -> Option<(u16, u64, u32)> {
        let word = |offset: u64| {
            let mut bytes = [0; 2];
            dma.read(self.parts[1] + offset, &mut bytes);
            u16::from_le_bytes(bytes)
        };
        let at = self.next_avail.wrapping_add(skip);
        if !self.enabled || word(2) == at {
            return None;
        }
        let id = word(4 + 2 * u64::from(at % self.size));
        let (addr, len, ..) = self.descriptor(dma, id);
        Some((id, addr, len))
    }

    fn put_used(&mut self, dma: &FakeDma, id: u16, len: u32) {
        let at = self.parts[2] + 4 + 8 * u64::from(self.used % self.size);
        dma.write(at, &u32::from(id).to_le_bytes());
        dma.write(at + 4, &len.to_le_bytes());
        self.used = self.used.wrapping_add(1);
        self.next_avail = self.next_avail.wrapping_add(1);
        dma.write(self.parts[2] + 2, &self.used.to_le_bytes());
    }
}

impl FakeModel for VirtioNetModel {
    fn config(&self) -> Vec<u8> {
        let stride = self.lock().doorbell_stride;
        let mut config = vec![0; 256];
        config[0..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
        config[6] = 0x10;
        config[0x34] = 0x40;
        for (i, (kind, offset, len)) in
            [(1u8, 0, 0x38), (2, NOTIFY, NOTIFY_END - NOTIFY), (4, DEVICE, 0x40)].iter().enumerate()
        {
            let at = 0x40 + i * 0x18;
            let next = if i == 2 { 0 } else { at + 0x18 };
            config[at..at + 5].copy_from_slice(&[9, next as u8, 20, *kind, BAR]);
            config[at + 8..at + 12].copy_from_slice(&(*offset as u32).to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&(*len as u32).to_le_bytes());
            config[at + 16..at + 20].copy_from_slice(&(stride as u32).to_le_bytes());
        }
        config
    }

    fn read(&mut self, _bar: u8, offset: usize, _width: usize) -> u32 {
        let device = self.lock();
        let queue = device.queues.get(usize::from(device.queue)).copied().unwrap_or_default();
        match offset {
            common::DEVICE_FEATURE => (device.offered >> (32 * device.select)) as u32,
            common::STATUS if device.needs_reset => u32::from(device.status | status::NEEDS_RESET),
            common::STATUS => u32::from(if device.dead { device.status | 1 } else { device.status }),
            // As QEMU's: queues of further pairs are there when MQ has been accepted. Without, the control queue is the third.
            common::QUEUE_SIZE if device.queue > 2 && device.accepted & VIRTIO_NET_F_MQ == 0 => 0,
            common::QUEUE_SIZE => queue.size.into(),
            common::QUEUE_VECTOR => queue.vector.into(),
            common::QUEUE_NOTIFY_OFF => device.queue.into(),
            DEVICE..0x1006 => 0x52 + (offset - DEVICE) as u32,
            0x1006 => device.link_up.into(),
            0x1008 => 2,
            _ => 0,
        }
    }

    fn write(&mut self, _bar: u8, offset: usize, _width: usize, value: u32, dma: &FakeDma) {
        let mut device = self.lock();
        let selected = usize::from(device.queue);
        let address = |old: u64, high: bool| {
            if high {
                old & 0xffff_ffff | u64::from(value) << 32
            } else {
                old & !0xffff_ffff | u64::from(value)
            }
        };
        match offset {
            common::DEVICE_FEATURE_SELECT | common::DRIVER_FEATURE_SELECT => device.select = value,
            common::DRIVER_FEATURE if device.select == 0 => device.accepted = value.into(),
            common::DRIVER_FEATURE => device.accepted |= u64::from(value) << 32,
            common::STATUS if value == 0 => {
                device.status = 0;
                device.accepted = 0;
                device.resets += 1;
                device.needs_reset = false;
                device.queues.fill(Queue { size: 256, ..Queue::default() });
            }
            common::STATUS => device.status = value as u8,
            common::QUEUE_SELECT => device.queue = value as u16,
            common::QUEUE_SIZE => device.queues[selected].size = value as u16,
            common::QUEUE_VECTOR => device.queues[selected].vector = value as u16,
            common::QUEUE_ENABLE => device.queues[selected].enabled = value == 1,
            common::QUEUE_DESC..56 => {
                let (part, high) = ((offset - common::QUEUE_DESC) / 8, offset % 8 == 4);
                let old = device.queues[selected].parts[part];
                device.queues[selected].parts[part] = address(old, high);
            }
            NOTIFY..NOTIFY_END => device.notified(dma, value as usize),
            _ => {}
        }
    }
}
