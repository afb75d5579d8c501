//! A match: which bits count, and what they must be.
//!
//! Invariant: a key bit is zero wherever the mask is zero, so equal matches have equal words and a match can
//! be compared and hashed as it stands.

use core::{
    fmt,
    hash::{Hash, Hasher},
};

use super::{FIELDS, Field, FlowKey, FlowMask, KEY_WORDS};

/// A set of packets: all whose key agrees with [`FlowMatch::key`] in the bits of [`FlowMatch::mask`].
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowMatch {
    key: FlowKey,
    mask: FlowMask,
}

impl FlowMatch {
    /// The match on the bits `mask` of `key`; key bits outside the mask are dropped.
    pub fn new(mut key: FlowKey, mask: FlowMask) -> FlowMatch {
        for (word, bits) in key.words_mut().iter_mut().zip(mask.words()) {
            *word &= bits;
        }
        FlowMatch { key, mask }
    }

    /// The match every packet meets.
    pub fn any() -> FlowMatch {
        FlowMatch::default()
    }

    /// The wanted bits.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The bits that count.
    pub fn mask(&self) -> &FlowMask {
        &self.mask
    }

    /// Whether a packet with `key` is in the set.
    pub fn matches(&self, key: &FlowKey) -> bool {
        (0..KEY_WORDS).all(|i| (key.words()[i] ^ self.key.words()[i]) & self.mask.words()[i] == 0)
    }

    /// Whether every packet of this match also meets `other`.
    pub fn is_within(&self, other: &FlowMatch) -> bool {
        let (mine, theirs) = (self.mask.words(), other.mask.words());
        (0..KEY_WORDS).all(|i| mine[i] & theirs[i] == theirs[i]) && other.matches(&self.key)
    }

    /// The field's wanted value.
    pub fn value(&self, field: Field) -> u128 {
        field.get(&self.key)
    }

    /// The field's mask.
    pub fn bits(&self, field: Field) -> u128 {
        field.get_mask(&self.mask)
    }

    /// The field's value when all its bits count.
    pub fn exact(&self, field: Field) -> Option<u128> {
        (self.bits(field) == field.ones()).then(|| self.value(field))
    }

    /// Wants `field` to be `value`.
    pub fn set(&mut self, field: Field, value: u128) {
        self.set_masked(field, value, field.ones());
    }

    /// Wants the bits `bits` of `field` to be those of `value`.
    pub fn set_masked(&mut self, field: Field, value: u128, bits: u128) {
        field.set_mask(&mut self.mask, bits);
        field.set(&mut self.key, value & bits);
    }
}

impl Hash for FlowMatch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.words().hash(state);
        self.mask.words().hash(state);
    }
}

impl fmt::Debug for FlowMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for spec in FIELDS.iter().filter(|spec| self.bits(spec.field) != 0) {
            let (value, bits) = (self.value(spec.field), self.bits(spec.field));
            map.entry(&spec.field, &format_args!("{value:#x}/{bits:#x}"));
        }
        map.finish()
    }
}
