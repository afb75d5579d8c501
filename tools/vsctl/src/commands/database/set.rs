//! `set`: columns and keys of a row.

use super::{Columns, IF_EXISTS, MANY, Verb, tables, target};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::{Plan, RowId};
use crate::value::{Datum, Setting, parse_atom, parse_datum};

pub(super) const VERB: Verb = Verb {
    name: "set",
    args: "TABLE RECORD COLUMN[:KEY]=VALUE...",
    arity: (3, MANY),
    options: &[IF_EXISTS],
    about: "Set columns of a row, or single keys of a map column",
    tables,
    looks_at: Columns::Named,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    if let Some(row) = target(call, plan)? {
        apply(plan, row, call.rest(2))?;
    }
    Ok(Output::Nothing)
}

/// Applies `COLUMN[:KEY]=VALUE` arguments to a row.
///
/// # Errors
/// When an argument is malformed or its value does not fit the column.
pub(in crate::commands) fn apply(plan: &mut Plan<'_>, row: RowId, settings: &[String]) -> Result<(), Error> {
    for text in settings {
        apply_one(plan, row, text)?;
    }
    Ok(())
}

fn apply_one(plan: &mut Plan<'_>, row: RowId, text: &str) -> Result<(), Error> {
    let setting = Setting::parse(text)?;
    let table = plan.table_of(row).to_owned();
    let column = plan.schema().find_column(&table, &setting.column)?;
    let kind = &plan.schema().column(&table, column)?.kind;
    let value = setting.assigned().map_err(|_| usage!("{text}: expected COLUMN[:KEY]=VALUE"))?;
    let named = |why: Error| usage!("{text}: {why}");
    match (setting.key_atom(kind)?, &kind.value) {
        (Some(key), Some(value_type)) => {
            let value = parse_atom(value, value_type).map_err(named)?;
            plan.guard(row, column);
            let mut datum = plan.get(row, column)?;
            if let Datum::Map(map) = &mut datum {
                map.insert(key, value);
            }
            plan.set(row, column, datum)
        }
        _ => plan.set(row, column, parse_datum(value, kind).map_err(named)?),
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, operations, print, run};

    #[test]
    fn a_key_is_merged_and_a_map_replaced() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set interface p0 options:a=1 options:b=x=y").unwrap();
        assert_eq!(print(&mut plan, "get interface p0 options"), "{a=\"1\", b=\"x=y\"}\n");
        run(&mut plan, "set interface p0 options={c=d}").unwrap();
        assert_eq!(print(&mut plan, "get interface p0 options"), "{c=d}\n");
        let batch = plan.operations(false).unwrap();
        assert_eq!(batch.operations[0]["op"], "wait", "the keys that stay were read, so they are guarded");
    }

    #[test]
    fn what_is_there_already_is_no_change() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set interface p0 type=vhost-user").unwrap();
        assert!(operations(&plan).is_empty());
        run(&mut plan, "--if-exists set interface nobody type=tap").unwrap();
        assert!(operations(&plan).is_empty());
    }

    #[test]
    fn errors_name_the_argument() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        for (line, hint) in [
            ("set bridge br0 name=x", "read-only"),
            ("set port p0 tag=banana", "tag=banana"),
            ("set port p0 vlan_mode=acess", "access"),
            ("set port p0 tag", "expected COLUMN"),
            ("set port p0 tag:x=1", "not a map"),
            ("set port p0 tag<=1", "expected COLUMN"),
            ("set port p0 _uuid=00000000-0000-0000-0000-000000000005", "read-only"),
        ] {
            let error = run(&mut plan, line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
