//! The commands that work on any table and column of the database, in `ovs-vsctl`'s grammar.

mod add;
mod clear;
mod comment;
mod create;
mod destroy;
mod find;
mod get;
mod list;
mod remove;
mod select;
mod set;
mod wait_until;

use super::{Columns, MANY, Verb, VerbOption, flag};
use crate::error::Error;
use crate::grammar::Call;
use crate::plan::{Plan, RowId, tables_for};
use crate::schema::Schema;

pub(super) use set::apply as apply_settings;

/// The option that most of these commands share.
const IF_EXISTS: VerbOption = flag("if-exists", "Do nothing if there is no such row");

/// The option that gives a row a name inside one command line.
const ID: VerbOption = VerbOption {
    name: "id",
    value: Some("@NAME"),
    help: "Let other commands of this line call the row @NAME",
};

pub(super) const VERBS: &[Verb] = &[
    list::VERB,
    find::VERB,
    get::VERB,
    set::VERB,
    add::VERB,
    remove::VERB,
    clear::VERB,
    create::VERB,
    destroy::VERB,
    wait_until::VERB,
    comment::VERB,
];

/// The tables needed to find a row of the table in the first argument. The root table is always among them,
/// because every change increments its `next_cfg`.
fn tables(call: &Call, schema: &Schema) -> Result<Vec<String>, Error> {
    let table = schema.find_table(call.arg(0))?;
    let mut tables: Vec<_> = tables_for(table)
        .into_iter()
        .filter(|table| schema.table(table).is_ok())
        .map(str::to_owned)
        .collect();
    tables.push("Open_vSwitch".to_owned());
    Ok(tables)
}

/// The row a user means; `None` if there is none and `--if-exists` forgives that.
fn lookup(call: &Call, plan: &mut Plan<'_>, table: &str, record: &str) -> Result<Option<RowId>, Error> {
    if call.has(IF_EXISTS.name) {
        plan.find_record(table, record)
    } else {
        plan.record(table, record).map(Some)
    }
}

/// The row named by the first two arguments.
fn target(call: &Call, plan: &mut Plan<'_>) -> Result<Option<RowId>, Error> {
    let table = plan.schema().find_table(call.arg(0))?;
    lookup(call, plan, table, call.arg(1))
}
