//! A complete forwarder between two ports: what one receives the other sends.
//!
//! ```text
//! cargo run -p pmd --example forwarder -- tap:left tap:right       two TAP devices, needs root
//! cargo run -p pmd --example forwarder -- replay:in.pcap record:out.pcap
//! cargo run -p pmd --example forwarder -- tap:left record:out.pcap
//! ```
//!
//! It polls while there is work and sleeps when there is none, and ends when nothing can bring work any more.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use pmd::drivers::{null, pcap, tap};
use pmd::packet::{BatchStorage, Pool, SlotId};
use pmd::port::{Armed, PmdError, Port, QueueCounters, RxQueue, TxQueue, Waker};
use rustix::event::{PollFd, PollFlags, poll};

/// Chunks for packets that wait for a disk: 8 MiB.
const CHUNKS: u32 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [left, right] = &arguments[..] else {
        return Err("usage: forwarder PORT PORT, a port is tap:NAME, replay:FILE, record:FILE or null".into());
    };
    let pool = Pool::create(CHUNKS)?;
    let (left, right) = (open(left, pool)?, open(right, pool)?);
    let waker = Waker::new()?;
    let mut paths = [Path::new(&*left, &*right, &waker)?, Path::new(&*right, &*left, &waker)?];
    let mut storage = BatchStorage::new();
    loop {
        let mut work = false;
        for path in &mut paths {
            work |= path.forward(&mut storage) != 0;
        }
        if !work && !sleep(&mut paths, &waker)? {
            break;
        }
    }
    for (path, way) in paths.iter().zip(["left to right", "right to left"]) {
        println!("{way}: received {}, sent {}", counted(&path.rx.counters()), counted(&path.tx.counters()));
    }
    Ok(())
}

/// Opens the port that an argument describes.
fn open(description: &str, pool: &'static Pool) -> Result<Arc<dyn Port>, PmdError> {
    let (kind, rest) = description.split_once(':').unwrap_or((description, ""));
    let capture = pcap::PcapConfig::new(description.to_owned(), pool);
    match kind {
        "tap" => tap::open(&tap::TapConfig { name: rest.to_owned(), ..tap::TapConfig::default() }),
        "replay" => pcap::open(pcap::PcapConfig { replay: Some(rest.into()), ..capture }),
        "record" => pcap::open(pcap::PcapConfig { record: Some(rest.into()), ..capture }),
        "null" => null::open(null::NullConfig { name: description.to_owned(), ..Default::default() }),
        _ => Err(PmdError::Config(format!("{description}: no such kind of port"))),
    }
}

/// One direction.
struct Path {
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    slots: Vec<SlotId>,
}

impl Path {
    fn new(from: &dyn Port, to: &dyn Port, waker: &Waker) -> Result<Path, PmdError> {
        // A port that never receives has no queue to poll; one that brings nothing stands in for it.
        let mut rx = match from.info().rx_queues {
            0 => null::open(null::NullConfig::default())?.rx_queue(0)?,
            _ => from.rx_queue(0)?,
        };
        rx.set_waker(waker.clone());
        Ok(Path { rx, tx: to.tx_queue(0)?, slots: Vec::new() })
    }

    /// One burst. Payloads stay where they are until it has been sent, then their buffers go back.
    fn forward(&mut self, storage: &mut BatchStorage) -> usize {
        let received = {
            let mut batch = storage.begin();
            let received = self.rx.rx_burst(&mut batch);
            if received != 0 {
                self.slots.clear();
                self.slots.extend((0..received).map(|slot| slot as SlotId));
                self.tx.tx_burst(&batch, &self.slots);
                self.tx.notify();
            }
            received
        };
        self.rx.rx_done();
        received
    }
}

/// Sleeps until a queue has something. False when none ever will.
fn sleep(paths: &mut [Path; 2], waker: &Waker) -> io::Result<bool> {
    waker.clear();
    if paths.iter_mut().any(|path| path.rx.arm() == Armed::Work) {
        return Ok(true);
    }
    let descriptors: Vec<Arc<OwnedFd>> = paths.iter().filter_map(|path| path.rx.wait_fd()).collect();
    if descriptors.is_empty() {
        return Ok(false);
    }
    let mut fds: Vec<_> = descriptors.iter().map(|fd| PollFd::new(&**fd, PollFlags::IN)).collect();
    let waker_fd = waker.as_fd();
    fds.push(PollFd::from_borrowed_fd(waker_fd, PollFlags::IN));
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    paths.iter_mut().for_each(|path| path.rx.disarm());
    Ok(true)
}

fn counted(counters: &QueueCounters) -> String {
    let numbers = counters.snapshot();
    let drops: Vec<_> =
        counters.drops.nonzero().map(|(reason, n)| format!(", {n} {}", reason.name())).collect();
    format!("{} packets of {} bytes{}", numbers.packets, numbers.bytes, drops.concat())
}
