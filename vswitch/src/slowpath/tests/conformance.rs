//! Whatever happens, in whatever order: after a pass every megaflow says what a fresh translation says, and every
//! worker has exactly the flows the registry knows.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::slowpath::revalidate::SLICE;
use crate::translate::translate;

#[derive(Clone, Debug)]
enum Op {
    Miss(Vec<FlowKey>),
    Hit(FlowKey),
    Wait(u64),
    Work,
    Vlan(u8, VlanConfig),
    NoFlood(u8, bool),
    Remove(u8),
    Join(u8),
    AddFlow(&'static str),
    DelFlows,
    FlushFdb,
    ForwardBpdu(bool),
}

const FLOWS: [&str; 5] = [
    "priority=5,idle_timeout=3,ip,actions=output:2,NORMAL",
    "priority=6,dl_src=02:00:00:00:00:01,actions=mod_vlan_vid:5,NORMAL",
    "priority=7,in_port=2,actions=flood",
    "priority=8,nw_ttl=1,ip,actions=drop",
    "priority=9,ip,dl_dst=02:00:00:00:00:02,hard_timeout=2,actions=dec_ttl,mod_dl_src:02:00:00:00:00:03,NORMAL,in_port",
];

fn key() -> impl Strategy<Value = FlowKey> {
    let fields = (1u32..5, 1u8..5, 1u8..6, select(vec![0u16, 0x1000, 0x1005]), select(vec![1u8, 64]));
    fields.prop_map(|(in_port, src, dst, tci, ttl)| {
        let tpid = if tci == 0 { 0u16 } else { 0x8100 };
        FlowKey { nw_ttl: ttl, vlan_tci: tci.into(), vlan_tpid: tpid.into(), ..frame(in_port, src, dst) }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let vlan = select(vec![VlanConfig::default(), VlanConfig::access(5), VlanConfig::trunk([5])]);
    prop_oneof![
        12 => prop::collection::vec(key(), 1..5).prop_map(Op::Miss),
        4 => key().prop_map(Op::Hit),
        4 => select(vec![10u64, 400, 3000, 11_000]).prop_map(Op::Wait),
        3 => Just(Op::Work),
        1 => (1u8..4, vlan).prop_map(|(port, vlan)| Op::Vlan(port, vlan)),
        1 => (1u8..4, any::<bool>()).prop_map(|(port, no_flood)| Op::NoFlood(port, no_flood)),
        1 => (1u8..4).prop_map(Op::Remove),
        2 => (1u8..4).prop_map(Op::Join),
        2 => select(FLOWS.to_vec()).prop_map(Op::AddFlow),
        1 => Just(Op::DelFlows),
        1 => Just(Op::FlushFdb),
        1 => any::<bool>().prop_map(Op::ForwardBpdu),
    ]
}

impl Lab {
    fn apply(&mut self, op: Op) {
        // A port may be off the bridge just now; then its changes are refused, which is as good.
        let bridges = self.bridges.clone();
        match op {
            Op::Miss(keys) => self.miss(&keys),
            Op::Hit(key) => {
                let now_ms = self.now_ms();
                self.flow(&key).inspect(|flow| flow.stats.hit(60, 0, now_ms));
            }
            Op::Wait(ms) => self.wait(ms),
            Op::Work => drop(self.engine.revalidate_some(SLICE)),
            Op::Vlan(port, vlan) => drop(bridges.set_port_vlan(&format!("p{port}"), vlan)),
            Op::NoFlood(port, no_flood) => drop(bridges.set_port_no_flood(&format!("p{port}"), no_flood)),
            Op::Remove(port) => drop(bridges.remove_port(&format!("p{port}"))),
            Op::Join(port) => {
                let config = BridgePortConfig::new(format!("p{port}"), PortNo(u32::from(port)));
                drop(bridges.add_port("br", config));
            }
            Op::AddFlow(text) => bridges.add_flows("br", &[text]).unwrap(),
            Op::DelFlows => drop(bridges.del_flows("br", "ip", false)),
            Op::FlushFdb => drop(bridges.fdb_flush("br")),
            Op::ForwardBpdu(forward_bpdu) => {
                bridges.set_bridge(BridgeConfig { forward_bpdu, ..BridgeConfig::new("br") }).unwrap();
            }
        }
    }

    /// The flows a worker that did all it was told has, and the outcome for the packets it was told to execute.
    fn replay(&self, worker: &mut Vec<Arc<Megaflow>>) {
        for told in self.told() {
            match told {
                Told::Install(flow) => {
                    worker.retain(|old| !old.same_match(&flow));
                    worker.push(flow);
                }
                Told::Remove(flow) => worker.retain(|old| !Arc::ptr_eq(old, &flow)),
                Told::Execute(..) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_flow_conforms_after_a_pass(ops in prop::collection::vec(op(), 1..60)) {
        let mut lab = Lab::new();
        let mut worker = Vec::new();
        for op in ops {
            lab.apply(op);
            lab.replay(&mut worker);
        }
        lab.pass();
        lab.settle();
        lab.replay(&mut worker);
        let flows = lab.flows();
        prop_assert_eq!(lab.stats().flows, flows.len() as u64);
        for flow in &flows {
            let fresh = translate(&lab.bridges, &flow.key());
            prop_assert!(fresh.mask.is_subset_of(&flow.mask()), "{:?}", flow);
            prop_assert!(fresh.same_fate(&flow.actions, flow.drop_reason), "{:?} but {:?}", flow, fresh.actions);
            prop_assert!(worker.iter().any(|known| Arc::ptr_eq(known, flow)), "not on its worker: {:?}", flow);
        }
        prop_assert_eq!(worker.len(), flows.len());
    }
}
