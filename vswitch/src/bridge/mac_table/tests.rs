//! Learning, ageing and limits, and a naive model.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn key(vlan: u16, last: u8) -> MacKey {
    MacKey { vlan, mac: [2, 0, 0, 0, 0, last] }
}

#[test]
fn learns_moves_and_forgets() {
    let mut table = MacTable::new(10, 300_000);
    assert_eq!(table.learn(key(0, 1), 5, 0), Learned::New);
    assert_eq!(table.learn(key(0, 1), 5, 10), Learned::Refreshed);
    assert_eq!(table.lookup(key(0, 1)), Some(5));
    assert_eq!(table.lookup(key(1, 1)), None, "another VLAN is another address");
    assert_eq!(table.learn(key(0, 1), 6, 20), Learned::Moved(5));
    assert_eq!(table.lookup(key(0, 1)), Some(6));
    table.expire(20 + 299_999);
    assert_eq!(table.len(), 1);
    table.expire(20 + 300_000);
    assert!(table.is_empty());
    assert_eq!(table.stats(), MacStats { learned: 1, expired: 1, evicted: 0, moved: 1 });
    let ports: Vec<_> = table.take_changes().iter().map(|change| change.port).collect();
    assert_eq!(ports, [Some(5), Some(6), None]);
    assert!(table.take_changes().is_empty());
}

#[test]
fn group_addresses_are_no_sources() {
    let mut table = MacTable::new(10, 1000);
    assert_eq!(table.learn(MacKey { vlan: 0, mac: [0xff; 6] }, 1, 0), Learned::Refused);
    assert_eq!(table.learn(MacKey { vlan: 0, mac: [1, 0, 0x5e, 0, 0, 1] }, 1, 0), Learned::Refused);
    assert_eq!(table.learn(MacKey { vlan: 0, mac: [0; 6] }, 1, 0), Learned::Refused);
    assert!(table.is_empty());
}

#[test]
fn the_greedy_port_pays() {
    let mut table = MacTable::new(4, 1000);
    table.learn(key(0, 1), 1, 0);
    for last in 10..100 {
        table.learn(key(0, last), 2, u64::from(last));
    }
    assert_eq!(table.lookup(key(0, 1)), Some(1), "the quiet port keeps its only address");
    assert_eq!(table.len(), 4);
    assert_eq!(table.lookup(key(0, 99)), Some(2));
    assert_eq!(table.lookup(key(0, 96)), None, "the least recently heard went");
}

#[test]
fn quick_moves_are_flapping() {
    let mut table = MacTable::new(4, 100_000);
    table.learn(key(0, 1), 1, 0);
    table.learn(key(0, 1), 2, 10);
    table.learn(key(0, 1), 1, 20);
    table.learn(key(0, 1), 2, 20 + FLAP_MS);
    let flapping: Vec<_> = table.take_changes().iter().map(|change| change.flapping).collect();
    assert_eq!(flapping, [false, false, true, false]);
}

#[test]
fn the_port_heard_last_has_the_address() {
    let mut table = MacTable::new(4, 1000);
    table.learn(key(0, 1), 1, 400);
    table.refresh(key(0, 1), 2, 300);
    assert_eq!(table.lookup(key(0, 1)), Some(1), "what port 2 saw is older");
    table.refresh(key(0, 1), 1, 500);
    table.expire(1450);
    assert_eq!(table.len(), 1, "refreshed at 500");
    table.refresh(key(0, 1), 2, 600);
    assert_eq!(table.lookup(key(0, 1)), Some(2), "what port 2 saw is younger");
    table.refresh(key(0, 2), 2, 600);
    assert_eq!(table.lookup(key(0, 2)), Some(2), "an unknown address comes back");
}

/// The same behaviour without lists: a vector in order of refresh.
struct Model {
    limit: usize,
    ageing_ms: u64,
    entries: Vec<(MacKey, u16, u64)>,
}

impl Model {
    fn learn(&mut self, key: MacKey, port: u16, now: u64) {
        if let Some(at) = self.entries.iter().position(|entry| entry.0 == key) {
            self.entries.remove(at);
        } else {
            self.shrink(self.limit - 1);
        }
        self.entries.push((key, port, now));
    }

    fn shrink(&mut self, to: usize) {
        while self.entries.len() > to {
            let count = |port| self.entries.iter().filter(|entry| entry.1 == port).count();
            let port = self.entries.iter().map(|entry| (count(entry.1), entry.1)).max().unwrap().1;
            let at = self.entries.iter().position(|entry| entry.1 == port).unwrap();
            self.entries.remove(at);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Learn(MacKey, u16),
    Wait(u64),
    FlushPort(u16),
    Flush,
    Limit(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let address = (0u16..2, 0u8..12).prop_map(|(vlan, last)| key(vlan, last));
    prop_oneof![
        20 => (address, 1u16..4).prop_map(|(key, port)| Op::Learn(key, port)),
        4 => (0u64..600).prop_map(Op::Wait),
        1 => (1u16..4).prop_map(Op::FlushPort),
        1 => Just(Op::Flush),
        1 => (1usize..9).prop_map(Op::Limit),
    ]
}

proptest! {
    #[test]
    fn behaves_like_the_model(ops in prop::collection::vec(op(), 1..200)) {
        let mut table = MacTable::new(6, 1000);
        let mut model = Model { limit: 6, ageing_ms: 1000, entries: Vec::new() };
        let mut seen: HashMap<MacKey, u16> = HashMap::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Learn(key, port) => {
                    table.learn(key, port, now);
                    model.learn(key, port, now);
                }
                Op::Wait(ms) => {
                    now += ms;
                    table.expire(now);
                    model.entries.retain(|entry| now - entry.2 < model.ageing_ms);
                }
                Op::FlushPort(port) => {
                    table.flush_port(port);
                    model.entries.retain(|entry| entry.1 != port);
                }
                Op::Flush => {
                    table.flush();
                    model.entries.clear();
                }
                Op::Limit(limit) => {
                    table.set_limits(limit, 1000);
                    model.limit = limit;
                    model.shrink(limit);
                }
            }
            let entries: Vec<_> =
                table.entries(now).iter().map(|entry| (entry.key, entry.port, now - entry.age_ms)).collect();
            prop_assert_eq!(&entries, &model.entries);
            prop_assert_eq!(table.len(), entries.len());
            // Whoever follows the changes knows the answer of every lookup.
            for change in table.take_changes() {
                match change.port {
                    Some(port) => seen.insert(change.key, port),
                    None => seen.remove(&change.key),
                };
            }
            let answers: HashMap<_, _> = entries.iter().map(|entry| (entry.0, entry.1)).collect();
            prop_assert_eq!(&seen, &answers);
        }
    }
}
