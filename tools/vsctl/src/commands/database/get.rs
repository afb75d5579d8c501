//! `get`: single columns and keys, one per line.

use super::{Columns, ID, IF_EXISTS, MANY, Verb, VerbOption, tables, target};
use crate::error::{Error, failed, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::{Plan, RowId};
use crate::value::{Setting, atom_text, datum_text};

pub(super) const VERB: Verb = Verb {
    name: "get",
    args: "TABLE RECORD [COLUMN[:KEY]]...",
    arity: (2, MANY),
    options: &[
        VerbOption {
            help: "Print nothing for a row, and an empty line for a key, that is not there",
            ..IF_EXISTS
        },
        ID,
    ],
    about: "Print columns of a row, one per line",
    tables,
    looks_at: Columns::All,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let Some(row) = target(call, plan)? else { return Ok(Output::Nothing) };
    if let Some(symbol) = call.option(ID.name) {
        super::create::check_symbol(symbol)?;
        plan.name_row(symbol, row)?;
    }
    let mut lines = Vec::new();
    for text in call.rest(2) {
        lines.push(value(call, plan, row, text)?);
    }
    Ok(Output::lines(lines))
}

fn value(call: &Call, plan: &Plan<'_>, row: RowId, text: &str) -> Result<String, Error> {
    let setting = Setting::parse(text)?;
    if setting.comparison.is_some() {
        return Err(usage!("{text}: get takes COLUMN or COLUMN:KEY without a value"));
    }
    let table = plan.table_of(row);
    let column = plan.schema().find_column(table, &setting.column)?;
    let kind = &plan.schema().column(table, column)?.kind;
    let datum = plan.get(row, column)?;
    let Some(key) = setting.key_atom(kind)? else { return Ok(datum_text(&datum, kind.max)) };
    match datum.lookup(&key) {
        Some(value) => Ok(atom_text(value)),
        None if call.has(IF_EXISTS.name) => Ok(String::new()),
        None => {
            let (key, record) = (atom_text(&key), call.arg(1));
            Err(failed!(
                "no key {key} in {table} record \"{record}\" column {column} (--if-exists makes this an empty line)"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn columns_and_keys() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set interface p0 options:path=/run/p0 options:mode=client").unwrap();
        assert_eq!(
            print(&mut plan, "get interface p0 type options:path options:mode"),
            "vhost-user\n\"/run/p0\"\nclient\n"
        );
        assert_eq!(print(&mut plan, "get int p0 opt"), "{mode=client, path=\"/run/p0\"}\n");
        assert_eq!(print(&mut plan, "get port p0 _uuid"), "00000000-0000-0000-0000-000000000005\n");
        assert_eq!(print(&mut plan, "--if-exists get interface p0 options:x"), "\n");
        assert_eq!(print(&mut plan, "--if-exists get interface nobody name"), "");
        for (line, hint) in [
            ("get interface p0 options:x", "no key x"),
            ("get interface nobody name", "no row \"nobody\""),
            ("get interface p0 type:x", "not a map"),
            ("get interface p0 type=x", "without a value"),
            ("get queue x name", "\"queue\" is not a table"),
        ] {
            let error = run(&mut plan, line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
