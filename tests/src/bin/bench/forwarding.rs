//! Frames round and round: DPDK's virtio-user, a front-end nobody here wrote, loops them through two vhost-user ports.
//!
//! One processor runs the generator, the other the switch under test. The loop is closed: a frame that comes back is sent
//! again, so nothing is offered faster than it is forwarded, and the rate is what generator and switch reach together.

use std::thread;
use std::time::Instant;

use tests::failure::{Failure, Result};
use tests::hugepages::Hugepages;
use tests::testpmd::{Memory, Testpmd};

use crate::Bench;
use crate::contestants::{
    self, BASELINE_FLOODING, BASELINE_LEARNING, BASELINE_RULE, Contestant, OURS_FLOODING, OURS_LEARNING,
    OURS_RULE, OVS_FLOODING, OVS_LEARNING, OVS_RULE, Setup, TESTPMD_IO, Way,
};
use crate::features;
use crate::machine::{self, TICKS};
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};

/// Pages of 2 MiB: Open vSwitch wants 512 MiB, a testpmd 256; twice, because pages of a process that has just ended come
/// back late.
pub(crate) const PAGES: u64 = 768;
/// The generator's two threads share a processor: one of them only waits for commands.
const GENERATOR_LCORES: &str = "0@0,1@0";
/// Bursts of 32 frames each port of the generator starts with. A quarter of a ring: nobody idles for want of frames, and
/// none is ever dropped for want of room, which would thin the loop for good.
const BURSTS: u32 = 8;
/// Settling before a sample: caches, learning, clock rates.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(1);
/// Below this share of its processor a generator or switch was interrupted by something else.
const UNDISTURBED: f64 = 0.95;
/// How often an interrupted sample is taken again before the least interrupted one stands.
const TRIES: usize = 3;

/// What distinguishes the loop rows.
#[derive(Clone, Copy)]
struct Loop {
    /// Bytes, without FCS.
    frame: u32,
    /// Packed rings instead of split ones.
    packed: bool,
    /// Whether learning bridges are measured too.
    learning: bool,
}

/// Row of 64-byte frames.
pub(crate) fn loop_64(bench: &Bench, report: &mut Report) -> Result<()> {
    row(bench, report, Loop { frame: 64, packed: false, learning: true })
}

/// Row of 512-byte frames.
pub(crate) fn loop_512(bench: &Bench, report: &mut Report) -> Result<()> {
    row(bench, report, Loop { frame: 512, packed: false, learning: false })
}

/// Row of 1518-byte frames.
pub(crate) fn loop_1518(bench: &Bench, report: &mut Report) -> Result<()> {
    row(bench, report, Loop { frame: 1518, packed: false, learning: false })
}

/// Row of 64-byte frames on packed rings.
pub(crate) fn packed_64(bench: &Bench, report: &mut Report) -> Result<()> {
    row(bench, report, Loop { frame: 64, packed: true, learning: false })
}

fn row(bench: &Bench, report: &mut Report, what: Loop) -> Result<()> {
    let rings = if what.packed { "packed" } else { "split" };
    let title = format!(
        "virtio-user loop over two vhost-user ports, {} B, {rings} ring, one worker, both ports",
        what.frame
    );
    let mut tables = Tables::new([Table::new(title, "Mpps")]);
    let _pages = Hugepages::reserve(PAGES)?;
    let entrants = contestants::all(bench);
    alternate(bench, &Setup::default(), &entrants, &mut tables, |tables, contestant| {
        measure(bench, what, tables, contestant)
    })?;
    let [mut table] = tables.into_inner();
    compare(bench, what, &mut table);
    report.push(table);
    Ok(())
}

fn measure(bench: &Bench, what: Loop, tables: &mut Tables<1>, contestant: &mut Contestant) -> Result<()> {
    if what.packed && !features::packed(&contestant.ports()[0])? {
        tables.note(&format!("{}: packed rings not offered", contestant.name()));
        return Ok(());
    }
    for &(way, name) in contestant.ways() {
        if matches!(way, Way::Learning | Way::Flooding) && !what.learning {
            continue;
        }
        contestant.forward(&bench.lab, way)?;
        let sample = undisturbed(bench, contestant, what, way, tables)?;
        println!("    {name}: {sample}");
        if sample.share < UNDISTURBED {
            tables.note(&format!("{name}: interrupted ({sample})"));
        }
        tables.add(name, sample.rate);
    }
    Ok(())
}

fn compare(bench: &Bench, what: Loop, table: &mut Table) {
    if bench.peers {
        table.compare(OURS_RULE, OVS_RULE);
        table.compare(OURS_RULE, TESTPMD_IO);
    }
    if bench.peers && what.learning {
        table.compare(OURS_LEARNING, OVS_LEARNING);
        table.compare(OURS_FLOODING, OVS_FLOODING);
    }
    if what.learning {
        table.compare(OURS_LEARNING, OURS_RULE);
        table.compare(OURS_FLOODING, OURS_RULE);
    }
    if bench.baseline.is_some() {
        table.compare(OURS_RULE, BASELINE_RULE);
        table.compare(OURS_LEARNING, BASELINE_LEARNING);
        table.compare(OURS_FLOODING, BASELINE_FLOODING);
    }
}

/// One rate, and how much of its processor the more interrupted side had meanwhile.
#[derive(Clone, Copy)]
struct Sample {
    /// Millions of packets per second that come back to the generator on both ports together.
    rate: f64,
    share: f64,
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} Mpps, processors held {:.0} %", self.rate, self.share * 100.0)
    }
}

/// The first sample nobody disturbed, or the least disturbed of [`TRIES`].
fn undisturbed(
    bench: &Bench,
    contestant: &mut Contestant,
    what: Loop,
    way: Way,
    tables: &mut Tables<1>,
) -> Result<Sample> {
    let mut generator = generator(bench, contestant, what, way)?;
    tables.look()?;
    generator.command(&format!("start tx_first {BURSTS}"))?;
    thread::sleep(SETTLE);
    let mut best = sample(bench, contestant, &mut generator)?;
    for _ in 1..TRIES {
        if best.share >= UNDISTURBED {
            break;
        }
        let again = sample(bench, contestant, &mut generator)?;
        if again.share > best.share {
            best = again;
        }
    }
    Ok(best)
}

fn generator(bench: &Bench, contestant: &Contestant, what: Loop, way: Way) -> Result<Testpmd> {
    let rings = if what.packed { ",packed_vq=1" } else { "" };
    let devices: Vec<String> = (0..)
        .zip(contestant.ports())
        .map(|(i, path)| {
            let path = path.display();
            format!("net_virtio_user{i},path={path},mac=52:54:00:00:00:0{i},queues=1,queue_size=1024{rings}")
        })
        .collect();
    let length = format!("--txpkts={}", what.frame);
    let mut application = vec!["--nb-cores=1", "--forward-mode=io", "--txd=1024", "--rxd=1024", &length];
    if way == Way::Learning {
        // Each port sends to the other's address, so that the bridge has something to learn. Unless told so, testpmd sends to addresses
        // nobody has.
        application.extend(["--eth-peer=0,52:54:00:00:00:01", "--eth-peer=1,52:54:00:00:00:00"]);
    }
    Testpmd::start_with(&bench.lab, "generator", GENERATOR_LCORES, Memory::Huge, &devices, &application)
}

fn sample(bench: &Bench, contestant: &mut Contestant, generator: &mut Testpmd) -> Result<Sample> {
    let pids = [contestant.pid()?, generator.process().pid()];
    let held = || pids.iter().map(|&pid| machine::cpu_ticks(pid)).collect::<Result<Vec<f64>>>();
    let (packets, ticks, began) = (received(generator)?, held()?, Instant::now());
    thread::sleep(bench.sample);
    let (packets_after, ticks_after, took) = (received(generator)?, held()?, began.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
    let rate = (packets_after - packets) as f64 / took / 1e6;
    let share = ticks.iter().zip(&ticks_after).map(|(a, b)| (b - a) / TICKS / took).fold(1.0, f64::min);
    Ok(Sample { rate, share })
}

/// Has a generator of two ports send so many bursts of 32 frames from each and send on what comes back: Mpps that come back, both ports
/// together.
///
/// # Errors
/// It ends.
pub(crate) fn closed_loop(bench: &Bench, generator: &mut Testpmd, bursts: u32) -> Result<f64> {
    generator.command(&format!("start tx_first {bursts}"))?;
    thread::sleep(SETTLE);
    let (before, began) = (received(generator)?, Instant::now());
    thread::sleep(bench.sample);
    let after = received(generator)?;
    if after == before {
        return Err(Failure::new("no frame came back"));
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
    let rate = (after - before) as f64 / began.elapsed().as_secs_f64() / 1e6;
    Ok(rate)
}

fn received(generator: &mut Testpmd) -> Result<u64> {
    Ok(generator.counters(0)?.received + generator.counters(1)?.received)
}
