//! The difference of two values, as `update2` and the file format's `_is_diff` records carry it.
//!
//! For a column of at most one element the difference is the new value. Otherwise it holds what went and
//! what came (both sides of a set), or for maps also the new value of a changed key; applying it toggles.

use super::Datum;
use crate::schema::ColumnType;

/// What turns `old` into `new` under [`apply_difference`].
pub(crate) fn difference(old: &Datum, new: &Datum, column: &ColumnType) -> Datum {
    if column.max <= 1 {
        return new.clone();
    }
    let gone = old.elements().filter(|(key, _)| !new.contains(key));
    let came = new.elements().filter(|(key, value)| !old.has_element(key, *value));
    Datum::from_elements(gone.chain(came).map(|(k, v)| (k.clone(), v.cloned())))
}

/// Applies a difference made by [`difference`] or by `ovsdb-server`.
pub(crate) fn apply_difference(base: &Datum, change: &Datum, column: &ColumnType) -> Datum {
    if column.max <= 1 {
        return change.clone();
    }
    let kept = base.elements().filter(|(key, _)| !change.contains(key));
    let came = change.elements().filter(|(key, value)| !base.has_element(key, *value));
    Datum::from_elements(kept.chain(came).map(|(k, v)| (k.clone(), v.cloned())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::BaseType;
    use crate::value::AtomType;

    fn any_map() -> impl Strategy<Value = Datum> {
        proptest::collection::vec((0i64..6, 0i64..3), 0..6).prop_map(Datum::map)
    }

    fn any_set() -> impl Strategy<Value = Datum> {
        proptest::collection::vec(0i64..6, 0..6).prop_map(Datum::set)
    }

    fn unlimited(value: Option<AtomType>) -> ColumnType {
        ColumnType {
            key: BaseType::of(AtomType::Integer),
            value: value.map(BaseType::of),
            min: 0,
            max: ColumnType::UNLIMITED,
        }
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_new_map(old in any_map(), new in any_map()) {
            let column = unlimited(Some(AtomType::Integer));
            prop_assert_eq!(apply_difference(&old, &difference(&old, &new, &column), &column), new);
        }

        #[test]
        fn applying_the_difference_gives_the_new_set(old in any_set(), new in any_set()) {
            let column = unlimited(None);
            prop_assert_eq!(apply_difference(&old, &difference(&old, &new, &column), &column), new);
        }
    }
}
