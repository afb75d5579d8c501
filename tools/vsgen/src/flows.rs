//! Which 5-tuple the next frame carries.
//!
//! A [`Round`] visits all of N flows once, then again. The order is an additive one: from flow i to i + step modulo N, with a step
//! that has no divisor in common with N (so that every flow is met) and lies near the golden section of it (so that neighbours in
//! time are far apart, and their cache lines too). That takes an addition and a comparison a frame; a table of shuffled numbers would
//! put megabytes through the generator's cache instead. `i modulo K` for the destination network is carried along the
//! same way, because a division costs as much as sending the frame.

use std::time::{SystemTime, UNIX_EPOCH};

/// Flows are told apart by 24 bits of source address.
pub(crate) const MAX_FLOWS: u32 = 1 << 24;
/// Destination networks are told apart by one octet.
pub(crate) const MAX_NETS: u32 = 256;
/// UDP or TCP destination port of the flows of a round.
pub(crate) const PORT: u16 = 5000;
/// The same of flows used once, so that they never are one of a round.
pub(crate) const NEW_PORT: u16 = 5001;

const SOURCE_PORTS: u64 = 50_000;
const FIRST_SOURCE_PORT: u64 = 1024;

/// What of a frame's headers depends on its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    /// The low 24 bits of the source address.
    pub(crate) source: u32,
    /// The second octet of the destination address.
    pub(crate) net: u8,
    /// Source port.
    pub(crate) port: u16,
}

/// A source of flows.
#[derive(Debug, Clone)]
pub(crate) enum Flows {
    /// N flows, again and again.
    Round(Round),
    /// Each flow once.
    New(Fresh),
}

impl Flows {
    /// The next frame's.
    #[inline]
    pub(crate) fn next(&mut self) -> Flow {
        match self {
            Self::Round(round) => round.next(),
            Self::New(new) => new.next(),
        }
    }
}

/// N flows in a scrambled order.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    at: u32,
    count: u32,
    step: u32,
    /// `at` modulo the number of networks, what it grows by with a step, and what it grows by when `at` wraps.
    net: u32,
    nets: u32,
    net_step: u32,
    net_wrap: u32,
}

impl Round {
    /// `flows` flows to `nets` destination networks; each is bounded to what addresses can tell apart.
    pub(crate) fn new(flows: u32, nets: u32) -> Self {
        let count = flows.clamp(1, MAX_FLOWS);
        let nets = nets.clamp(1, MAX_NETS);
        // 0.618… of it, in 16 bits of fraction.
        let golden = (u64::from(count) * 40_503) >> 16;
        let step = (golden as u32..=count).find(|&step| gcd(step, count) == 1).unwrap_or(1) % count;
        Self {
            at: 0,
            count,
            step,
            net: 0,
            nets,
            net_step: step % nets,
            net_wrap: (nets - count % nets) % nets,
        }
    }

    #[inline]
    fn next(&mut self) -> Flow {
        let flow = Flow {
            source: self.at,
            net: self.net as u8,
            port: (FIRST_SOURCE_PORT + u64::from(self.at) % SOURCE_PORTS) as u16,
        };
        self.at += self.step;
        self.net = below(self.net + self.net_step, self.nets);
        if self.at >= self.count {
            self.at -= self.count;
            self.net = below(self.net + self.net_wrap, self.nets);
        }
        flow
    }
}

/// `value` brought below `end`, which it exceeds less than twofold.
#[inline]
fn below(value: u32, end: u32) -> u32 {
    if value >= end { value - end } else { value }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A counter of flows, 2²⁴ addresses by 50 000 ports long.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    counter: u64,
    nets: u64,
}

impl Fresh {
    /// Starts where the clock says, so that two runs within days have no flow in common: it advances by 1024 a
    /// millisecond, faster than anybody asks for new flows.
    pub(crate) fn new(nets: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at((now.as_millis() as u64) << 10, nets)
    }

    fn starting_at(counter: u64, nets: u32) -> Self {
        Self {
            counter: counter % (u64::from(MAX_FLOWS) * SOURCE_PORTS),
            nets: u64::from(nets.clamp(1, MAX_NETS)),
        }
    }

    fn next(&mut self) -> Flow {
        let (low, high) = (self.counter % u64::from(MAX_FLOWS), self.counter / u64::from(MAX_FLOWS));
        self.counter = (self.counter + 1) % (u64::from(MAX_FLOWS) * SOURCE_PORTS);
        Flow {
            source: low as u32,
            net: (low % self.nets) as u8,
            // The low part is there to make neighbours differ; the address gives it back.
            port: (FIRST_SOURCE_PORT + (low + high) % SOURCE_PORTS) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_round_visits_each_flow_once() {
        for (count, nets) in
            [(1, 1), (2, 1), (3, 2), (10, 3), (1000, 7), (4096, 256), (65_537, 256), (100_000, 10)]
        {
            let mut round = Round::new(count, nets);
            for turn in 0..2 {
                let flows: HashSet<Flow> = (0..count).map(|_| round.next()).collect();
                assert_eq!(flows.len(), count as usize, "turn {turn} of {count}");
                for flow in flows {
                    assert!(flow.source < count);
                    assert_eq!(u32::from(flow.net), flow.source % nets, "flow {} of {count}", flow.source);
                    assert_eq!(u32::from(flow.port), 1024 + flow.source % 50_000);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_far_apart() {
        let mut round = Round::new(100_000, 1);
        let mut last = round.next().source;
        for _ in 0..100_000 {
            let next = round.next().source;
            assert!(last.abs_diff(next) > 1000);
            last = next;
        }
    }

    #[test]
    fn new_flows_do_not_repeat_when_addresses_do() {
        let start = u64::from(MAX_FLOWS) - 1000;
        let mut seen = HashSet::new();
        for counter in [0, start, 3 * u64::from(MAX_FLOWS) - 1000] {
            let mut new = Fresh::starting_at(counter, 16);
            assert!((0..2000).all(|_| seen.insert(new.next())), "from {counter}");
        }
    }
}
