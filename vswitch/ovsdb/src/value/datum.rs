//! Column values: a sorted set of atoms, or a sorted map of atom pairs.
//!
//! A scalar is a set of one, an absent optional the empty set (RFC 7047 section 3.2). Sorted vectors make
//! equality a comparison and membership a binary search, and cost nothing when empty, which most columns are.

use serde_json::{Value, json};

use super::Atom;
use crate::schema::ColumnType;

/// The value of one column of one row. Invariant: `keys` is strictly ascending, and `values` is either
/// empty (a set) or as long as `keys` (a map). An empty set and an empty map are the same value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datum {
    keys: Vec<Atom>,
    values: Vec<Atom>,
}

impl Datum {
    /// The value with no elements, as a constant.
    pub const EMPTY: Datum = Datum { keys: Vec::new(), values: Vec::new() };

    /// No elements: an absent optional, an empty set or map.
    pub fn empty() -> Datum {
        Datum::default()
    }

    /// Exactly this one atom.
    pub fn scalar(atom: impl Into<Atom>) -> Datum {
        Datum { keys: vec![atom.into()], values: Vec::new() }
    }

    /// One atom or none.
    pub fn optional(atom: Option<impl Into<Atom>>) -> Datum {
        atom.map_or_else(Datum::empty, Datum::scalar)
    }

    /// A set; duplicates fall together.
    pub fn set<A: Into<Atom>>(atoms: impl IntoIterator<Item = A>) -> Datum {
        let mut keys: Vec<Atom> = atoms.into_iter().map(Into::into).collect();
        keys.sort();
        keys.dedup();
        Datum { keys, values: Vec::new() }
    }

    /// A map; of two pairs with one key the later wins.
    pub fn map<K: Into<Atom>, V: Into<Atom>>(pairs: impl IntoIterator<Item = (K, V)>) -> Datum {
        let sorted: std::collections::BTreeMap<Atom, Atom> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let (keys, values) = sorted.into_iter().unzip();
        Datum { keys, values }
    }

    /// Elements in the set, or pairs in the map.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The elements of the set or the keys of the map, ascending.
    pub fn keys(&self) -> &[Atom] {
        &self.keys
    }

    /// The values of the map in the order of [`Datum::keys`]; empty for a set.
    pub fn values(&self) -> &[Atom] {
        &self.values
    }

    /// The pairs of the map, ascending by key.
    pub fn pairs(&self) -> impl Iterator<Item = (&Atom, &Atom)> {
        self.keys.iter().zip(&self.values)
    }

    /// The only element of a scalar or present optional.
    pub fn single(&self) -> Option<&Atom> {
        if let [atom] = self.keys.as_slice() { Some(atom) } else { None }
    }

    /// Whether the set has this element or the map this key.
    pub fn contains(&self, key: &Atom) -> bool {
        self.keys.binary_search(key).is_ok()
    }

    /// The map's value under this key.
    pub fn get(&self, key: &Atom) -> Option<&Atom> {
        self.keys.binary_search(key).ok().and_then(|at| self.values.get(at))
    }

    /// Whether the element (set) or the pair (map) is in `self`.
    pub(crate) fn has_element(&self, key: &Atom, value: Option<&Atom>) -> bool {
        match value {
            Some(value) => self.get(key) == Some(value),
            None => self.contains(key),
        }
    }

    /// Elements with their values where there are any: the one walk that serves sets and maps.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (&Atom, Option<&Atom>)> {
        self.keys.iter().enumerate().map(|(at, key)| (key, self.values.get(at)))
    }

    /// Rebuilds a datum from such a walk.
    pub(crate) fn from_elements(elements: impl IntoIterator<Item = (Atom, Option<Atom>)>) -> Datum {
        let sorted: std::collections::BTreeMap<Atom, Option<Atom>> = elements.into_iter().collect();
        let mut datum = Datum::empty();
        for (key, value) in sorted {
            datum.keys.push(key);
            datum.values.extend(value);
        }
        datum
    }

    /// The `<value>` of RFC 7047 section 5.1 for a column of this type.
    pub fn to_json(&self, column: &ColumnType) -> Value {
        if column.value.is_some() {
            let pairs: Vec<Value> = self.pairs().map(|(k, v)| json!([k.to_json(), v.to_json()])).collect();
            return json!(["map", pairs]);
        }
        match self.single() {
            Some(atom) => atom.to_json(),
            None => json!(["set", self.keys.iter().map(Atom::to_json).collect::<Vec<_>>()]),
        }
    }
}

impl<A: Into<Atom>> From<A> for Datum {
    fn from(atom: A) -> Self {
        Datum::scalar(atom)
    }
}
