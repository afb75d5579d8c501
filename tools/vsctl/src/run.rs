//! One run of a chain of commands: fetch, plan, commit, report, wait until the change is live.
//!
//! ```text
//!        ┌───────────── overtaken by another client, or wait-until not met ─────────────┐
//!        ▼                                                                              │
//!   select tables ──▶ commands on the copy ──▶ transact (guards + changes) ──▶ committed? ──▶ print ──▶ cur_cfg ≥ next_cfg
//! ```

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::{Value, json};

use crate::commands::Columns;
use crate::connection::{Database, ROOT};
use crate::error::{Error, failed};
use crate::grammar::Call;
use crate::output::{Output, Style, one_line};
use crate::plan::{Outcome, Plan, RowId};
use crate::schema::{Schema, UUID};

/// How to run a chain.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Do not wait for the switch to act on the change.
    pub(crate) no_wait: bool,
    /// Let the server check the transaction and then abort it.
    pub(crate) dry_run: bool,
    /// One line per command.
    pub(crate) oneline: bool,
    /// How tables are printed.
    pub(crate) style: Style,
    /// The command line, for the server's log of changes.
    pub(crate) origin: String,
}

/// Rounds in a row that other clients may win before we give up: livelock is a bug to report, not to wait for.
const MAX_OVERTAKEN: usize = 100;

/// Runs the calls as one transaction and writes what they print.
///
/// # Errors
/// Whatever a command, the server or the switch objects to. Nothing was changed, except with [`Error::Setup`].
pub(crate) fn run_chain(
    db: &mut dyn Database,
    calls: &[Call],
    settings: &Settings,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let schema = Schema::from_json(&db.schema()?)?;
    let tables = needed_tables(calls, &schema)?;
    let mut watching = false;
    for _ in 0..MAX_OVERTAKEN {
        let (plan, outputs) = loop {
            let mut plan = fetch(db, &schema, &tables, calls)?;
            plan.sign(format!("vsctl: {}", settings.origin));
            match run_calls(calls, &mut plan) {
                Ok(outputs) => break (plan, outputs),
                Err(Error::NotYet) if watching => db.changed()?,
                // Watch first, then look again: no change can fall in between.
                Err(Error::NotYet) => {
                    db.watch(&tables, None)?;
                    watching = true;
                }
                Err(error) => return Err(error),
            }
        };
        let Some(committed) = commit(db, &plan, settings)? else { continue };
        for output in &outputs {
            let text = output.render(settings.style, &|row| committed.uuid(row));
            write(out, &if settings.oneline { one_line(&text) } else { text })?;
        }
        return finish(db, &plan, &committed);
    }
    Err(failed!(
        "other clients changed the same rows {MAX_OVERTAKEN} times in a row: try again, or find out what they do"
    ))
}

fn write(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|why| Error::output(&why))
}

fn needed_tables(calls: &[Call], schema: &Schema) -> Result<Vec<String>, Error> {
    // The root row carries next_cfg, so every change needs it.
    let mut tables = BTreeSet::from([ROOT.to_owned()]);
    for call in calls {
        tables.extend((call.verb.tables)(call, schema)?);
    }
    Ok(tables.into_iter().collect())
}

/// Whether the chain may look at `column` of an interface.
fn looks_at(calls: &[Call], column: &str) -> bool {
    let looks = |call: &Call| match call.verb.looks_at {
        Columns::All => true,
        Columns::NamedAnd(other) if other == column => true,
        Columns::Named | Columns::NamedAnd(_) => call.may_name(column),
    };
    [UUID, "name"].contains(&column) || calls.iter().any(looks)
}

fn fetch<'s>(
    db: &mut dyn Database,
    schema: &'s Schema,
    tables: &[String],
    calls: &[Call],
) -> Result<Plan<'s>, Error> {
    let wanted = |table: &str, column: &str| table != "Interface" || looks_at(calls, column);
    let select = |table: &String| {
        let columns = schema.table(table)?.columns.keys();
        let columns: Vec<_> = columns.filter(|column| wanted(table, column)).collect();
        Ok(json!({"op": "select", "table": table, "where": [], "columns": columns}))
    };
    let results = db.transact(&tables.iter().map(select).collect::<Result<Vec<_>, Error>>()?)?;
    let mut plan = Plan::new(schema);
    for (table, result) in tables.iter().zip(&results) {
        let rows = result.get("rows").and_then(Value::as_array);
        plan.load(
            table,
            rows.ok_or_else(|| failed!("cannot read table {table}: the server answered {result}"))?,
        )?;
    }
    Ok(plan)
}

fn run_calls(calls: &[Call], plan: &mut Plan<'_>) -> Result<Vec<Output>, Error> {
    calls.iter().map(|call| (call.verb.run)(call, plan)).collect()
}

/// What the server made of the plan.
#[derive(Debug, Default)]
struct Committed {
    uuids: std::collections::BTreeMap<RowId, String>,
    /// The configuration number to wait for.
    next_cfg: Option<i64>,
}

impl Committed {
    fn uuid(&self, row: RowId) -> Option<String> {
        self.uuids.get(&row).cloned()
    }
}

/// Sends the plan. `None` if another client was faster.
fn commit(db: &mut dyn Database, plan: &Plan<'_>, settings: &Settings) -> Result<Option<Committed>, Error> {
    let batch = plan.operations(!settings.no_wait)?;
    for warning in &batch.warnings {
        eprintln!("vsctl: warning: {warning}");
    }
    if batch.operations.is_empty() {
        return Ok(Some(Committed::default()));
    }
    let mut operations = batch.operations.clone();
    if settings.dry_run {
        operations.push(json!({"op": "abort"}));
    }
    let results = db.transact(&operations)?;
    match batch.outcome(&results, settings.dry_run)? {
        Outcome::Overtaken => Ok(None),
        Outcome::Committed { uuids, next_cfg } => {
            Ok(Some(Committed { uuids, next_cfg: next_cfg.filter(|_| !settings.dry_run) }))
        }
    }
}

/// Waits until the switch runs with the change, then looks whether the interfaces it added came up.
fn finish(db: &mut dyn Database, plan: &Plan<'_>, committed: &Committed) -> Result<(), Error> {
    let Some(next_cfg) = committed.next_cfg else { return Ok(()) };
    db.watch(&[ROOT.to_owned()], Some("cur_cfg"))?;
    let current = json!({"op": "select", "table": ROOT, "where": [], "columns": ["cur_cfg"]});
    loop {
        let results = db.transact(std::slice::from_ref(&current))?;
        let cur_cfg = results.first().and_then(|result| result.get("rows")?.get(0)?.get("cur_cfg")?.as_i64());
        match cur_cfg {
            Some(n) if n >= next_cfg => break,
            Some(_) => db.changed()?,
            None => return Err(failed!("the row of table {ROOT} is gone: was the database replaced?")),
        }
    }
    check_interfaces(db, plan, committed)
}

fn check_interfaces(db: &mut dyn Database, plan: &Plan<'_>, committed: &Committed) -> Result<(), Error> {
    let new: Vec<_> = plan.inserted("Interface").into_iter().filter_map(|row| committed.uuid(row)).collect();
    let select = |uuid: &String| {
        json!({"op": "select", "table": "Interface", "where": [["_uuid", "==", ["uuid", uuid]]],
            "columns": ["name", "ofport", "error"]})
    };
    if new.is_empty() {
        return Ok(());
    }
    let mut problems = Vec::new();
    for result in db.transact(&new.iter().map(select).collect::<Vec<_>>())? {
        // A row that is gone again (deleted by another client) has no problem.
        let Some(row) = result.get("rows").and_then(|rows| rows.get(0)) else { continue };
        if row["ofport"].as_i64().is_some_and(|ofport| ofport > 0) {
            continue;
        }
        let name = row["name"].as_str().unwrap_or("?");
        problems.push(match row["error"].as_str() {
            Some(error) => format!("error detected while setting up '{name}': {error}"),
            None => {
                format!("'{name}' was not set up and the switch does not say why: see the log of vswitchd")
            }
        });
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Setup(problems.join("\n"))) }
}

#[cfg(test)]
mod tests;
