//! `destroy`: rows of any table.

use super::{Columns, IF_EXISTS, MANY, Verb, flag, lookup, tables};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

const ALL: &str = "all";

pub(super) const VERB: Verb = Verb {
    name: "destroy",
    args: "TABLE [RECORD]...",
    arity: (1, MANY),
    options: &[IF_EXISTS, flag(ALL, "Delete all rows of the table")],
    about: "Delete rows; one that is still referred to cannot be deleted",
    tables,
    looks_at: Columns::Named,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let table = plan.schema().find_table(call.arg(0))?;
    let records = call.rest(1);
    match (call.has(ALL), records.is_empty()) {
        (true, false) => return Err(usage!("--all deletes all rows of {table}: name no row with it")),
        (false, true) => return Err(usage!("name the rows of {table} to delete, or give --all")),
        _ => {}
    }
    if call.has(ALL) {
        for row in plan.rows(table)? {
            plan.delete(row);
        }
    }
    for record in records {
        if let Some(row) = lookup(call, plan, table, record)? {
            plan.delete(row);
        }
    }
    Ok(Output::Nothing)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, operations, run};

    #[test]
    fn rows_by_name_or_all() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "destroy port p0").unwrap();
        run(&mut plan, "--if-exists destroy port nobody").unwrap();
        assert_eq!(operations(&plan)[..1], ["delete Port"]);
        run(&mut plan, "--all destroy port").unwrap();
        assert_eq!(operations(&plan).iter().filter(|op| *op == "delete Port").count(), 4);
        for bad in ["destroy port nobody", "destroy port", "--all destroy port p0"] {
            assert!(run(&mut plan, bad).is_err(), "{bad}");
        }
    }
}
