//! A vDPA network card that is this program: `vduse NAME DEVICE`.
//!
//! The kernel's vDPA bus gets a card of that name (VDUSE); its frames go in and out by a network device of the kernel. The card itself is the model that the unit tests of
//! drivers run on: its registers are set as the kernel says, and it finds the driver's memory where the kernel has it mapped. So
//! `/dev/vhost-vdpa-N` can be tested on a stock kernel, without a card and without DPDK.
#![expect(unsafe_code, reason = "shows the model memory of the driver")]

mod kernel;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use kernel::{Device, Memory, Request};
use pmd::memory::IoSpace as _;
use pmd::pci::{FakeFn, PciFn};
use pmd::sys::netif::{Control, InterfaceName};
use pmd::sys::packet_socket::PacketSocket;
use pmd::virtio::features::*;
use pmd::virtio::pci::{Transport, VirtioNetModel, Window, status};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

const FEATURES: u64 =
    VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VIRTIO_NET_F_MAC | VIRTIO_NET_F_MRG_RXBUF;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0xdd, 0, 1];
const RING_SIZE: u16 = 256;

struct Card {
    device: Device,
    model: VirtioNetModel,
    function: Arc<FakeFn>,
    transport: Transport,
    memory: Vec<Memory>,
    /// While the driver runs: doorbells of both rings.
    doorbells: Vec<Window>,
    kicks: [OwnedFd; 2],
    /// Written by the model.
    interrupts: [OwnedFd; 2],
    wire: Arc<OwnedFd>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, device] = arguments.as_slice() else { return Err("usage: vduse NAME DEVICE".into()) };
    let mut card = Card::new(name, device)?;
    println!("{name} is there");
    loop {
        let fds = [card.device.as_fd(), card.wire.as_fd()];
        let events = card.kicks.iter().chain(&card.interrupts).map(|event| event.as_fd());
        let mut fds: Vec<_> =
            fds.into_iter().chain(events).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        poll(&mut fds, None)?;
        card.follow()?;
        card.receive();
        card.send();
        for (ring, event) in (0..).zip(&card.interrupts) {
            if rustix::io::read(event, &mut [0; 8]).is_ok() {
                card.device.interrupt(ring);
            }
        }
    }
}

fn events() -> io::Result<[OwnedFd; 2]> {
    let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    Ok([event()?, event()?])
}

impl Card {
    fn new(name: &str, device: &str) -> Result<Card, Box<dyn std::error::Error>> {
        let model = VirtioNetModel::new(VIRTIO_NET_F_MRG_RXBUF);
        let function = FakeFn::new(model.clone());
        let transport = Transport::new(function.clone())?;
        let index = Control::open()?.index(&InterfaceName::new(device)?)?;
        let wire = PacketSocket::open()?;
        wire.ignore_outgoing()?;
        wire.bind(index, true)?;
        wire.promiscuous(index)?;
        Ok(Card {
            device: Device::create(name, FEATURES, MAC, RING_SIZE)?,
            model,
            function,
            transport,
            memory: Vec::new(),
            doorbells: Vec::new(),
            kicks: events()?,
            interrupts: events()?,
            wire: wire.fd().clone(),
        })
    }

    /// Follows what the kernel says.
    fn follow(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        while let Some((id, request)) = self.device.request()? {
            let mut answer = None;
            println!("{request:x?}");
            match request {
                Request::RingState(ring) => {
                    answer = Some((ring, self.model.lock().index(ring as usize)));
                }
                Request::Status(bits) if bits & status::DRIVER_OK != 0 => {
                    if self.doorbells.is_empty() {
                        self.start()?;
                    }
                }
                Request::Status(0) => self.stop()?,
                Request::Status(_) => {}
                Request::Remapped => self.forget(),
            }
            self.device.answer(id, answer)?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.stop()?;
        self.transport.accept(self.device.features()? & FEATURES)?;
        let interrupts = self.interrupts.each_ref().map(|event| Some(event.as_fd()));
        self.function.set_vectors(&interrupts)?;
        for queue in 0..2 {
            let ring = self.device.ring(queue.into())?;
            println!("ring {queue}: {ring:x?}");
            if ring.ready {
                let doorbell = self.transport.set_up_queue(queue, ring.size, ring.parts, queue)?;
                self.model.lock().begin_at(queue.into(), ring.index);
                self.doorbells.push(doorbell);
                // Forgotten at each reset; what was kicked meanwhile is signalled at once.
                self.device.set_kick(queue.into(), self.kicks[usize::from(queue)].as_fd())?;
            }
        }
        self.transport.set_status(status::DRIVER_OK);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.doorbells.clear();
        self.transport.reset()?;
        self.forget();
        Ok(())
    }

    /// Lets go of the driver's memory; what is needed is found again.
    fn forget(&mut self) {
        for memory in self.memory.drain(..) {
            let _ = self.function.unmap(memory.iova, memory.len);
        }
    }

    /// Finds the driver's memory.
    fn look(&mut self) {
        let mut next = Some(0);
        while let Some(memory) = next.and_then(|first| self.device.memory_from(first)) {
            // SAFETY: mapped until `memory` is dropped, before which `forget` has taken it from the model.
            let shown = unsafe { self.function.map(memory.iova, memory.start.as_ptr(), memory.len) };
            if let Err(error) = shown {
                println!("{error}");
                break;
            }
            next = memory.iova.checked_add(memory.len as u64);
            self.memory.push(memory);
        }
    }

    /// Frames of the wire, to the driver.
    fn receive(&mut self) {
        let mut frame = [0; 65_536];
        while let Ok(len) = rustix::io::read(&self.wire, &mut frame) {
            if self.doorbells.is_empty() {
                continue;
            }
            if self.memory.is_empty() {
                self.look();
            }
            let bytes = frame.get(..len).unwrap_or_default();
            if !self.model.lock().deliver(self.function.dma_view(), 0, bytes) {
                println!("no room for {} bytes", bytes.len());
            }
        }
    }

    /// Frames of the driver, to the wire.
    fn send(&mut self) {
        for ring in 0..2 {
            let kicked = rustix::io::read(&self.kicks[ring], &mut [0; 8]).is_ok();
            let Some(doorbell) = self.doorbells.get(ring).filter(|_| kicked).cloned() else { continue };
            if self.memory.is_empty() {
                self.look();
            }
            doorbell.write16(0, ring as u16);
        }
        let frames = std::mem::take(&mut self.model.lock().sent);
        for frame in frames {
            // A device that is down takes none.
            let _ = rustix::io::write(&self.wire, &frame);
        }
    }
}
