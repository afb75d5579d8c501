//! `clear`: columns back to empty.

use super::{Columns, IF_EXISTS, MANY, Verb, tables, target};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

pub(super) const VERB: Verb = Verb {
    name: "clear",
    args: "TABLE RECORD COLUMN...",
    arity: (3, MANY),
    options: &[IF_EXISTS],
    about: "Empty columns of a row",
    tables,
    looks_at: Columns::Named,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let Some(row) = target(call, plan)? else { return Ok(Output::Nothing) };
    let table = plan.schema().find_table(call.arg(0))?;
    for text in call.rest(2) {
        let column = plan.schema().find_column(table, text)?;
        let kind = &plan.schema().column(table, column)?.kind;
        if kind.min > 0 {
            return Err(usage!(
                "column {column} of table {table} cannot be empty: use set to change its value"
            ));
        }
        plan.set(row, column, kind.default_datum())?;
    }
    Ok(Output::Nothing)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn optional_columns_only() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set port p0 tag=5 external_ids:a=b").unwrap();
        run(&mut plan, "clear port p0 tag external_ids").unwrap();
        assert_eq!(print(&mut plan, "get port p0 tag external_ids"), "[]\n{}\n");
        assert!(run(&mut plan, "clear port p0 name").unwrap_err().to_string().contains("cannot be empty"));
    }
}
