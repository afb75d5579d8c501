//! The rules every commit must meet: references, garbage, row counts, indexes (RFC 7047 sections 3.2, 4.1.3).
//!
//! Liveness is reachability: rows of root tables are the roots, strong references the edges, and what no
//! root reaches goes. That collects cycles too, which counting references would not. Only commits that
//! insert, delete or change a reference pay for the walk; a statistics update does not.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::{Row, Snapshot, Table, changes};
use crate::schema::{ReferenceColumn, TableSchema};
use crate::value::{Atom, Datum};
use crate::{ErrorKind, OvsdbError, Uuid};

/// Makes `now` a legal successor of `base`, or says why it cannot be one.
pub(crate) fn settle(base: &Snapshot, now: &mut Snapshot) -> Result<(), OvsdbError> {
    let schema = Arc::clone(&now.schema);
    let mut structural = false;
    for ((old, new), table) in base.tables.iter().zip(&now.tables).zip(&schema.tables) {
        structural |= changes(old, new).iter().any(|change| match (change.old, change.new) {
            (Some(old), Some(new)) => table
                .strong
                .iter()
                .chain(&table.weak)
                .any(|r| old.columns.get(r.column) != new.columns.get(r.column)),
            _ => true,
        });
    }
    if structural {
        collect_garbage(now)?;
        prune_weak(now)?;
    }
    for ((old, new), table) in base.tables.iter().zip(&now.tables).zip(&schema.tables) {
        if Arc::ptr_eq(old, new) {
            continue;
        }
        check_row_count(table, new)?;
        check_indexes(table, new)?;
    }
    Ok(())
}

pub(super) fn atoms_of<'a>(
    row: &'a Row,
    reference: &ReferenceColumn,
) -> impl Iterator<Item = (usize, Uuid)> + 'a {
    let datum = row.columns.get(reference.column);
    let side = |target: Option<usize>, atoms: Option<&'a [Atom]>| {
        let atoms = atoms.filter(|_| target.is_some()).unwrap_or_default();
        atoms.iter().filter_map(move |atom| Some((target?, atom.as_uuid()?)))
    };
    side(reference.key, datum.map(Datum::keys)).chain(side(reference.value, datum.map(Datum::values)))
}

/// Deletes rows no root reaches; a strong reference from a live row to nothing is an error.
pub(super) fn collect_garbage(now: &mut Snapshot) -> Result<(), OvsdbError> {
    let schema = Arc::clone(&now.schema);
    let mut alive: Vec<HashSet<Uuid>> = vec![HashSet::new(); now.tables.len()];
    let mut todo: Vec<(usize, Uuid)> = Vec::new();
    for (at, (table, rows)) in schema.tables.iter().zip(&now.tables).enumerate() {
        if table.is_root {
            todo.extend(rows.rows.keys().map(|uuid| (at, *uuid)));
        }
    }
    while let Some((at, uuid)) = todo.pop() {
        let (Some(table), Some(row)) = (schema.tables.get(at), now.row(at, uuid)) else { continue };
        if !alive.get_mut(at).is_some_and(|set| set.insert(uuid)) {
            continue;
        }
        for reference in &table.strong {
            for (target, referred) in atoms_of(row, reference) {
                if !now.has_row(target, referred) {
                    return Err(dangling(now, table, uuid, reference, target, referred));
                }
                todo.push((target, referred));
            }
        }
    }
    for ((table, rows), alive) in schema.tables.iter().zip(&mut now.tables).zip(&alive) {
        if !table.is_root && rows.rows.len() != alive.len() {
            Arc::make_mut(rows).rows.retain(|uuid, _| alive.contains(uuid));
        }
    }
    Ok(())
}

fn dangling(
    now: &Snapshot,
    table: &TableSchema,
    row: Uuid,
    reference: &ReferenceColumn,
    target: usize,
    referred: Uuid,
) -> OvsdbError {
    let column = table.columns.get(reference.column).map_or("", |c| &c.name);
    let target = now.schema.tables.get(target).map_or("", |t| &t.name);
    OvsdbError::new(
        ErrorKind::ReferentialIntegrityViolation,
        format!(
            "{}.{column} of row {row} refers to row {referred} of table {target}, which does not exist; \
             insert that row or remove the reference in the same transaction",
            table.name
        ),
    )
}

/// Removes weak references to rows that are gone.
pub(super) fn prune_weak(now: &mut Snapshot) -> Result<(), OvsdbError> {
    let schema = Arc::clone(&now.schema);
    for (at, table) in schema.tables.iter().enumerate() {
        for reference in &table.weak {
            let Some(column) = table.columns.get(reference.column) else { continue };
            let stale: Vec<Uuid> = now
                .tables
                .get(at)
                .into_iter()
                .flat_map(|rows| &rows.rows)
                .filter(|(_, row)| atoms_of(row, reference).any(|(target, id)| !now.has_row(target, id)))
                .map(|(uuid, _)| *uuid)
                .collect();
            for uuid in stale {
                let Some(datum) = now.row(at, uuid).and_then(|row| row.columns.get(reference.column)) else {
                    continue;
                };
                let exists = |target: Option<usize>, atom: Option<&Atom>| match (target, atom) {
                    (Some(target), Some(Atom::Uuid(id))) => now.has_row(target, *id),
                    _ => true,
                };
                let kept = datum.elements().filter(|(key, value)| {
                    exists(reference.key, Some(key)) && exists(reference.value, *value)
                });
                let kept = Datum::from_elements(kept.map(|(k, v)| (k.clone(), v.cloned())));
                column.kind.check_count(kept.len()).map_err(|e| {
                    e.at(format!(
                        "{}.{} of row {uuid}, after rows it refers to went",
                        table.name, column.name
                    ))
                })?;
                replace(now, at, uuid, reference.column, kept);
            }
        }
    }
    Ok(())
}

pub(super) fn replace(now: &mut Snapshot, table: usize, uuid: Uuid, column: usize, datum: Datum) {
    if let Some(table) = now.tables.get_mut(table)
        && let Some(row) = Arc::make_mut(table).rows.get_mut(&uuid)
        && let Some(slot) = Arc::make_mut(row).columns.get_mut(column)
    {
        *slot = datum;
    }
}

fn check_row_count(table: &TableSchema, rows: &Table) -> Result<(), OvsdbError> {
    let count = rows.rows.len() as u64;
    if count <= table.max_rows {
        return Ok(());
    }
    Err(OvsdbError::constraint(format!(
        "table {} would have {count} rows but takes at most {}; change the row that is there instead",
        table.name, table.max_rows
    )))
}

fn check_indexes(table: &TableSchema, rows: &Table) -> Result<(), OvsdbError> {
    for index in &table.indexes {
        let mut seen: BTreeSet<Vec<Option<&Datum>>> = BTreeSet::new();
        for row in rows.rows.values() {
            let key: Vec<Option<&Datum>> = index.iter().map(|&at| row.columns.get(at)).collect();
            if !seen.insert(key.clone()) {
                let parts = index.iter().zip(&key).filter_map(|(&at, datum)| {
                    let column = table.columns.get(at)?;
                    Some(format!(
                        "{} = {}",
                        column.name,
                        datum.map(|d| d.to_json(&column.kind)).unwrap_or_default()
                    ))
                });
                return Err(OvsdbError::constraint(format!(
                    "table {} would have two rows with {}; each must be unique, choose another value",
                    table.name,
                    parts.collect::<Vec<_>>().join(", ")
                )));
            }
        }
    }
    Ok(())
}
