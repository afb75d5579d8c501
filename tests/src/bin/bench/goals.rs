//! What each row has to reach (issue 3), and the judgement of what was measured against it.

use crate::contestants::{
    OURS, OURS_FLOODING, OURS_LEARNING, OURS_RULE, OVS, OVS_FLOODING, OVS_LEARNING, OVS_RULE, TESTPMD,
    TESTPMD_IO,
};
use crate::results::Results;
use crate::stats::{Sample, classes, fair, median, paired};
use crate::table::{Better, Table, point_name};

/// A bound on a ratio, or on a value where a goal has no peers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
}

impl Bound {
    /// Whether `value` keeps it.
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// One line of the issue's table.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    /// The row.
    pub(crate) row: &'static str,
    /// The series that has to reach it.
    pub(crate) ours: String,
    /// What it is compared with: the best of these in each round. Empty: the value itself is bounded.
    pub(crate) peers: Vec<String>,
    /// How much.
    pub(crate) bound: Bound,
}

/// What became of a goal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// Median of ours.
    pub(crate) ours: f64,
    /// Unit of the values.
    pub(crate) unit: String,
    /// The peer that was best most often, and the median of the best of each round.
    pub(crate) peer: Option<(String, f64)>,
    /// Median of the ratios paired by round.
    pub(crate) ratio: Option<f64>,
    /// Distance classes of our samples.
    pub(crate) class: String,
    /// Whether the goal is met.
    pub(crate) met: bool,
}

/// Flow counts of the `flows` and `microflows` rows.
pub(crate) const FLOW_COUNTS: [u32; 5] = [1, 1_000, 10_000, 100_000, 1_000_000];
/// Mask counts of the `masks` row.
pub(crate) const MASK_COUNTS: [u32; 3] = [1, 8, 20];

/// From nothing to the first packet, ours and theirs.
const START: [&str; 2] =
    ["vswitchd, exec to first packet TAP to TAP", "OVS, exec to first packet TAP to TAP"];
/// Between two namespaces.
const TCP_PEERS: [&str; 3] = ["Linux bridge, veth pairs", "OVS netdev, TAP ports", "OVS netdev, veth pairs"];

/// All goals. A comparison the issue sets no number for has the one of its outcome: be ahead.
pub(crate) fn all() -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    let goal = |row, ours: &str, peers: &[&str], bound| Goal {
        row,
        ours: ours.to_owned(),
        peers: peers.iter().map(|p| (*p).to_owned()).collect(),
        bound,
    };
    let both = [OVS_RULE, TESTPMD_IO];
    let mut goals = vec![
        goal("loop64", OURS_RULE, &[OVS_RULE], AtLeast(1.6)),
        goal("loop64", OURS_RULE, &[TESTPMD_IO], AtLeast(1.0)),
        goal("loop64", OURS_LEARNING, &[OVS_LEARNING], AtLeast(2.5)),
        goal("loop64", OURS_LEARNING, &[OURS_RULE], AtLeast(0.9)),
        goal("loop64", OURS_FLOODING, &[OVS_FLOODING], AtLeast(2.5)),
        goal("loop64", OURS_FLOODING, &[OURS_RULE], AtLeast(0.9)),
        goal("loop512", OURS_RULE, &both, AtLeast(1.0)),
        goal("loop1518", OURS_RULE, &both, AtLeast(1.5)),
        goal("packed64", OURS_RULE, &[OVS_RULE], AtLeast(1.6)),
        goal("packed64", OURS_RULE, &[TESTPMD_IO], AtLeast(1.0)),
        goal("gso64k", OURS, &[OVS], AtLeast(3.0)),
        goal("gso64k", OURS, &[TESTPMD], AtLeast(1.0)),
        goal("newflows", "vswitchd, new flows", &["OVS-DPDK, new flows"], AtLeast(3.0)),
        goal("newflows", "vswitchd, established flow lost", &[], AtMost(0.0)),
        goal("latency", "vswitchd, p99 at 50 %", &["OVS-DPDK, p99 at 50 %"], AtMost(1.0)),
        goal("wake", "vswitchd, p99", &[], AtMost(100.0)),
        goal("idle", "vswitchd", &[], AtMost(1.0)),
        goal("start", START[0], &[START[1]], AtMost(1.0)),
        goal("ports", OURS, &[OVS], AtMost(1.0)),
        goal("tcp", "vswitchd, TAP ports", &TCP_PEERS, AtLeast(1.0)),
    ];
    let point = |line: &str, x: u32, axis: &str| point_name(line, f64::from(x), axis);
    for count in FLOW_COUNTS {
        let [ours, ovs] = [OURS, OVS].map(|line| point(line, count, "flows"));
        goals.push(goal("flows", &ours, &[&ovs], AtLeast(1.5)));
        goals.push(goal(
            "microflows",
            &point(OURS_RULE, count, "flows"),
            &[&point(OVS_RULE, count, "flows")],
            AtLeast(1.0),
        ));
    }
    let alone = point(OURS, 1, "flows");
    for (count, share) in [(10_000, 0.8), (100_000, 0.6), (1_000_000, 0.4)] {
        goals.push(goal("flows", &point(OURS, count, "flows"), &[&alone], AtLeast(share)));
    }
    for count in MASK_COUNTS {
        let [ours, ovs] = [OURS, OVS].map(|line| point(line, count, "masks"));
        goals.push(goal("masks", &ours, &[&ovs], AtLeast(1.0)));
    }
    let place = |g: &Goal| crate::ROWS.iter().position(|r| r.name == g.row);
    goals.sort_by_key(place);
    goals
}

/// What was measured of a goal; `None` if its series, or all it is compared with, are missing.
pub(crate) fn judge(goal: &Goal, results: &Results) -> Option<Verdict> {
    let mut tables = results.entries.iter().filter(|e| e.row == goal.row).map(|e| &e.table);
    let table = tables.find(|t| !t.samples(&goal.ours).is_empty())?;
    let samples = table.samples(&goal.ours);
    let values: Vec<f64> = samples.iter().map(|s| s.value).collect();
    let (ours, class, unit) = (median(&values), classes(samples), table.unit.clone());
    if goal.peers.is_empty() {
        // Every round has to keep an absolute bound that means "none"; otherwise the median does.
        let judged = if goal.bound == Bound::AtMost(0.0) { crate::stats::largest(&values) } else { ours };
        return Some(Verdict {
            ours: judged,
            unit,
            peer: None,
            ratio: None,
            class,
            met: goal.bound.holds(judged),
        });
    }
    let (name, best) = best_of(table, &goal.peers)?;
    let ratios = fair(&paired(samples, &best));
    if ratios.is_empty() {
        return None;
    }
    let ratio = median(&ratios);
    let theirs: Vec<f64> = best.iter().map(|s| s.value).collect();
    let peer = Some((name, median(&theirs)));
    Some(Verdict { ours, unit, peer, ratio: Some(ratio), class, met: goal.bound.holds(ratio) })
}

/// The best sample of each round among `peers`, and who gave most of them.
fn best_of(table: &Table, peers: &[String]) -> Option<(String, Vec<Sample>)> {
    let mut best: Vec<(usize, Sample)> = Vec::new();
    for (who, peer) in peers.iter().enumerate() {
        for sample in table.samples(peer) {
            match best.iter_mut().find(|(_, b)| b.round == sample.round) {
                None => best.push((who, *sample)),
                Some(held) if better(table.better(), sample.value, held.1.value) => *held = (who, *sample),
                Some(_) => {}
            }
        }
    }
    let wins = |who: usize| best.iter().filter(|(w, _)| *w == who).count();
    let winner = (0..peers.len()).rev().max_by_key(|&who| wins(who)).filter(|&who| wins(who) > 0)?;
    Some((peers.get(winner)?.clone(), best.into_iter().map(|(_, s)| s).collect()))
}

fn better(direction: Better, a: f64, b: f64) -> bool {
    match direction {
        Better::More => a > b,
        Better::Less => a < b,
    }
}

#[cfg(test)]
mod tests {
    use super::{Bound, Goal, Verdict, all, judge};
    use crate::results::{Entry, Results};
    use crate::table::Table;

    fn goal(peers: &[&str], bound: Bound) -> Goal {
        Goal { row: "r", ours: "us".into(), peers: peers.iter().map(|p| (*p).into()).collect(), bound }
    }

    fn results(unit: &str, series: &[(&str, &[f64])]) -> Results {
        let mut table = Table::new("t", unit);
        for (name, samples) in series {
            samples.iter().for_each(|s| table.add(name, *s));
        }
        let entry = Entry { row: "r".into(), date: String::new(), commit: String::new(), table };
        Results { machine: serde_json::Value::Null, entries: vec![entry] }
    }

    fn verdict(unit: &str, series: &[(&str, &[f64])], peers: &[&str], bound: Bound) -> Verdict {
        judge(&goal(peers, bound), &results(unit, series)).unwrap()
    }

    #[test]
    fn the_best_peer_is_chosen_in_each_round() {
        let series: [(&str, &[f64]); 3] =
            [("us", &[6.0, 6.0, 6.0]), ("x", &[2.0, 4.0, 3.0]), ("y", &[3.0, 2.0, 2.0])];
        let v = verdict("Mpps", &series, &["x", "y"], Bound::AtLeast(1.9));
        assert_eq!((v.peer, v.ratio, v.met), (Some(("x".into(), 3.0)), Some(2.0), true));
    }

    #[test]
    fn where_less_is_better_the_best_peer_is_the_smallest() {
        let series: [(&str, &[f64]); 3] = [("us", &[3.0]), ("x", &[2.0]), ("y", &[9.0])];
        let v = verdict("µs", &series, &["x", "y"], Bound::AtMost(1.0));
        assert_eq!((v.ratio, v.met), (Some(1.5), false));
    }

    #[test]
    fn none_lost_means_none_in_any_round() {
        let v = verdict("frames lost", &[("us", &[0.0, 0.0, 7.0])], &[], Bound::AtMost(0.0));
        assert_eq!((v.ours, v.met), (7.0, false));
        let v = verdict("% of a core", &[("us", &[0.1, 0.2, 7.0])], &[], Bound::AtMost(1.0));
        assert!(v.met);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let alone = results("Mpps", &[("us", &[1.0])]);
        assert_eq!(judge(&goal(&["x"], Bound::AtLeast(1.0)), &alone), None);
        let others = results("Mpps", &[("x", &[1.0])]);
        assert_eq!(judge(&goal(&["x"], Bound::AtLeast(1.0)), &others), None);
    }

    #[test]
    fn every_goal_names_a_row_of_the_bench() {
        for goal in all() {
            assert!(crate::ROWS.iter().any(|r| r.name == goal.row), "{}", goal.row);
        }
    }
}
