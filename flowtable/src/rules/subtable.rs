//! The rules of one mask, as hash tables that are asked stage by stage.
//!
//! The words a mask touches are put in the order metadata, L2, L3, L4. For each stage but the last there is a set
//! of what the rules want up to that stage. A packet that is not in the set of a stage needs no further stage,
//! and its megaflow need not match on them: a packet from another port does not pay for the TCP ports in a rule.

use std::{collections::BTreeMap, sync::Arc};

use zerocopy::big_endian::U16;

use super::{
    Rule,
    prefix_index::{PREFIX_FIELDS, PrefixIndex},
};
use crate::key::{Field, FlowKey, FlowMask, FlowMatch, KEY_WORDS};
use crate::seeded::SeededMap;

/// What is looked at together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Metadata,
    L2,
    L3,
    L4,
}

/// Fields of the link layer.
const L2: FlowMask = FlowMask {
    fields: FlowKey {
        eth_dst: [0xff; 6],
        eth_src: [0xff; 6],
        eth_type: U16::MAX_VALUE,
        vlan_tci: U16::MAX_VALUE,
        vlan2_tci: U16::MAX_VALUE,
        ..FlowMask::WILDCARD.fields
    },
};

/// Fields of the transport.
const L4: FlowMask = FlowMask {
    fields: FlowKey {
        tp_src: U16::MAX_VALUE,
        tp_dst: U16::MAX_VALUE,
        tcp_flags: U16::MAX_VALUE,
        ..FlowMask::WILDCARD.fields
    },
};

/// Parts the words of a key fall into by stage, at most: two words hold fields of two and of three stages.
const PARTS: usize = KEY_WORDS + 3;

impl Stage {
    /// The bits of a key word that belong to each stage; flow_key.rs fixes the layout.
    fn split(index: usize, bits: u64) -> impl Iterator<Item = (Stage, u64)> {
        let (l2, l4) = (L2.words()[index], L4.words()[index]);
        let rest = if (8..16).contains(&index) { Stage::Metadata } else { Stage::L3 };
        let parts = [(Stage::L2, bits & l2), (rest, bits & !l2 & !l4), (Stage::L4, bits & l4)];
        parts.into_iter().filter(|(_, bits)| *bits != 0)
    }

    fn of_field(field: Field) -> Stage {
        if matches!(field, Field::TcpSrc | Field::TcpDst) { Stage::L4 } else { Stage::L3 }
    }
}

/// The words up to the end of a stage.
#[derive(Debug)]
struct StageEnd {
    stage: Stage,
    /// Number of words.
    words: usize,
    /// What rules want in these words, with the number of rules. Empty for the last stage, where the rules are.
    wanted: SeededMap<Box<[u64]>, usize>,
}

/// The rules of one mask.
#[derive(Debug)]
pub(super) struct Subtable {
    mask: FlowMask,
    /// Indexes and masks of the words the mask touches, in the order of the stages. A word with fields of several stages is there once for each.
    words: Vec<(usize, u64)>,
    stages: Vec<StageEnd>,
    prefixes: Vec<PrefixIndex>,
    /// Rules by what they want in all words; of one match, highest priority first.
    rules: SeededMap<Box<[u64]>, Vec<Arc<Rule>>>,
    /// Number of rules of each priority.
    priorities: BTreeMap<u16, usize>,
}

/// The masked words of a key; only the first ones of a subtable's number are used.
type MaskedWords = [u64; PARTS];

impl Subtable {
    pub(super) fn new(mask: &FlowMask) -> Subtable {
        let split = |(index, bits): (usize, &u64)| {
            Stage::split(index, *bits).map(move |(stage, bits)| (stage, index, bits))
        };
        let mut parts: Vec<(Stage, usize, u64)> = mask.words().iter().enumerate().flat_map(split).collect();
        parts.sort();
        let mut stages: Vec<StageEnd> = Vec::new();
        for (at, (stage, ..)) in parts.iter().enumerate() {
            match stages.last_mut() {
                Some(last) if last.stage == *stage => last.words = at + 1,
                _ => stages.push(StageEnd { stage: *stage, words: at + 1, wanted: SeededMap::default() }),
            }
        }
        let words = parts.into_iter().map(|(_, index, bits)| (index, bits)).collect();
        let prefixes = PREFIX_FIELDS.iter().filter_map(|field| PrefixIndex::new(*field, mask)).collect();
        Subtable {
            mask: *mask,
            words,
            stages,
            prefixes,
            rules: SeededMap::default(),
            priorities: BTreeMap::new(),
        }
    }

    pub(super) fn mask(&self) -> &FlowMask {
        &self.mask
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Priority of its most important rule.
    pub(super) fn max_priority(&self) -> u16 {
        self.priorities.last_key_value().map_or(0, |(priority, _)| *priority)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values().flatten()
    }

    fn masked(&self, key: &FlowKey) -> MaskedWords {
        let mut masked = [0; PARTS];
        for (to, (index, bits)) in masked.iter_mut().zip(&self.words) {
            *to = key.words()[*index] & bits;
        }
        masked
    }

    /// Adds a rule of this mask; returns the one of the same priority and match that it replaces.
    pub(super) fn add(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let key = *rule.flow_match.key();
        let masked = self.masked(&key);
        let all = &masked[..self.words.len()];
        let same = self.rules.entry(all.into()).or_default();
        if let Some(old) = same.iter_mut().find(|old| old.priority == rule.priority) {
            return Some(std::mem::replace(old, rule));
        }
        *self.priorities.entry(rule.priority).or_insert(0) += 1;
        let at = same.partition_point(|old| old.priority > rule.priority);
        same.insert(at, rule);
        for stage in self.inner_stages() {
            *stage.wanted.entry(masked[..stage.words].into()).or_insert(0) += 1;
        }
        for index in &mut self.prefixes {
            index.add(&key);
        }
        None
    }

    /// Takes a rule out.
    pub(super) fn remove(&mut self, flow_match: &FlowMatch, priority: u16) -> Option<Arc<Rule>> {
        let masked = self.masked(flow_match.key());
        let all = &masked[..self.words.len()];
        let same = self.rules.get_mut(all)?;
        let at = same.iter().position(|rule| rule.priority == priority)?;
        let rule = same.remove(at);
        if same.is_empty() {
            self.rules.remove(all);
        }
        if let Some(count) = self.priorities.get_mut(&priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&priority);
            }
        }
        for stage in self.inner_stages() {
            let words = &masked[..stage.words];
            if let Some(count) = stage.wanted.get_mut(words) {
                *count -= 1;
                if *count == 0 {
                    stage.wanted.remove(words);
                }
            }
        }
        for index in &mut self.prefixes {
            index.remove(flow_match.key());
        }
        Some(rule)
    }

    /// All stages but the last.
    fn inner_stages(&mut self) -> impl Iterator<Item = &mut StageEnd> {
        let inner = self.stages.len().saturating_sub(1);
        self.stages.iter_mut().take(inner)
    }

    /// The most important rule `key` matches. Adds to `wildcards` what decided.
    pub(super) fn lookup(&self, key: &FlowKey, wildcards: &mut FlowMask) -> Option<&Arc<Rule>> {
        let masked = self.masked(key);
        // Every check made is paid for, passed or not, even where the last one alone excludes all rules: it was
        // made because of those before it, and another packet of the megaflow must take the same way.
        let mut passed_words = 0;
        for (at, stage) in self.stages.iter().enumerate() {
            for index in self.prefixes.iter().filter(|index| Stage::of_field(index.field()) == stage.stage) {
                let refuted = index.refutes(key);
                wildcards.add_bits(index.field(), refuted.unwrap_or_else(|| index.mask()));
                if refuted.is_some() {
                    self.look_at(passed_words, wildcards);
                    return None;
                }
            }
            let last = at + 1 == self.stages.len();
            if !last && !stage.wanted.contains_key(&masked[..stage.words]) {
                self.look_at(stage.words, wildcards);
                return None;
            }
            passed_words = stage.words;
        }
        self.look_at(self.words.len(), wildcards);
        self.rules.get(&masked[..self.words.len()])?.first()
    }

    /// Makes the first `words` words count.
    fn look_at(&self, words: usize, wildcards: &mut FlowMask) {
        for (index, bits) in self.words.iter().take(words) {
            wildcards.words_mut()[*index] |= bits;
        }
    }
}
