//! How receive queues are spread over workers: the settings, and the plan as a pure function.
//!
//! A queue with an affinity is not part of a plan. The load of the others is what they cost lately ([`super::load`]), in ticks.

use std::time::Duration;

use flowtable::key::PortNo;

/// How queues without an affinity are spread: `pmd-rxq-assign`, as in Open vSwitch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Assign {
    /// By load, largest first, dealt to the workers to and fro.
    #[default]
    Cycles,
    /// In turn, whatever their load.
    RoundRobin,
    /// By load, largest first, each to the worker with the least so far.
    Group,
}

impl Assign {
    /// By their names.
    pub const NAMES: [(&'static str, Assign); 3] =
        [("cycles", Assign::Cycles), ("roundrobin", Assign::RoundRobin), ("group", Assign::Group)];
}

/// When queues are spread anew while the switch runs: `pmd-auto-lb` and its thresholds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AutoBalance {
    /// Least time between two.
    pub interval: Duration,
    /// Load in percent that some worker must have.
    pub load_pct: u8,
    /// How much more even the load must become, in percent of its variance.
    pub improvement_pct: u8,
}

/// How queues are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Balance {
    /// Which queue goes where.
    pub assign: Assign,
    /// A worker with a pinned queue gets no others: `pmd-rxq-isolate`.
    pub isolate: bool,
    /// Whether and when that is done again.
    pub auto: Option<AutoBalance>,
}

impl Default for Balance {
    fn default() -> Self {
        Balance { assign: Assign::default(), isolate: true, auto: None }
    }
}

/// A queue to place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item {
    pub(super) port: PortNo,
    pub(super) queue: u16,
    pub(super) load: u64,
    /// Worker that has it.
    pub(super) worker: u16,
}

/// A worker for each queue, out of `workers`; as they are where there are none.
pub(super) fn plan(assign: Assign, items: &[Item], workers: &[u16]) -> Vec<u16> {
    let mut planned: Vec<u16> = items.iter().map(|item| item.worker).collect();
    if workers.is_empty() {
        return planned;
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    let place = |at: &usize| items.get(*at).map(|item| (item.port, item.queue));
    match assign {
        Assign::RoundRobin => order.sort_by_key(place),
        Assign::Cycles | Assign::Group => {
            order.sort_by_key(|at| (std::cmp::Reverse(items.get(*at).map(|item| item.load)), place(at)));
        }
    }
    let count = workers.len();
    let mut given = vec![(0u64, 0usize); count];
    for (turn, at) in order.into_iter().enumerate() {
        let (round, step) = (turn / count, turn % count);
        let choice = match assign {
            Assign::RoundRobin => step,
            Assign::Cycles if round.is_multiple_of(2) => step,
            Assign::Cycles => count - 1 - step,
            Assign::Group => {
                let least = given.iter().enumerate().min_by_key(|(_, load)| **load);
                least.map_or(0, |(index, _)| index)
            }
        };
        let (Some(item), Some(worker), Some(place), Some(given)) =
            (items.get(at), workers.get(choice), planned.get_mut(at), given.get_mut(choice))
        else {
            continue;
        };
        *place = *worker;
        given.0 += item.load;
        given.1 += 1;
    }
    planned
}

/// How much more even the load would be, in percent of its variance now.
pub(super) fn improvement(items: &[Item], planned: &[u16], workers: &[u16]) -> u64 {
    let now: Vec<u16> = items.iter().map(|item| item.worker).collect();
    let (before, after) = (variance(items, &now, workers), variance(items, planned, workers));
    let percent = before.saturating_sub(after).saturating_mul(100).checked_div(before);
    u64::try_from(percent.unwrap_or(0)).unwrap_or(u64::MAX)
}

fn variance(items: &[Item], of: &[u16], workers: &[u16]) -> u128 {
    let load = |worker: &u16| -> u128 {
        let theirs = items.iter().zip(of).filter(|(_, of)| *of == worker);
        theirs.map(|(item, _)| u128::from(item.load)).sum()
    };
    let loads: Vec<u128> = workers.iter().map(load).collect();
    let count = loads.len().max(1) as u128;
    let mean = loads.iter().sum::<u128>() / count;
    loads.iter().map(|load| load.abs_diff(mean).saturating_pow(2)).fold(0u128, u128::saturating_add) / count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(loads: &[u64]) -> Vec<Item> {
        let item =
            |(queue, &load): (usize, &u64)| Item { port: PortNo(1), queue: queue as u16, load, worker: 0 };
        loads.iter().enumerate().map(item).collect()
    }

    #[test]
    fn each_way_to_spread() {
        let items = items(&[10, 70, 30, 20, 60]);
        assert_eq!(plan(Assign::RoundRobin, &items, &[4, 9]), [4, 9, 4, 9, 4]);
        // 70 | 60 30 | 20 10, to and fro.
        assert_eq!(plan(Assign::Cycles, &items, &[4, 9]), [4, 4, 9, 4, 9]);
        // 70, 60, 30 beside 60, 20 beside 70, 10 beside either.
        assert_eq!(plan(Assign::Group, &items, &[4, 9]), [4, 4, 9, 4, 9]);
        assert_eq!(plan(Assign::Group, &items, &[]), [0; 5]);
    }

    #[test]
    fn improvement_is_of_the_variance() {
        let items = items(&[50, 50]);
        assert_eq!(improvement(&items, &[0, 1], &[0, 1]), 100);
        assert_eq!(improvement(&items, &[0, 0], &[0, 1]), 0);
        assert_eq!(improvement(&items, &[1, 1], &[0, 1]), 0);
        assert_eq!(improvement(&[], &[], &[0, 1]), 0);
    }

    proptest! {
        #[test]
        fn every_queue_has_a_worker_and_no_plan_by_load_is_worse_than_one_for_all(
            loads in prop::collection::vec(0u64..1 << 40, 0..40),
            count in 1u16..9,
        ) {
            let (items, workers) = (items(&loads), (0..count).collect::<Vec<_>>());
            for (_, assign) in Assign::NAMES {
                let planned = plan(assign, &items, &workers);
                prop_assert_eq!(planned.len(), items.len());
                prop_assert!(planned.iter().all(|worker| workers.contains(worker)));
                let counts = |w: &u16| planned.iter().filter(|p| *p == w).count();
                if assign != Assign::Group {
                    let all: Vec<usize> = workers.iter().map(counts).collect();
                    prop_assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 1);
                }
                let one = variance(&items, &vec![0; items.len()], &workers);
                prop_assert!(variance(&items, &planned, &workers) <= one);
            }
        }
    }
}
