//! What differs between two snapshots: the one walk behind commits, journal records and monitors.
//!
//! Cost: nothing for tables both share; otherwise one merge over the two row maps, comparing pointers.

use std::sync::Arc;

use super::{Row, Table};
use crate::Uuid;

/// One row that differs. At least one side is there.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) uuid: Uuid,
    pub(crate) old: Option<&'a Arc<Row>>,
    pub(crate) new: Option<&'a Arc<Row>>,
}

/// The rows that differ between two states of one table, ascending by UUID.
pub(crate) fn changes<'a>(old: &'a Arc<Table>, new: &'a Arc<Table>) -> Vec<Change<'a>> {
    let mut found = Vec::new();
    if Arc::ptr_eq(old, new) {
        return found;
    }
    let (mut before, mut after) = (old.rows.iter().peekable(), new.rows.iter().peekable());
    loop {
        let (uuid, old, new) = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(&(a, row)), None) => (*a, Some(row), None),
            (None, Some(&(b, row))) => (*b, None, Some(row)),
            (Some(&(a, old)), Some(&(b, new))) => match a.cmp(b) {
                std::cmp::Ordering::Less => (*a, Some(old), None),
                std::cmp::Ordering::Greater => (*b, None, Some(new)),
                std::cmp::Ordering::Equal => (*a, Some(old), Some(new)),
            },
        };
        if old.is_some() {
            before.next();
        }
        if new.is_some() {
            after.next();
        }
        let same = matches!((old, new), (Some(old), Some(new)) if Arc::ptr_eq(old, new));
        if !same {
            found.push(Change { uuid, old, new });
        }
    }
}
