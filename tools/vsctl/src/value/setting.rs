//! The argument form `COLUMN[:KEY][OP VALUE]` that database commands and the tail of `add-port` share.

use super::{Atom, ColumnType, Datum, parse_token};
use crate::error::{Error, usage};

/// How a column is compared with a value in `find` and `wait-until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    /// `=`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `>`
    Gt,
    /// `<=`
    Le,
    /// `>=`
    Ge,
    /// `{=}`: equal as sets; a missing key counts as the empty set.
    SetEq,
    /// `{!=}`
    SetNe,
    /// `{<}`: proper subset of the value.
    SetLt,
    /// `{>}`: proper superset of the value.
    SetGt,
    /// `{<=}` or `{in}`: subset of the value.
    SetLe,
    /// `{>=}`: superset of the value.
    SetGe,
    /// `{not-in}`: nothing in common with the value.
    SetDisjoint,
}

/// Longest first where one is a prefix of another.
const OPERATORS: &[(&str, Operator)] = &[
    ("{<=}", Operator::SetLe),
    ("{>=}", Operator::SetGe),
    ("{!=}", Operator::SetNe),
    ("{=}", Operator::SetEq),
    ("{<}", Operator::SetLt),
    ("{>}", Operator::SetGt),
    ("{in}", Operator::SetLe),
    ("{not-in}", Operator::SetDisjoint),
    ("<=", Operator::Le),
    (">=", Operator::Ge),
    ("!=", Operator::Ne),
    ("=", Operator::Eq),
    ("<", Operator::Lt),
    (">", Operator::Gt),
];

impl Operator {
    /// Whether a missing key is compared as the empty set instead of failing.
    pub(crate) fn is_set(self) -> bool {
        !matches!(self, Self::Eq | Self::Ne | Self::Lt | Self::Gt | Self::Le | Self::Ge)
    }

    /// Compares a column with a value of the same type. The order relations hold for scalars that are
    /// present only: anything else has no order.
    pub(crate) fn holds(self, column: &Datum, value: &Datum) -> bool {
        let ordered = || column.as_scalar().zip(value.as_scalar()).map(|(a, b)| a.cmp(b));
        match self {
            Self::Eq | Self::SetEq => column == value,
            Self::Ne | Self::SetNe => column != value,
            Self::Lt => ordered().is_some_and(std::cmp::Ordering::is_lt),
            Self::Gt => ordered().is_some_and(std::cmp::Ordering::is_gt),
            Self::Le => ordered().is_some_and(std::cmp::Ordering::is_le),
            Self::Ge => ordered().is_some_and(std::cmp::Ordering::is_ge),
            Self::SetLt => column != value && column.is_subset(value),
            Self::SetGt => column != value && value.is_subset(column),
            Self::SetLe => column.is_subset(value),
            Self::SetGe => value.is_subset(column),
            Self::SetDisjoint => column.is_disjoint(value),
        }
    }
}

/// A parsed `COLUMN[:KEY][OP VALUE]`. The value is still text: its type is known once the column is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<'a> {
    /// The column as written, possibly abbreviated.
    pub(crate) column: String,
    /// The key of a map column, without quotes.
    pub(crate) key: Option<String>,
    /// Operator and value.
    pub(crate) comparison: Option<(Operator, &'a str)>,
}

impl<'a> Setting<'a> {
    /// Splits an argument.
    ///
    /// # Errors
    /// When there is no column name, no operator where one belongs, or no value behind it.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Error> {
        let (column, mut rest) = parse_token(text)?;
        let mut key = None;
        if let Some(after) = rest.strip_prefix(':') {
            let (token, after) = parse_token(after)?;
            key = Some(token);
            rest = after;
        }
        if rest.is_empty() {
            return Ok(Self { column, key, comparison: None });
        }
        let found = OPERATORS.iter().find_map(|(sign, op)| rest.strip_prefix(sign).map(|value| (*op, value)));
        match found {
            None => Err(usage!("{text}: \"{rest}\" where an operator such as = belongs")),
            Some((_, "")) => {
                Err(usage!("{text}: the value is missing (an empty one is written as '\"\"' or '[]')"))
            }
            comparison => Ok(Self { column, key, comparison }),
        }
    }

    /// The value of `COLUMN[:KEY]=VALUE`.
    ///
    /// # Errors
    /// When the argument has no value or another operator.
    pub(crate) fn assigned(&self) -> Result<&'a str, Error> {
        match self.comparison {
            Some((Operator::Eq, value)) => Ok(value),
            _ => Err(usage!("{}: expected COLUMN[:KEY]=VALUE", self.column)),
        }
    }

    /// The key as an atom of the column's key type.
    ///
    /// # Errors
    /// When the column is not a map, or the key is not of its type.
    pub(crate) fn key_atom(&self, kind: &ColumnType) -> Result<Option<Atom>, Error> {
        let Some(key) = &self.key else { return Ok(None) };
        if !kind.is_map() {
            return Err(usage!("cannot use key \"{key}\": column {} is not a map", self.column));
        }
        // The quotes are gone already: a string key is taken as it stands.
        let atom = match kind.key.kind {
            super::AtomKind::String => Atom::string(key),
            _ => super::parse_atom(key, &kind.key)?,
        };
        Ok(Some(atom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(text: &str) -> (String, Option<String>, Option<(Operator, String)>) {
        let s = Setting::parse(text).unwrap();
        (s.column, s.key, s.comparison.map(|(op, v)| (op, v.to_owned())))
    }

    #[test]
    fn columns_keys_operators() {
        assert_eq!(setting("tag"), ("tag".into(), None, None));
        assert_eq!(setting("tag=5"), ("tag".into(), None, Some((Operator::Eq, "5".into()))));
        assert_eq!(
            setting("options:path=/tmp/a=b:c"),
            ("options".into(), Some("path".into()), Some((Operator::Eq, "/tmp/a=b:c".into())))
        );
        assert_eq!(setting("x:\"a:b\"").1, Some("a:b".into()));
        for (sign, op) in OPERATORS {
            assert_eq!(setting(&format!("a{sign}b")).2, Some((*op, "b".into())), "{sign}");
        }
        for bad in ["", "=5", "a:", "a:=5", "a=", "a{~}5", "a b"] {
            assert!(Setting::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn relations() {
        let set = |items: &[i64]| Datum::Set(items.iter().map(|n| Atom::Integer(*n)).collect());
        let (one, two, none) = (set(&[1]), set(&[1, 2]), set(&[]));
        assert!(Operator::Lt.holds(&one, &set(&[2])));
        assert!(!Operator::Lt.holds(&none, &set(&[2])), "an absent value has no order");
        assert!(Operator::SetLt.holds(&one, &two) && !Operator::SetLt.holds(&two, &two));
        assert!(Operator::SetGe.holds(&two, &two) && Operator::SetGt.holds(&two, &none));
        assert!(Operator::SetDisjoint.holds(&set(&[3]), &two) && !Operator::SetDisjoint.holds(&one, &two));
    }
}
