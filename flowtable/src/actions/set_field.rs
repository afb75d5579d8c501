//! A change of one header field.

use crate::key::{Field, FlowKey};

/// "Make the bits `mask` of `field` those of `value`."
///
/// Values are numbers as [`Field::get`] gives them. The same type serves rules and the datapath.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SetField {
    /// What to change.
    pub field: Field,
    /// The new bits; zero wherever `mask` is.
    pub value: u128,
    /// Which bits to change.
    pub mask: u128,
}

impl SetField {
    /// Sets the whole field.
    pub fn exact(field: Field, value: u128) -> SetField {
        SetField::masked(field, value, field.ones())
    }

    /// Sets the bits `mask`.
    pub fn masked(field: Field, value: u128, mask: u128) -> SetField {
        let mask = mask & field.ones();
        SetField { field, value: value & mask, mask }
    }

    /// Whether every bit of the field is set.
    pub fn is_exact(&self) -> bool {
        self.mask == self.field.ones()
    }

    /// The new value of a field that is now `old`.
    pub fn apply_to(&self, old: u128) -> u128 {
        (old & !self.mask) | self.value
    }

    /// Makes the change in a key, as the slow path does to learn what later steps will see.
    pub fn apply_to_key(&self, key: &mut FlowKey) {
        let old = self.field.get(key);
        self.field.set(key, self.apply_to(old));
    }
}
