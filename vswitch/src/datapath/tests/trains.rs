//! Bursts of several flows through a worker that the test steps, at each depth of its megaflows.

use super::*;

/// A worker between two ports that the test sees the far side of.
struct Steps {
    handle: WorkerHandle,
    worker: worker::Stepped,
    upcalls: UpcallReceiver,
    testers: Vec<Tester>,
    _ports: Vec<Arc<dyn Port>>,
}

impl Steps {
    fn new() -> Steps {
        let pool = Pool::create(8192).unwrap();
        let (sender, upcalls) = upcall_queue().unwrap();
        let idle = IdlePolicy { spin: Duration::ZERO, always_poll: true };
        let config = WorkerConfig { id: 0, core: 0, idle, upcalls: sender, pool };
        let (handle, worker) = worker::Stepped::new(config).unwrap();
        let mut steps = Steps { handle, worker, upcalls, testers: Vec::new(), _ports: Vec::new() };
        for number in 1..=2 {
            let names = [format!("p{number}"), format!("t{number}")];
            let (near, far) = pair::open(PairConfig { names, queues: 1, pool }).unwrap();
            let (port, queue) = (PortNo(number), near.tx_queue(0).unwrap());
            steps.handle.send(Command::AddPort { port, queue, drops: Arc::default() });
            let queue = near.rx_queue(0).unwrap();
            let load = Arc::default();
            steps.handle.send(Command::AddRxq(RxAssignment { port, index: 0, queue, load }));
            steps.testers.push(Tester::new(&*far, pool).unwrap());
            steps._ports.extend([near, far]);
        }
        steps
    }

    /// Installs a flow for packets from port 1 to a host, which compares `mask` beside it.
    fn install(&self, host: u8, mask: FlowMask, actions: Vec<Action>) -> Arc<Megaflow> {
        let mut mask = mask;
        mask.fields.eth_dst[5] = 0xff;
        let mut key = FlowKey { in_port: 1, ..FlowKey::default() };
        (key.eth_type, key.eth_dst[5]) = (0x88b5.into(), host);
        let flow = Arc::new(Megaflow::new(0, &key, &mask, ActionList::new(actions), DropReason::Action));
        self.handle.send(Command::Install(flow.clone()));
        flow
    }
}

/// The masks of two flows, by whether and how the worker may look less deep than at everything.
fn masks() -> Vec<[FlowMask; 2]> {
    let mut transport = FlowMask::EXACT_BASE;
    transport.fields.tp_dst = 0xffff.into();
    let mut source = FlowMask::EXACT_BASE;
    source.fields.eth_src[0] = 0; // as the base, another mask only by the host
    vec![
        [FlowMask::WILDCARD; 2],           // bound to no port
        [FlowMask::EXACT_BASE, source],    // MACs and type
        [FlowMask::EXACT_BASE, transport], // one of them deep
    ]
}

/// Hosts 1 and 2 have flows; host 3 has none.
const HOSTS: [u8; 11] = [3, 1, 1, 2, 1, 3, 3, 2, 2, 2, 1];

#[test]
fn trains_in_one_burst_keep_their_order_and_are_counted_apart() {
    for masks in masks() {
        let mut steps = Steps::new();
        let flows =
            [(1, masks[0]), (2, masks[1])].map(|(host, mask)| steps.install(host, mask, vec![output(2)]));
        steps.worker.round();
        let rounds = 4;
        for round in 0..rounds {
            for (i, host) in HOSTS.into_iter().enumerate() {
                let mut frame = frame(60 + i);
                frame[5] = host;
                assert!(steps.testers[0].send(&frame, Offload::default()));
            }
            steps.worker.round();
            for (i, host) in HOSTS.into_iter().enumerate().filter(|(_, host)| *host != 3) {
                let got = steps.testers[1].receive(WAIT).expect("no frame came");
                assert_eq!((got.len(), got[5]), (60 + i, host), "round {round}");
            }
            let mut missed = Vec::new();
            steps.upcalls.receive(&mut missed, WAIT);
            assert_eq!(missed.iter().map(|upcall| upcall.packet.len()).collect::<Vec<_>>(), [60, 65, 66]);
            // The key is a whole one, however little the worker had looked at.
            assert!(
                missed
                    .iter()
                    .all(|u| (u.key.in_port, u.key.eth_src, u.key.eth_dst[5]) == (1, [2, 0, 0, 0, 0, 2], 3))
            );
        }
        let counted = flows.map(|flow| (flow.stats.packets(), flow.stats.bytes()));
        assert_eq!(
            counted,
            [(4 * rounds, rounds * (61 + 62 + 64 + 70)), (4 * rounds, rounds * (63 + 67 + 68 + 69))]
        );
        let counters = steps.handle.counters().snapshot();
        assert_eq!((counters.bursts, counters.packets, counters.misses), (rounds, rounds * 11, rounds * 3));
        assert_eq!((counters.emc_hits, counters.megaflow_hits), (0, rounds * 8));
    }
}

#[test]
fn a_port_with_several_masks_gets_to_know_where_its_flows_are() {
    let mut steps = Steps::new();
    let mut flows = Vec::new();
    for host in 1..=6u8 {
        let mut mask = FlowMask::EXACT_BASE;
        mask.fields.tp_dst = u16::from(host).into();
        flows.push(steps.install(host, mask, vec![output(2)]));
    }
    steps.worker.round();
    let rounds = 200;
    for round in 0..rounds {
        // A flow that goes takes what is known of it along, and its successor is found.
        if round == rounds / 2 {
            let mut mask = FlowMask::EXACT_BASE;
            mask.fields.tp_dst = 1.into();
            steps.handle.remove(&flows[0]);
            flows.push(steps.install(1, mask, vec![Action::Truncate(20), output(2)]));
        }
        for host in 1..=6 {
            let mut frame = frame(60);
            frame[5] = host;
            assert!(steps.testers[0].send(&frame, Offload::default()));
        }
        // Commands come after the packets.
        steps.worker.round();
        for host in 1..=6 {
            let got = steps.testers[1].receive(WAIT).expect("no frame came");
            let short = host == 1 && round > rounds / 2;
            assert_eq!((got.len(), got[5]), (if short { 20 } else { 60 }, host), "round {round}");
        }
    }
    let counters = steps.handle.counters().snapshot();
    assert_eq!((counters.misses, counters.emc_hits + counters.megaflow_hits), (0, rounds * 6));
    assert!(counters.emc_hits > rounds * 3, "{counters:?}");
    assert_eq!(flows.iter().map(|flow| flow.stats.packets()).sum::<u64>(), rounds * 6);
}

/// A TCP segment over IPv4 to a host, with these flags.
fn segment(host: u8, flags: u8) -> Vec<u8> {
    let mut frame = frame(14);
    frame.truncate(12);
    frame[5] = host;
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    frame
}

#[test]
fn flags_are_seen_and_tags_changed_where_megaflows_look_at_ports_only() {
    let mut steps = Steps::new();
    let mut key = FlowKey { in_port: 1, ..FlowKey::default() };
    key.eth_type = 0x0800.into();
    let actions = vec![
        Action::PushVlan { tpid: 0x8100, tci: 7 },
        Action::set(SetField::exact(Field::IpTtl, 9)),
        output(2),
    ];
    let actions = ActionList::new(actions);
    let flow = Arc::new(Megaflow::new(0, &key, &FlowMask::EXACT_BASE, actions, DropReason::Action));
    steps.handle.send(Command::Install(flow.clone()));
    steps.worker.round();
    let mut tagged = segment(3, 0x20);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    for frame in [segment(1, 0x02), segment(2, 0x10), tagged, segment(1, 0x08)] {
        assert!(steps.testers[0].send(&frame, Offload::default()));
    }
    steps.worker.round();
    for (host, tags) in [(1, 1), (2, 1), (3, 2), (1, 1)] {
        let got = steps.testers[1].receive(WAIT).expect("no frame came");
        assert_eq!((got[5], &got[12..16], got.len()), (host, &[0x81, 0, 0, 7][..], 54 + 4 * tags));
        assert_eq!(got[14 + 4 * tags + 8], 9, "the TTL");
    }
    assert_eq!((flow.stats.packets(), flow.stats.tcp_flags()), (4, 0x02 | 0x10 | 0x20 | 0x08));
}
