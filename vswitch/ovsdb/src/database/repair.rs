//! Makes any state legal by dropping what offends: for journals written by other programs or schemas.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Snapshot;
use super::integrity::{atoms_of, collect_garbage, prune_weak, replace};
use crate::schema::TableSchema;
use crate::value::{Atom, Datum};
use crate::{OvsdbError, Uuid};

/// Drops rows and references until every commit rule holds. Returns what was dropped, in words.
pub(crate) fn repair(now: &mut Snapshot) -> Vec<String> {
    let mut report = Vec::new();
    let schema = Arc::clone(&now.schema);
    for (table, rows) in schema.tables.iter().zip(&mut now.tables) {
        let before = rows.rows.len();
        drop_duplicates(table, &mut Arc::make_mut(rows).rows);
        let dropped = before - rows.rows.len();
        if dropped > 0 {
            report.push(format!(
                "{dropped} rows of table {} broke an index or the row limit: dropped",
                table.name
            ));
        }
    }
    while let Some((at, uuid, column)) = first_dangling(now) {
        let name = schema.tables.get(at).map_or("", |table| &table.name);
        report.push(format!("row {uuid} of table {name} referred to a missing row: reference dropped"));
        trim(now, at, uuid, column);
    }
    let tidy: Result<(), OvsdbError> = collect_garbage(now).and_then(|()| prune_weak(now));
    report.extend(tidy.err().map(|fault| fault.to_string()));
    report
}

type Rows = std::collections::BTreeMap<Uuid, Arc<super::Row>>;

fn drop_duplicates(table: &TableSchema, rows: &mut Rows) {
    let mut seen: BTreeSet<(usize, Vec<Datum>)> = BTreeSet::new();
    let mut kept = 0u64;
    rows.retain(|_, row| {
        let key = |index: &Vec<usize>| index.iter().filter_map(|&at| row.columns.get(at).cloned()).collect();
        let keys: Vec<(usize, Vec<Datum>)> = table.indexes.iter().map(key).enumerate().collect();
        if kept >= table.max_rows || keys.iter().any(|key| seen.contains(key)) {
            return false;
        }
        kept += 1;
        seen.extend(keys);
        true
    });
}

fn first_dangling(now: &Snapshot) -> Option<(usize, Uuid, usize)> {
    for (at, (table, rows)) in now.schema.tables.iter().zip(&now.tables).enumerate() {
        for (uuid, row) in &rows.rows {
            let broken = |r: &&_| atoms_of(row, r).any(|(target, id)| !now.has_row(target, id));
            if let Some(reference) = table.strong.iter().find(broken) {
                return Some((at, *uuid, reference.column));
            }
        }
    }
    None
}

/// Removes the dangling elements of a column, or the whole row when too few would be left.
fn trim(now: &mut Snapshot, at: usize, uuid: Uuid, column: usize) {
    let schema = Arc::clone(&now.schema);
    let kept = schema.tables.get(at).and_then(|table| {
        let reference = table.strong.iter().find(|r| r.column == column)?;
        let datum = now.row(at, uuid)?.columns.get(column)?;
        let exists = |target: Option<usize>, atom: Option<&Atom>| match (target, atom) {
            (Some(target), Some(Atom::Uuid(id))) => now.has_row(target, *id),
            _ => true,
        };
        let kept =
            datum.elements().filter(|(k, v)| exists(reference.key, Some(k)) && exists(reference.value, *v));
        let kept = Datum::from_elements(kept.map(|(k, v)| (k.clone(), v.cloned())));
        table.columns.get(column)?.kind.check_count(kept.len()).ok().map(|()| kept)
    });
    if let Some(kept) = kept {
        replace(now, at, uuid, column, kept);
    } else if let Some(rows) = now.tables.get_mut(at) {
        Arc::make_mut(rows).rows.remove(&uuid);
    }
}
