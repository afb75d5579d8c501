//! `list`: rows of a table, all columns.

use super::select::{COLUMNS, sort, table_of};
use super::{Columns, IF_EXISTS, MANY, Verb, lookup, tables};
use crate::error::Error;
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

pub(super) const VERB: Verb = Verb {
    name: "list",
    args: "TABLE [RECORD]...",
    arity: (1, MANY),
    options: &[IF_EXISTS, COLUMNS],
    about: "Print rows of a table, or all of them",
    tables,
    looks_at: Columns::All,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let table = plan.schema().find_table(call.arg(0))?;
    let mut rows = Vec::new();
    for record in call.rest(1) {
        rows.extend(lookup(call, plan, table, record)?);
    }
    if call.rest(1).is_empty() {
        rows = plan.rows(table)?;
        sort(plan, table, &mut rows);
    }
    table_of(call, plan, table, &rows)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn records_by_name_uuid_and_dot() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        let text = print(&mut plan, "--columns=name,tag list port p0");
        assert_eq!(text, "name                : p0\ntag                 : []\n");
        assert_eq!(
            print(&mut plan, "--columns=name list port 00000000-0000-0000-0000-000000000005"),
            "name                : p0\n"
        );
        assert_eq!(print(&mut plan, "--columns=next_cfg list Open_vSwitch ."), "next_cfg            : 7\n");
        assert_eq!(
            print(&mut plan, "--columns=name list bridge"),
            "name                : br0\n\nname                : br1\n"
        );
        assert!(print(&mut plan, "list bridge br0").starts_with("_uuid               : 00000000-"));
        assert_eq!(print(&mut plan, "--if-exists list bridge nobody"), "");
        assert!(run(&mut plan, "list bridge nobody").unwrap_err().to_string().contains("vsctl list Bridge"));
        assert!(run(&mut plan, "--columns=x list bridge").is_err());
    }

    #[test]
    fn a_uuid_may_be_abbreviated_while_it_is_unique() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        let error = run(&mut plan, "list port 0000").unwrap_err().to_string();
        assert!(error.contains("more than one"), "{error}");
        assert_eq!(print(&mut plan, "--columns=next_cfg list open 0000"), "next_cfg            : 7\n");
    }
}
