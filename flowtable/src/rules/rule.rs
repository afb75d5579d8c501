//! A rule and its counters.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::RuleAction;
use crate::key::FlowMatch;

/// Priority of a rule that does not say one.
pub const DEFAULT_PRIORITY: u16 = 32768;

/// What a rule has seen. Written by one thread, which revalidates megaflows, and read by anyone: plain loads and stores, for each
/// number stands alone, and a locked addition waits for the line of every rule where a pass over a million asks for many at once.
#[derive(Default, Debug)]
pub struct RuleStats {
    packets: AtomicU64,
    bytes: AtomicU64,
    last_used_ms: AtomicU64,
}

impl RuleStats {
    /// Counts `packets` packets of `bytes` bytes together, the latest at `used_ms`. Of two threads that did so at once one might
    /// not be counted.
    pub fn credit(&self, packets: u64, bytes: u64, used_ms: u64) {
        self.packets.store(self.packets().wrapping_add(packets), Relaxed);
        self.bytes.store(self.bytes().wrapping_add(bytes), Relaxed);
        self.last_used_ms.store(self.last_used_ms().max(used_ms), Relaxed);
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// When the latest packet came, in milliseconds of the caller's clock; zero if none did.
    pub fn last_used_ms(&self) -> u64 {
        self.last_used_ms.load(Relaxed)
    }
}

/// A rule. Immutable but for its counters; to change one, add another with the same priority and match.
#[derive(Debug)]
pub struct Rule {
    /// Which numbered table it is in.
    pub table_id: u8,
    /// Higher wins.
    pub priority: u16,
    /// Opaque mark of whoever set the rule.
    pub cookie: u64,
    /// Removed after this many seconds without a packet; zero for never.
    pub idle_timeout_s: u16,
    /// Removed this many seconds after it was added; zero for never.
    pub hard_timeout_s: u16,
    /// When it was added, in milliseconds of the caller's clock.
    pub created_ms: u64,
    /// Which packets it is for; `in_port` is an OpenFlow port number here.
    pub flow_match: FlowMatch,
    /// What happens to them; empty means drop.
    pub actions: Vec<RuleAction>,
    /// What it has seen.
    pub stats: RuleStats,
}

impl Rule {
    /// A rule in table 0 without cookie or timeouts.
    pub fn new(priority: u16, flow_match: FlowMatch, actions: Vec<RuleAction>, created_ms: u64) -> Rule {
        Rule {
            table_id: 0,
            priority,
            cookie: 0,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            created_ms,
            flow_match,
            actions,
            stats: RuleStats::default(),
        }
    }

    /// Whether it has a timeout.
    pub fn is_mortal(&self) -> bool {
        self.idle_timeout_s != 0 || self.hard_timeout_s != 0
    }

    /// Whether one of its timeouts has passed at `now_ms`.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        let passed = |since_ms: u64, timeout_s: u16| {
            timeout_s != 0 && now_ms.saturating_sub(since_ms) >= u64::from(timeout_s) * 1000
        };
        passed(self.created_ms, self.hard_timeout_s)
            || passed(self.stats.last_used_ms().max(self.created_ms), self.idle_timeout_s)
    }
}

/// Equal in what they say; counters and age do not matter.
impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.table_id == other.table_id
            && self.priority == other.priority
            && self.cookie == other.cookie
            && self.idle_timeout_s == other.idle_timeout_s
            && self.hard_timeout_s == other.hard_timeout_s
            && self.flow_match == other.flow_match
            && self.actions == other.actions
    }
}

impl Eq for Rule {}
