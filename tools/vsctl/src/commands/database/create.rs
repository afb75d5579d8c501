//! `create`: a row of any table.

use super::{Columns, ID, MANY, Verb, apply_settings, tables};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

pub(super) const VERB: Verb = Verb {
    name: "create",
    args: "TABLE COLUMN[:KEY]=VALUE...",
    arity: (1, MANY),
    options: &[ID],
    about: "Create a row and print its UUID; it stays only if another row refers to it (--id=@NAME)",
    tables,
    looks_at: Columns::Named,
    run,
};

/// Checks that a symbol looks like `@name`.
pub(super) fn check_symbol(symbol: &str) -> Result<(), Error> {
    let fits = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    if symbol.strip_prefix('@').is_some_and(fits) {
        return Ok(());
    }
    Err(usage!(
        "--id={symbol}: a row name is @ and letters, digits, \"_\", \"-\" or \".\", like --id=@mirror"
    ))
}

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let table = plan.schema().find_table(call.arg(0))?.to_owned();
    let row = plan.insert(&table);
    if let Some(symbol) = call.option(ID.name) {
        check_symbol(symbol)?;
        plan.name_row(symbol, row)?;
    }
    apply_settings(plan, row, call.rest(1))?;
    Ok(Output::Created(row))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::fixture::{self, run};

    #[test]
    fn symbols_work_in_both_directions() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set bridge br0 mirrors=@m").unwrap();
        run(&mut plan, "--id=@p get port p0").unwrap();
        run(&mut plan, "--id=@m create mirror name=m0 select_dst_port=@p").unwrap();
        let batch = plan.operations(false).unwrap();
        assert!(batch.warnings.is_empty(), "{:?}", batch.warnings);
        let insert = batch.operations.iter().find(|op| op["op"] == "insert").unwrap();
        assert_eq!(insert["row"]["select_dst_port"], json!(["uuid", "00000000-0000-0000-0000-000000000005"]));
        let update = batch.operations.iter().find(|op| op["op"] == "update").unwrap();
        assert_eq!(update["row"]["mirrors"], json!(["named-uuid", insert["uuid-name"]]));
    }

    #[test]
    fn a_symbol_needs_a_row_and_a_row_a_reference() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "--id=@m create mirror name=m0").unwrap();
        assert!(plan.operations(false).unwrap().warnings[0].contains("@m of table Mirror"));
        run(&mut plan, "set bridge br0 mirrors=@x").unwrap();
        assert!(plan.operations(false).unwrap_err().to_string().contains("--id=@x create"));
        assert!(run(&mut plan, "--id=m create mirror").unwrap_err().to_string().contains("--id=@mirror"));
        assert!(run(&mut plan, "--id=@m create mirror").unwrap_err().to_string().contains("two rows"));
    }
}
