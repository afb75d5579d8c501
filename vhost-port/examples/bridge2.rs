//! Two vhost-user ports, cross-connected: what one guest sends, the other receives.
//!
//! ```text
//! cargo run --release -p vhost-port --example bridge2 -- [--client] [--seconds N] SOCKET_A SOCKET_B
//! ```
//!
//! Listens on both sockets, or connects to both with `--client`. Sleeps when there is nothing to do. Prints packets
//! per second while traffic flows. A worked example of the port traits, and a floor for what a switch can reach.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pmd::packet::{BatchStorage, SlotId};
use pmd::port::{Armed, PmdError, Port, RxQueue, TxQueue, Waker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost_port::{Mode, VhostConfig, VhostPort};

/// Queue pairs forwarded.
const QUEUES: u16 = 2;
/// Empty rounds before going to sleep.
const SPIN: u32 = 2000;

struct Args {
    client: bool,
    seconds: u64,
    sockets: Vec<PathBuf>,
}

fn args() -> Result<Args, String> {
    let mut args = Args { client: false, seconds: u64::MAX, sockets: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--client" => args.client = true,
            "--seconds" => {
                let n = words.next().and_then(|n| n.parse().ok());
                args.seconds = n.ok_or("--seconds needs a number")?;
            }
            path => args.sockets.push(path.into()),
        }
    }
    if args.sockets.len() == 2 { Ok(args) } else { Err("two socket paths are needed".to_owned()) }
}

fn open(name: &str, args: &Args, socket: &Path) -> Result<Arc<dyn Port>, PmdError> {
    let mode = if args.client { Mode::Connect(socket.into()) } else { Mode::Listen(socket.into()) };
    VhostPort::open(VhostConfig::new(name, mode))
}

struct Link {
    rx: Vec<Box<dyn RxQueue>>,
    tx: Box<dyn TxQueue>,
}

fn link(from: &dyn Port, to: &dyn Port, waker: &Waker) -> Result<Link, PmdError> {
    let mut rx = (0..QUEUES).map(|i| from.rx_queue(i)).collect::<Result<Vec<_>, _>>()?;
    rx.iter_mut().for_each(|rxq| rxq.set_waker(waker.clone()));
    Ok(Link { rx, tx: to.tx_queue(0)? })
}

/// Sleeps until a guest kicks, a ring changes, or a second has passed.
fn sleep(links: &mut [Link], waker: &Waker) {
    waker.clear();
    let idle = links.iter_mut().flat_map(|l| &mut l.rx).all(|rxq| rxq.arm() == Armed::Idle);
    if idle {
        let kicks: Vec<_> = links.iter().flat_map(|l| &l.rx).filter_map(|rxq| rxq.wait_fd()).collect();
        for kick in &kicks {
            // A level-triggered poll needs the counter cleared; the switch's epoll is edge-triggered.
            let mut count = [0; 8];
            let _ = rustix::io::read(kick, &mut count);
        }
        let again = links.iter_mut().flat_map(|l| &mut l.rx).all(|rxq| rxq.arm() == Armed::Idle);
        if again {
            let mut fds: Vec<_> =
                kicks.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
            fds.push(PollFd::from_borrowed_fd(waker.as_fd(), PollFlags::IN));
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        }
    }
    links.iter_mut().flat_map(|l| &mut l.rx).for_each(|rxq| rxq.disarm());
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
    let args = args()?;
    let (a, b) = (open("a", &args, &args.sockets[0])?, open("b", &args, &args.sockets[1])?);
    let waker = Waker::new()?;
    let mut links = [link(&*a, &*b, &waker)?, link(&*b, &*a, &waker)?];
    let mut storage = BatchStorage::new();
    let start = Instant::now();
    let (mut reported, mut last, mut empty) = (start, [0u64; 2], 0);
    while start.elapsed() < Duration::from_secs(args.seconds) {
        for _ in 0..256 {
            let mut received = 0;
            for link in &mut links {
                for rxq in &mut link.rx {
                    let mut batch = storage.begin();
                    let n = rxq.rx_burst(&mut batch);
                    if n > 0 {
                        let mut slots = [0 as SlotId; 32];
                        slots.iter_mut().zip(0..).for_each(|(slot, i)| *slot = i);
                        link.tx.tx_burst(&batch, &slots[..n]);
                        link.tx.notify();
                    }
                    rxq.rx_done();
                    received += n;
                }
            }
            empty = if received == 0 { empty + 1 } else { 0 };
            if empty > SPIN {
                empty = 0;
                sleep(&mut links, &waker);
                break;
            }
        }
        if reported.elapsed() >= Duration::from_secs(1) {
            let sent = links.each_ref().map(|l| l.tx.counters().snapshot().packets);
            let seconds = reported.elapsed().as_secs_f64();
            if sent != last {
                let mpps = |i: usize| (sent[i] - last[i]) as f64 / seconds / 1e6;
                println!("a→b {:.3} Mpps, b→a {:.3} Mpps", mpps(0), mpps(1));
            }
            (reported, last) = (Instant::now(), sent);
        }
    }
    for (name, port, link) in [("a", &a, &links[0]), ("b", &b, &links[1])] {
        println!("{name}: {:?}", port.info());
        for rxq in &link.rx {
            let counters = rxq.counters();
            println!("  rx {:?} {:?}", counters.snapshot(), counters.drops.nonzero().collect::<Vec<_>>());
        }
        let counters = link.tx.counters();
        println!("  tx {:?} {:?}", counters.snapshot(), counters.drops.nonzero().collect::<Vec<_>>());
    }
    Ok(())
}
