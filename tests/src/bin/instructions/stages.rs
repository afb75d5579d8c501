//! What is counted: each stage of a packet's way alone, and the whole way through a worker.
//!
//! A stage prepares a burst, then does its work inside [`counted_by_callgrind`], which is where valgrind is told to
//! count. So neither the guests nor the start-up enter the numbers. Nothing here is random: the same binary gives the same
//! number, but for a few instructions of hashing with a seed.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowtable::actions::{Action, ActionList};
use flowtable::cache::SignatureCache;
use flowtable::key::{Depth, FlowKey, FlowMask, PortNo, extract, hash_key, shallow};
use flowtable::megaflow::{MegaflowTable, Place};
use pmd::packet::{BURST, BatchStorage, Pool, SlotId, Span};
use pmd::port::{DropCounters, DropReason, LinkState, Port};
use pmd::virtio::features::VIRTIO_F_RING_PACKED;
use tests::failure::{During as _, Failure, Result};
use vhost_port::fuzz::{Setting, ShadowBench};
use vhost_port::{Mode, VhostConfig, VhostPort};
use vswitch::datapath::worker::{Stepped, WorkerConfig};
use vswitch::datapath::{Command, IdlePolicy, Megaflow, RxAssignment, WorkerHandle, upcall_queue};

use crate::guest::{Guest, Kind};

/// Bursts before counting begins: caches fill, and every entry of a ring has been used.
const WARM_UP: usize = 64;
/// Bursts counted.
const COUNTED: usize = 64;

/// A stage: its name and what runs it in a folder for sockets. Returns the packets counted.
pub(crate) type Stage = (&'static str, fn(&Path) -> Result<usize>);

/// All stages, in the order of a packet's way.
pub(crate) const STAGES: [Stage; 19] = [
    ("ring-dequeue", |folder| ring_dequeue(folder, Kind::Split)),
    ("ring-dequeue-packed", |folder| ring_dequeue(folder, Kind::Packed)),
    ("key-extract", key_extract),
    ("shallow-look", shallow_look),
    ("signature-hit", signature_hit),
    ("megaflow-hit", megaflow_hit),
    ("ring-enqueue", |folder| ring_enqueue(folder, Kind::Split)),
    ("ring-enqueue-packed", |folder| ring_enqueue(folder, Kind::Packed)),
    ("path-1-flow", |folder| path(folder, Kind::Split, 64, Flows::Port, |_| 0)),
    ("path-1-flow-packed", |folder| path(folder, Kind::Packed, 64, Flows::Port, |_| 0)),
    ("path-1-flow-checksum", |folder| path(folder, Kind::Checksums, 64, Flows::Port, |_| 0)),
    // Each with a megaflow of its own, no two packets that follow each other of the same.
    ("path-64-flows", |folder| path(folder, Kind::Split, 64, Flows::Connections(64), |i| i % 64)),
    ("path-64-flows-ipv6", |folder| path(folder, Kind::Split, 96, Flows::Ipv6Connections(64), |i| i % 64)),
    ("path-100k-flows", |folder| {
        path(folder, Kind::Split, 64, Flows::Connections(100_000), |i| i * 7_919 % 100_000)
    }),
    // Every packet of another connection, all of one megaflow.
    ("path-new-flows", |folder| path(folder, Kind::Split, 64, Flows::Port, |i| i)),
    ("path-learning", |folder| path(folder, Kind::Split, 64, Flows::Macs, |i| i)),
    // The relay of a guest whose rings a device runs behind ours: taken, given to the device, given back.
    ("shadow-relay", |_| shadow_relay(0)),
    ("shadow-relay-packed", |_| shadow_relay(VIRTIO_F_RING_PACKED)),
    ("path-1-flow-1518", |folder| path(folder, Kind::Split, 1518, Flows::Port, |_| 0)),
];

/// Callgrind counts what happens in here; `main.rs` names this function to it.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    work();
}

/// Runs `work` on burst after burst that `prepare` has made ready, and counts it once warm.
fn count<S>(
    state: &mut S,
    prepare: impl Fn(&mut S) -> Result<()>,
    mut work: impl FnMut(&mut S),
) -> Result<usize> {
    for round in 0..WARM_UP + COUNTED {
        prepare(state)?;
        if round < WARM_UP {
            work(state);
        } else {
            counted_by_callgrind(&mut || work(state));
        }
    }
    Ok(COUNTED * BURST)
}

/// A UDP frame of flow number `flow`, without its checksum, as long as a wire would count it less the four bytes of FCS.
fn frame(len: usize, flow: u32) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0, 0x45, 0];
    let ip_len = u16::try_from(len - 4 - 14).unwrap_or(u16::MAX);
    frame.extend(ip_len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10]);
    frame.extend(&flow.to_be_bytes()[1..]);
    frame.extend([10, 1, 0, 1, 4, 0, 0, 53]);
    frame.extend((ip_len - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(len - 4, 0);
    frame
}

/// The same over IPv6.
fn ipv6_frame(len: usize, flow: u32) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0];
    let udp_len = u16::try_from(len - 4 - 54).unwrap_or(u16::MAX);
    frame.extend(udp_len.to_be_bytes());
    frame.extend([17, 64]);
    frame.extend((0xfd00 << 112 | u128::from(flow)).to_be_bytes());
    frame.extend((0xfd01 << 112 | 1u128).to_be_bytes());
    frame.extend([4, 0, 0, 53]);
    frame.extend(udp_len.to_be_bytes());
    frame.resize(len - 4, 0);
    frame
}

fn frames(len: usize, flow: impl Fn(u32) -> u32, from: u32) -> Vec<Vec<u8>> {
    (from..from + BURST as u32).map(|i| frame(len, flow(i))).collect()
}

fn keys() -> Vec<FlowKey> {
    let mut keys = vec![FlowKey::default(); BURST];
    for (frame, key) in frames(64, |i| i, 0).iter().zip(&mut keys) {
        extract(frame, frame.len(), PortNo(1), key);
    }
    keys
}

/// A port with a guest behind it.
fn port(folder: &Path, name: &str, kind: Kind) -> Result<(Arc<dyn Port>, Guest)> {
    let path = folder.join(name);
    let port =
        VhostPort::open(VhostConfig::new(name, Mode::Listen(path.clone()))).during("opening a port")?;
    let guest = Guest::attach(&path, kind)?;
    // The last answer came when the ring ran; what the port says of itself follows at once.
    while port.info().link != LinkState::Up || port.info().rx_queues == 0 {
        std::thread::yield_now();
    }
    Ok((port, guest))
}

fn all_of_a_burst(what: &str, count: usize) -> Result<()> {
    if count == BURST { Ok(()) } else { Err(Failure::new(format!("{count} of {BURST} frames {what}"))) }
}

fn ring_dequeue(folder: &Path, kind: Kind) -> Result<usize> {
    let (port, mut guest) = port(folder, "a", kind)?;
    let mut queue = port.rx_queue(0).during("the receive queue")?;
    let mut storage = BatchStorage::new();
    let burst = frames(64, |_| 0, 0);
    let prepare = |guest: &mut Guest| {
        guest.sent()?;
        guest.send(&burst)
    };
    let packets = count(&mut guest, prepare, |_| {
        black_box(queue.rx_burst(&mut storage.begin()));
        queue.rx_done();
    })?;
    all_of_a_burst("were taken", guest.sent()?)?;
    Ok(packets)
}

fn ring_enqueue(folder: &Path, kind: Kind) -> Result<usize> {
    let (port, mut guest) = port(folder, "a", kind)?;
    let mut queue = port.tx_queue(0).during("the transmit queue")?;
    let mut storage = BatchStorage::new();
    let frames = frames(64, |_| 0, 0);
    let mut batch = storage.begin();
    for frame in &frames {
        batch.receive(Span::from_slice(frame));
    }
    let slots: Vec<SlotId> = (0..BURST as SlotId).collect();
    let prepare = |guest: &mut Guest| {
        guest.received()?;
        guest.post(BURST)
    };
    let packets = count(&mut guest, prepare, |_| {
        black_box(queue.tx_burst(&batch, &slots));
    })?;
    all_of_a_burst("arrived", guest.received()?)?;
    Ok(packets)
}

/// A burst goes to the device while the one before comes back.
fn shadow_relay(guest_features: u64) -> Result<usize> {
    const SIZE: u16 = 256;
    let setting = Setting {
        guest_size: SIZE,
        guest_features,
        device_size: SIZE,
        device_features: 0,
        receives: false,
        mergeable: false,
    };
    let bench = ShadowBench::new(setting).ok_or_else(|| Failure::new("no shadow can be made"))?;
    let (mut used, [_, avail_at, used_at]) = (0u16, bench.parts());
    let state = std::cell::RefCell::new((bench, &mut used));
    let prepare = |_: &mut ()| {
        let (bench, used) = &mut *state.borrow_mut();
        while bench.collect().map_err(Failure::new)?.is_some() {}
        // The device uses all it has.
        let mut word = [0; 2];
        bench.device_read(avail_at + 2, &mut word);
        while **used != u16::from_le_bytes(word) {
            let slot = usize::from(**used % SIZE);
            let mut head = [0; 2];
            bench.device_read(avail_at + 4 + slot * 2, &mut head);
            bench.device_write(used_at + 4 + slot * 8, &u64::from(u16::from_le_bytes(head)).to_le_bytes());
            **used = used.wrapping_add(1);
        }
        bench.device_write(used_at + 2, &used.to_le_bytes());
        for _ in 0..BURST {
            bench.offer(1).ok_or_else(|| Failure::new("the guest's ring is full"))?;
        }
        bench.publish();
        Ok(())
    };
    let mut relayed = Ok((0, 0));
    let packets = count(&mut (), prepare, |()| relayed = black_box(state.borrow_mut().0.relay()))?;
    let (returned, taken) = relayed.map_err(Failure::new)?;
    all_of_a_burst("came back", returned.into())?;
    all_of_a_burst("were taken", taken.into())?;
    Ok(packets)
}

fn key_extract(_: &Path) -> Result<usize> {
    let frames = frames(64, |i| i, 0);
    let mut keys = [FlowKey::default(); BURST];
    count(
        &mut keys,
        |_| Ok(()),
        |keys| {
            for (frame, key) in black_box(&frames).iter().zip(keys.iter_mut()) {
                black_box(extract(frame, frame.len(), PortNo(1), key));
            }
        },
    )
}

fn shallow_look(_: &Path) -> Result<usize> {
    let frames = frames(64, |i| i, 0);
    count(
        &mut (),
        |()| Ok(()),
        |()| {
            for frame in black_box(&frames) {
                black_box(shallow(frame, frame.len(), Depth::Link));
            }
        },
    )
}

fn link_mask() -> FlowMask {
    let mut mask = FlowMask::EXACT_BASE;
    mask.union(&FlowMask::EXACT_MACS);
    mask
}

fn signature_hit(_: &Path) -> Result<usize> {
    let keys = keys();
    let mut table = MegaflowTable::new();
    table.insert(&keys[0], &link_mask(), 7u64);
    let mut cache = SignatureCache::new();
    let (mut values, mut places) = ([None; BURST], [Place::default(); BURST]);
    table.port(PortNo(1)).lookup_burst(&keys, u32::MAX, &mut values, &mut places);
    for (key, place) in keys.iter().zip(places) {
        cache.put(hash_key(key), place);
    }
    let mut found = 0;
    let packets = count(
        &mut cache,
        |_| Ok(()),
        |cache| {
            found = 0;
            let port = table.port(PortNo(1));
            for key in black_box(&keys) {
                let hit = cache.get(hash_key(key)).and_then(|place| port.get_at(place, key));
                found += usize::from(black_box(hit).is_some());
            }
        },
    )?;
    all_of_a_burst("were found", found)?;
    Ok(packets)
}

fn megaflow_hit(_: &Path) -> Result<usize> {
    let keys = keys();
    let mut table = MegaflowTable::new();
    table.insert(&keys[0], &link_mask(), 7u64);
    let mut found = 0;
    let packets = count(
        &mut table,
        |_| Ok(()),
        |table| {
            let (mut values, mut places) = ([None; BURST], [Place::default(); BURST]);
            let port = table.port(PortNo(1));
            found = port.lookup_burst(black_box(&keys), u32::MAX, &mut values, &mut places);
            black_box((&values, &places));
        },
    )?;
    all_of_a_burst("were found", found.count_ones() as usize)?;
    Ok(packets)
}

/// A worker between two guests, with one rule: what comes in by the first port goes out by the second.
struct Path2 {
    worker: Stepped,
    handle: WorkerHandle,
    from: Guest,
    to: Guest,
    /// Frames sent so far.
    sent: u32,
    _ports: [Arc<dyn Port>; 2],
}

impl Path2 {
    fn new(folder: &Path, kind: Kind, flows: Flows) -> Result<Path2> {
        let ((in_port, from), (out_port, to)) = (port(folder, "a", kind)?, port(folder, "b", kind)?);
        let (upcalls, _) = upcall_queue().during("the upcall queue")?;
        let pool = Pool::create(1024).during("the pool")?;
        // It must not sleep where nobody would wake it.
        let idle = IdlePolicy { spin: Duration::ZERO, always_poll: true };
        let config = WorkerConfig { id: 0, core: 0, idle, upcalls, pool };
        let (handle, mut worker) = Stepped::new(config).during("the worker")?;
        let queue = in_port.rx_queue(0).during("the receive queue")?;
        handle.send(Command::AddRxq(RxAssignment { port: PortNo(1), index: 0, queue, load: Arc::default() }));
        for (number, port) in [(1, &in_port), (2, &out_port)] {
            let (port, queue) = (PortNo(number), port.tx_queue(0).during("a transmit queue")?);
            handle.send(Command::AddPort { port, queue, drops: Arc::new(DropCounters::default()) });
        }
        install(&handle, &mut worker, flows);
        let _ports = [in_port, out_port];
        Ok(Path2 { worker, handle, from, to, sent: 0, _ports })
    }
}

/// Which megaflows there are.
#[derive(Clone, Copy)]
enum Flows {
    /// One for all IPv4 that comes in by the port.
    Port,
    /// One for all IPv4 between the two MACs that come in by the port, as a learning bridge makes it.
    Macs,
    /// One for each of so many connections.
    Connections(u32),
    /// The same over IPv6.
    Ipv6Connections(u32),
}

impl Flows {
    fn frame(self, len: usize, flow: u32) -> Vec<u8> {
        if matches!(self, Flows::Ipv6Connections(_)) { ipv6_frame(len, flow) } else { frame(len, flow) }
    }
}

/// Commands sent before the worker goes round for them, 64 a time: fewer than its queue holds.
const COMMANDS: u32 = 1024;

/// As often as it takes to carry out [`COMMANDS`].
fn go_round(worker: &mut Stepped) {
    for _ in 0..=COMMANDS / 64 {
        worker.round();
    }
}

fn install(handle: &WorkerHandle, worker: &mut Stepped, flows: Flows) {
    let (count, mut mask) = match flows {
        Flows::Port => (1, FlowMask::EXACT_BASE),
        Flows::Macs => {
            let mut mask = link_mask();
            mask.union(&FlowMask::EXACT_VLANS);
            (1, mask)
        }
        Flows::Connections(count) | Flows::Ipv6Connections(count) => (count, FlowMask::EXACT_FIVE_TUPLE),
    };
    mask.union(&FlowMask::EXACT_BASE);
    for number in 0..count {
        let (frame, mut key) = (flows.frame(96, number), FlowKey::default());
        extract(&frame, frame.len(), PortNo(1), &mut key);
        handle.send(Command::Install(Arc::new(Megaflow::new(
            0,
            &key,
            &mask,
            ActionList::new(vec![Action::Output(PortNo(2))]),
            DropReason::Action,
        ))));
        // The queue of commands is shorter than some lists of flows.
        if number % COMMANDS == 0 {
            go_round(worker);
        }
    }
}

fn path(folder: &Path, kind: Kind, len: usize, flows: Flows, flow: fn(u32) -> u32) -> Result<usize> {
    let mut path = Path2::new(folder, kind, flows)?;
    // As many rounds as the last commands take.
    go_round(&mut path.worker);
    let prepare = |path: &mut Path2| {
        path.from.sent()?;
        path.to.received()?;
        path.to.post(BURST)?;
        let burst = path.sent..path.sent + BURST as u32;
        path.from.send(&burst.map(|i| flows.frame(len, flow(i))).collect::<Vec<_>>())?;
        path.sent += BURST as u32;
        Ok(())
    };
    let packets = count(&mut path, prepare, |path| {
        black_box(path.worker.round());
    })?;
    all_of_a_burst("arrived", path.to.received()?)?;
    let counters = path.handle.counters().snapshot();
    if counters.misses != 0 {
        return Err(Failure::new(format!("{} frames missed the flow table", counters.misses)));
    }
    Ok(packets)
}
