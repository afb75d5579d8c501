//! The content of one column: a set of atoms or a map between atoms.

use std::collections::{BTreeMap, BTreeSet};

use super::{Atom, RowRef};

/// The content of one column of one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Datum {
    /// A scalar, an optional scalar or a set.
    Set(BTreeSet<Atom>),
    /// A map.
    Map(BTreeMap<Atom, Atom>),
}

impl Datum {
    /// A set of exactly one atom, which is how OVSDB sees a scalar.
    pub(crate) fn scalar(atom: Atom) -> Self {
        Self::Set(BTreeSet::from([atom]))
    }

    /// A scalar string.
    pub(crate) fn string(text: impl Into<String>) -> Self {
        Self::scalar(Atom::string(text))
    }

    /// A set of row references.
    pub(crate) fn rows(refs: impl IntoIterator<Item = RowRef>) -> Self {
        Self::Set(refs.into_iter().map(Atom::Row).collect())
    }

    /// Number of atoms or key-value pairs.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Set(set) => set.len(),
            Self::Map(map) => map.len(),
        }
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The atoms of a set, or the keys of a map.
    pub(crate) fn keys(&self) -> Box<dyn Iterator<Item = &Atom> + '_> {
        match self {
            Self::Set(set) => Box::new(set.iter()),
            Self::Map(map) => Box::new(map.keys()),
        }
    }

    /// All atoms: those of a set, or the keys and values of a map.
    pub(crate) fn atoms(&self) -> Box<dyn Iterator<Item = &Atom> + '_> {
        match self {
            Self::Set(set) => Box::new(set.iter()),
            Self::Map(map) => Box::new(map.iter().flat_map(|(key, value)| [key, value])),
        }
    }

    /// The one atom of a set that holds exactly one.
    pub(crate) fn as_scalar(&self) -> Option<&Atom> {
        match self {
            Self::Set(set) if set.len() == 1 => set.first(),
            _ => None,
        }
    }

    /// The text of a scalar string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        self.as_scalar().and_then(Atom::as_str)
    }

    /// The value under `key` of a map.
    pub(crate) fn lookup(&self, key: &Atom) -> Option<&Atom> {
        match self {
            Self::Map(map) => map.get(key),
            Self::Set(_) => None,
        }
    }

    /// Whether every atom (or pair) of `self` is in `other`.
    pub(crate) fn is_subset(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Set(a), Self::Set(b)) => a.is_subset(b),
            (Self::Map(a), Self::Map(b)) => a.iter().all(|(key, value)| b.get(key) == Some(value)),
            _ => self.is_empty(),
        }
    }

    /// Whether `self` and `other` have no atom (or pair) in common.
    pub(crate) fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Set(a), Self::Set(b)) => a.is_disjoint(b),
            (Self::Map(a), Self::Map(b)) => a.iter().all(|(key, value)| b.get(key) != Some(value)),
            _ => true,
        }
    }
}
