//! What a packet of a new connection costs: the worker that finds no flow and later installs one, and the slow path.
//!
//! Each packet becomes a megaflow of its own. Both sides run by turns on one thread, and only one of them is counted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowtable::key::PortNo;
use pmd::drivers::null;
use pmd::packet::{BURST, Batch, Pool, Span};
use pmd::port::{Armed, DropCounters, QueueCounters, RxQueue, Waker};
use tests::failure::{During as _, Failure, Result};
use vswitch::bridge::{BridgeConfig, BridgePortConfig, Bridges};
use vswitch::datapath::worker::{Stepped, WorkerConfig};
use vswitch::datapath::{Command, IdlePolicy, RxAssignment, WorkerHandle, upcall_queue};
use vswitch::slowpath::{Limits, SinkList, Stepped as SteppedSlowPath};

use super::stages::{COUNTED, WARM_UP, counted_by_callgrind};

/// Whose instructions are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Worker,
    SlowPath,
}

/// What makes each packet new.
#[derive(Clone, Copy)]
pub(crate) enum New {
    /// The source address, which rules want to know.
    Connection,
    /// The source MAC address, which a learning bridge learns.
    Sender,
}

/// A receive queue of which each packet is new.
struct Source {
    frames: Vec<Vec<u8>>,
    new: New,
    made: u32,
    counters: Arc<QueueCounters>,
}

impl RxQueue for Source {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        for frame in &mut self.frames {
            let at = match self.new {
                New::Connection => 26,
                New::Sender => 8,
            };
            frame[at + 1..at + 4].copy_from_slice(&self.made.to_be_bytes()[1..]);
            self.made += 1;
        }
        for frame in &self.frames {
            batch.receive(Span::from_slice(frame));
        }
        BURST
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

fn bridges(new: New) -> Result<Arc<Bridges>> {
    let bridges = Arc::new(Bridges::new());
    bridges.set_bridge(BridgeConfig::new("br")).during("the bridge")?;
    for number in 1..=2 {
        let port = BridgePortConfig::new(format!("p{number}"), PortNo(number));
        bridges.add_port("br", port).during("a port")?;
    }
    if let New::Connection = new {
        // Masks that are no prefixes must be looked at whole, so together they make every source address a megaflow.
        let odd = ["255.85.85.85", "255.170.170.170"];
        let mut rules =
            odd.map(|mask| format!("priority=9,in_port=1,ip,nw_src=192.0.0.0/{mask},actions=drop")).to_vec();
        rules.push("priority=8,in_port=1,udp,nw_src=10.0.0.0/8,tp_src=1024,actions=output:2".into());
        bridges.add_flows("br", &rules).during("the rules")?;
    }
    Ok(bridges)
}

fn equip(handle: &WorkerHandle, source: Source) -> Result<()> {
    let sink = null::open(null::NullConfig { name: "sink".into(), generate: None }).during("a port")?;
    for port in 1..=2 {
        let queue = sink.tx_queue(0).during("a transmit queue")?;
        handle.send(Command::AddPort { port: PortNo(port), queue, drops: Arc::new(DropCounters::default()) });
    }
    let queue: Box<dyn RxQueue> = Box::new(source);
    handle.send(Command::AddRxq(RxAssignment { port: PortNo(1), index: 0, queue, load: Arc::default() }));
    Ok(())
}

/// Rounds of both sides by turns; returns the packets that became flows while one of them was counted.
pub(crate) fn misses(_: &Path, side: Side, new: New) -> Result<usize> {
    let (sender, receiver) = upcall_queue().during("the upcall queue")?;
    let idle = IdlePolicy { spin: Duration::ZERO, always_poll: true };
    let pool = Pool::create(4096).during("the pool")?;
    let config = WorkerConfig { id: 0, core: 0, idle, upcalls: sender, pool };
    let (handle, mut worker) = Stepped::new(config).during("the worker")?;
    let sinks = SinkList::default();
    sinks.add(Arc::new(handle.clone()));
    // No flow may become idle: valgrind takes its time, and nobody takes commands while the slow path waits for room.
    let hour_ms = 3_600_000;
    let limits = Limits { flows: 1_000_000, idle_ms: hour_ms, crowded_idle_ms: hour_ms, pass_ms: hour_ms };
    let mut slow = SteppedSlowPath::new(bridges(new)?, receiver, sinks, limits);
    let source =
        Source { frames: vec![super::stages::frame(64, 0); BURST], new, made: 0, counters: Arc::default() };
    equip(&handle, source)?;
    let (mut before, mut installed) = (0, 0);
    for round in 0..16 * (WARM_UP + COUNTED) {
        if round == 16 * WARM_UP {
            before = slow.stats().installed;
        }
        let counting = round >= 16 * WARM_UP;
        let mut worker_round = || {
            worker.round();
        };
        if counting && side == Side::Worker {
            counted_by_callgrind(&mut worker_round)
        } else {
            worker_round()
        }
        let mut slow_round = || {
            slow.round();
        };
        if counting && side == Side::SlowPath {
            counted_by_callgrind(&mut slow_round)
        } else {
            slow_round()
        }
        installed = slow.stats().installed;
    }
    let counted = (installed - before) as usize;
    if counted == 16 * COUNTED * BURST {
        Ok(counted)
    } else {
        Err(Failure::new(format!("{counted} of {} packets became flows", 16 * COUNTED * BURST)))
    }
}
