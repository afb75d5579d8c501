//! A guest's driver on a vDPA device, without guest and without switch: `vdpa_device DEVICE OWN_ADDRESS ADDRESS`.
//!
//! Opens the device as the switch does, gives it memory and a pair of rings, asks by ARP who has `ADDRESS` and waits for the answer, as often
//! as it takes for the rings to wrap; then stops it and does it all once more. Says what the device is and can do. A device that
//! fails here fails in a port, and here nobody else can be blamed.
#![expect(unsafe_code, reason = "rings lie in memory shared with the device")]

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pmd::memory::Arena;
use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::{Buffer, DriverRing, RingMemory};
use pmd::virtio::features::{VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vhost_port::vdpa::{DmaMapping, HostMemory, RingStart, Start, open};

/// Where the memory begins for the device. Not at zero: a ring there is none to QEMU.
const GUEST: u64 = 1 << 20;
const RING: u16 = 16;
/// Memory per ring: its parts, and behind them buffers.
const PER_RING: usize = 0x8000;
const BUFFERS: usize = 0x1000;
const BUFFER: usize = 0x700;
/// Questions asked per run: more than a ring has descriptors.
const QUESTIONS: u16 = 40;
const PATIENCE: Duration = Duration::from_secs(10);
const MAC: [u8; 6] = [0x52, 0x54, 0, 0xee, 0, 1];
const HEADER: usize = 12;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, own, peer] = arguments.as_slice() else {
        return Err("usage: vdpa_device DEVICE OWN_ADDRESS ADDRESS".into());
    };
    let question = question(own.parse()?, peer.parse()?);
    let mut device = open(&device.parse()?)?;
    println!("{:#x?}", device.capabilities());
    println!("{:x?}", device.uplink());
    let memory = Arc::new(Arena::create("guest", 1)?);
    // SAFETY: mapped as long as the arena lives, and reached by raw copies only.
    let shown =
        unsafe { HostMemory::new(SharedPtr::new(memory.start()), memory.len() as u64, memory.clone()) };
    device.map(DmaMapping { iova: GUEST, memory: shown })?;
    for run in 0..2 {
        let mut rings = Rings::new(&memory)?;
        let features = device.capabilities().features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF);
        let start = Start { features, rings: &rings.starts, queue_pairs: 1, mac: Some(MAC) };
        let started = device.start(start)?;
        let page = started[1].page.as_ref().map(|page| (page.offset, page.len));
        println!("run {run}: started, watches kicks: {}, page: {page:x?}", started[1].watches_kick);
        for asked in 1..=QUESTIONS {
            let bell = |ring: usize| started[ring].doorbell.ring();
            rings.ask(&question, &bell)?;
            rings.answer(&memory, peer.parse()?, &bell)?;
            if asked == QUESTIONS / 2 {
                // The guest's front-end changes the eventfds while it runs.
                let call = event()?;
                device.set_call(0, Some(call.clone()))?;
                rings.starts[0].call = Some(call);
            }
        }
        let stopped = device.stop()?;
        println!("run {run}: {QUESTIONS} answers; stopped at {stopped:?}; {:?}", device.poll());
    }
    device.unmap(GUEST)?;
    println!("all well");
    Ok(())
}

fn event() -> Outcome<Arc<OwnedFd>> {
    Ok(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
}

/// An ARP request (RFC 826) with a virtio-net header before it.
fn question(own: Ipv4Addr, peer: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend([0xff; 6]);
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(peer.octets());
    frame.resize(HEADER + 60, 0);
    frame
}

/// A receive and a transmit ring.
struct Rings {
    memory: Arc<Arena>,
    starts: Vec<RingStart>,
    drivers: Vec<DriverRing>,
    /// Where the buffer of each chain of the receive ring lies.
    buffers: [usize; RING as usize],
    asked: u16,
}

impl Rings {
    fn new(memory: &Arc<Arena>) -> Outcome<Rings> {
        let buffers = [0; RING as usize];
        let mut rings = Rings { memory: memory.clone(), starts: vec![], drivers: vec![], buffers, asked: 0 };
        for ring in 0..2 {
            let at = ring * PER_RING;
            memory.copy_in(at, &[0; BUFFERS]);
            let (_, second, third) = DriverRing::layout(RING);
            // SAFETY: inside the arena.
            let start = SharedPtr::new(unsafe { memory.start().add(at) });
            // SAFETY: likewise: the parts end before the buffers. The arena is kept beside the ring.
            let driver = unsafe {
                let parts =
                    RingMemory { descriptors: start, avail: start.add(second), used: start.add(third) };
                DriverRing::new(parts, RING, false)
            };
            rings.drivers.push(driver.ok_or("no ring")?);
            let iova = GUEST + at as u64;
            rings.starts.push(RingStart {
                size: RING,
                descriptors: iova,
                driver: iova + second as u64,
                device: iova + third as u64,
                index: 0,
                call: Some(event()?),
                kick: Some(event()?),
            });
        }
        for buffer in 0..usize::from(RING) {
            rings.offer(BUFFERS + buffer * BUFFER)?;
        }
        Ok(rings)
    }

    /// Gives the device a buffer to receive into.
    fn offer(&mut self, at: usize) -> Outcome<()> {
        let buffer = Buffer { addr: GUEST + at as u64, len: BUFFER as u32, write: true };
        let chain = self.drivers[0].add(&[buffer]).ok_or("the receive ring is full")?;
        self.drivers[0].publish();
        self.buffers[usize::from(chain)] = at;
        Ok(())
    }

    fn ask(&mut self, question: &[u8], bell: &dyn Fn(usize)) -> Outcome<()> {
        let at = PER_RING + BUFFERS;
        self.memory.copy_in(at, question);
        let buffer = Buffer { addr: GUEST + at as u64, len: question.len() as u32, write: false };
        self.drivers[1].add(&[buffer]).ok_or("the transmit ring is full")?;
        self.drivers[1].publish();
        bell(1);
        let deadline = Instant::now() + PATIENCE;
        while self.drivers[1].poll_used()?.is_none() {
            self.wait(1, deadline)?;
        }
        self.asked += 1;
        Ok(())
    }

    /// Waits for an ARP answer of `peer`; other frames are none.
    fn answer(&mut self, memory: &Arena, peer: Ipv4Addr, bell: &dyn Fn(usize)) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some((chain, len)) = self.drivers[0].poll_used()? else {
                self.wait(0, deadline)?;
                continue;
            };
            let mut frame = vec![0; BUFFER.min(len as usize)];
            let at = self.buffers[usize::from(chain)];
            memory.copy_out(at, &mut frame);
            self.offer(at)?;
            bell(0);
            let frame = frame.get(HEADER..).unwrap_or_default();
            if frame.get(12..14) == Some(&[8, 6]) && frame.get(28..32) == Some(&peer.octets()) {
                return Ok(());
            }
        }
    }

    /// Waits for an interrupt of a ring.
    fn wait(&self, ring: usize, deadline: Instant) -> Outcome<()> {
        let call = self.starts[ring].call.as_ref().ok_or("no eventfd")?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("ring {ring}: no interrupt after {} questions", self.asked).into());
        }
        // Now and then by itself: what comes between a look and the wait is no matter of the device.
        let tick = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(call, PollFlags::IN)], Some(&tick))?;
        let _ = rustix::io::read(call, &mut [0; 8]);
        Ok(())
    }
}
