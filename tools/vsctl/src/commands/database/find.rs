//! `find`: rows of a table that meet conditions.

use super::select::{COLUMNS, holds, sort, table_of};
use super::{Columns, MANY, Verb, tables};
use crate::error::Error;
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

pub(super) const VERB: Verb = Verb {
    name: "find",
    args: "TABLE [COLUMN[:KEY]{=,!=,<,>,<=,>=,{=},{<=},{in},...}VALUE]...",
    arity: (1, MANY),
    options: &[COLUMNS],
    about: "Print the rows of a table that meet all conditions",
    tables,
    looks_at: Columns::All,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let table = plan.schema().find_table(call.arg(0))?;
    let mut rows = Vec::new();
    for row in plan.rows(table)? {
        let mut all = true;
        for condition in call.rest(1) {
            all &= holds(plan, table, row, condition)?;
        }
        rows.extend(all.then_some(row));
    }
    sort(plan, table, &mut rows);
    table_of(call, plan, table, &rows)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn conditions() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set port p0 tag=5 trunks=1,2,3 external_ids={a=b}").unwrap();
        for (condition, names) in [
            ("name=p0", "p0"),
            ("tag=5", "p0"),
            ("tag<6", "p0"),
            ("tag>=6", ""),
            ("tag=[]", "br0 br1 p1"),
            ("tag!=5", "br0 br1 p1"),
            ("trunks=3,2,1", "p0"),
            ("trunks{>=}1,2", "p0"),
            ("trunks{<}1,2,3,4", "br0 br1 p0 p1"),
            ("tag{in}4,5", "br0 br1 p0 p1"),
            ("trunks{not-in}3", "br0 br1 p1"),
            ("external_ids:a=b", "p0"),
            ("external_ids:a!=c", "p0"),
            ("external-ids:a{=}[]", "br0 br1 p1"),
            ("external_ids:a", "p0"),
        ] {
            let text = print(&mut plan, &format!("--columns=name find port {condition}"));
            let found: Vec<_> =
                text.lines().filter(|line| !line.is_empty()).map(|line| &line[22..]).collect();
            assert_eq!(found.join(" "), names, "{condition}");
        }
        assert_eq!(print(&mut plan, "--columns=name find port tag=5 name=p1"), "");
        for bad in ["tag~5", "tag=x", "nonsense=1", "tag:k=5", "name="] {
            assert!(run(&mut plan, &format!("find port {bad}")).is_err(), "{bad}");
        }
    }
}
