//! New flows per second: a worker and the slow path in one process, and a port that brings nothing but new connections.
//!
//! ```text
//!  cargo run --release -p vswitch --example new_flows -- [SECONDS] [FLOWS_PER_SECOND] [normal|tuple]
//! ```
//!
//! Port 1 brings a packet of a new connection `FLOWS_PER_SECOND` times a second (0: as fast as the worker takes them),
//! port 2 brings one connection that is known, as fast as the worker asks. The report has what was installed, what was lost,
//! and whether port 2 lost anything. `tuple` (the default) has a rule per protocol port, so that each connection is a megaflow
//! of its own; `normal` is a learning bridge to which every packet comes from a new address.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use flowtable::key::PortNo;
use pmd::drivers::null;
use pmd::packet::{BURST, Batch, Pool, Span};
use pmd::port::{Armed, DropCounters, QueueCounters, RxQueue, Waker};
use vswitch::bridge::{BridgeConfig, BridgePortConfig, Bridges};
use vswitch::datapath::worker::{WorkerConfig, spawn};
use vswitch::datapath::{Command, IdlePolicy, RxAssignment, WorkerHandle, upcall_queue};
use vswitch::slowpath::{Limits, SinkList, SlowPath};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Brings frames of our making.
struct Source {
    frames: Vec<[u8; 60]>,
    /// Makes a frame of the number given, or leaves the one there is.
    make: fn(u64, &mut [u8; 60]),
    made: Arc<AtomicU64>,
    /// Frames a second; zero for as many as are asked for.
    rate: u64,
    started: Instant,
    counters: Arc<QueueCounters>,
}

impl Source {
    fn new(rate: u64, make: fn(u64, &mut [u8; 60])) -> (Source, Arc<AtomicU64>) {
        let made = Arc::new(AtomicU64::new(0));
        let frames = vec![frame(); BURST];
        let started = Instant::now();
        (Source { frames, make, made: made.clone(), rate, started, counters: Arc::default() }, made)
    }
}

impl RxQueue for Source {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        let made = self.made.load(Relaxed);
        let due = match self.rate {
            0 => BURST as u64,
            rate => (self.started.elapsed().as_nanos() as u64 / 1000 * rate / 1_000_000)
                .saturating_sub(made)
                .min(BURST as u64),
        };
        for (frame, number) in self.frames.iter_mut().zip(made..made + due) {
            (self.make)(number, frame);
        }
        for frame in &self.frames[..due as usize] {
            batch.receive(Span::from_slice(frame));
        }
        self.made.store(made + due, Relaxed);
        due as usize
    }

    fn rx_done(&mut self) {}

    fn arm(&mut self) -> Armed {
        Armed::Work
    }

    fn set_waker(&mut self, _: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

/// A UDP frame from 10.0.0.1 to 10.1.0.1.
fn frame() -> [u8; 60] {
    let mut frame = [0; 60];
    let head = [
        0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0,
    ];
    frame[..26].copy_from_slice(&head);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 1, 0, 1]);
    frame[34..42].copy_from_slice(&[4, 0, 0, 53, 0, 26, 0, 0]);
    frame
}

/// Another connection for each number: its low 24 bits become part of the source address.
fn connection(number: u64, frame: &mut [u8; 60]) {
    let bytes = number.to_be_bytes();
    frame[27..30].copy_from_slice(&bytes[5..8]);
}

/// Another sender for each number.
fn sender(number: u64, frame: &mut [u8; 60]) {
    frame[8..12].copy_from_slice(&number.to_be_bytes()[4..]);
}

fn same(_: u64, frame: &mut [u8; 60]) {
    frame[5] = 3;
    frame[11] = 9;
}

struct Rig {
    bridges: Arc<Bridges>,
    sinks: SinkList,
}

impl Rig {
    /// A bridge with three ports.
    fn new(tuple: bool) -> Outcome<Rig> {
        let bridges = Arc::new(Bridges::new());
        bridges.set_bridge(BridgeConfig::new("br"))?;
        for number in 1..=3 {
            bridges.add_port("br", BridgePortConfig::new(format!("p{number}"), PortNo(number)))?;
        }
        if tuple {
            // Masks that are no prefixes must be looked at whole, so together they make every source address a megaflow.
            let odd = ["255.85.85.85", "255.170.170.170"];
            let rules =
                odd.map(|mask| format!("priority=9,in_port=1,ip,nw_src=192.0.0.0/{mask},actions=drop"));
            bridges.add_flows("br", &rules)?;
            let wide = "priority=8,in_port=1,udp,nw_src=10.0.0.0/8,tp_src=1024,actions=output:3";
            bridges.add_flows("br", &[wide, "priority=5,in_port=2,actions=output:3"])?;
        }
        Ok(Rig { bridges, sinks: SinkList::default() })
    }
}

/// Gives a worker the two sources and a port to send to.
fn equip(handle: &WorkerHandle, first: Source, second: Source) -> Outcome<Arc<DropCounters>> {
    let sink = null::open(null::NullConfig { name: "sink".into(), generate: None })?;
    let drops = Arc::new(DropCounters::default());
    for port in 1..=3 {
        let (queue, drops) = (sink.tx_queue(0)?, if port == 1 { drops.clone() } else { Arc::default() });
        handle.send(Command::AddPort { port: PortNo(port), queue, drops });
    }
    for (port, queue) in [(1, first), (2, second)] {
        let queue: Box<dyn RxQueue> = Box::new(queue);
        handle.send(Command::AddRxq(RxAssignment {
            port: PortNo(port),
            index: 0,
            queue,
            load: Arc::default(),
        }));
    }
    Ok(drops)
}

fn run(seconds: u64, rate: u64, make: fn(u64, &mut [u8; 60]), tuple: bool) -> Outcome<()> {
    let rig = Rig::new(tuple)?;
    let (sender, receiver) = upcall_queue()?;
    let limits = Limits { flows: 4_000_000, ..Limits::default() };
    let slow = SlowPath::start_with(rig.bridges.clone(), receiver, rig.sinks.clone(), limits)?;
    let cpus = pmd::sys::cpu::online();
    let config = WorkerConfig {
        id: 0,
        core: cpus.last().copied().unwrap_or(0),
        idle: IdlePolicy { always_poll: true, ..IdlePolicy::default() },
        upcalls: sender,
        pool: Pool::create(32 * 1024)?,
    };
    let (handle, thread) = spawn(config)?;
    rig.sinks.add(Arc::new(handle.clone()));
    let (first, made) = Source::new(rate, make);
    let (second, known) = Source::new(100_000, same);
    let drops = equip(&handle, first, second)?;
    println!(
        "{:>8} {:>10} {:>10} {:>9} {:>10} {:>9} {:>8}",
        "second", "packets", "installed", "lost", "known", "flows", "pass ms"
    );
    let mut before = (0, 0, 0, 0);
    for second in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        let (stats, lost) = (slow.stats(), drops.nonzero().map(|(_, n)| n).sum::<u64>());
        let now = (made.load(Relaxed), stats.installed, lost, known.load(Relaxed));
        println!(
            "{second:>8} {:>10} {:>10} {:>9} {:>10} {:>9} {:>8}",
            now.0 - before.0,
            now.1 - before.1,
            now.2 - before.2,
            now.3 - before.3,
            stats.flows,
            stats.last_pass_ms
        );
        before = now;
    }
    let reasons: HashSet<_> = drops.nonzero().map(|(reason, n)| format!("{reason:?} {n}")).collect();
    println!("{reasons:?} {:?}", slow.stats());
    handle.send(Command::Stop);
    thread.join().map_err(|_| "the worker panicked")?;
    slow.stop();
    Ok(())
}

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let normal = words.iter().any(|word| word == "normal");
    let make = if normal { sender } else { connection };
    let number = |at: usize, default| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    run(number(0, 5), number(1, 0), make, !normal)
}
