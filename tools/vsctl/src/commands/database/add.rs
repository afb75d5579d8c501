//! `add`: elements of a set, or keys of a map that are not there yet.

use super::{Columns, IF_EXISTS, MANY, Verb, tables, target};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;
use crate::value::{ColumnType, Datum, parse_datum};

pub(super) const VERB: Verb = Verb {
    name: "add",
    args: "TABLE RECORD COLUMN [KEY=]VALUE...",
    arity: (4, MANY),
    options: &[IF_EXISTS],
    about: "Add values to a set, or keys to a map; a key that is there keeps its value",
    tables,
    looks_at: Columns::Named,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let Some(row) = target(call, plan)? else { return Ok(Output::Nothing) };
    let table = plan.schema().find_table(call.arg(0))?;
    let column = plan.schema().find_column(table, call.arg(2))?;
    let kind = &plan.schema().column(table, column)?.kind;
    let any_number = ColumnType { min: 0, max: usize::MAX, ..kind.clone() };
    plan.guard(row, column);
    let mut datum = plan.get(row, column)?;
    for text in call.rest(3) {
        match (&mut datum, parse_datum(text, &any_number).map_err(|why| usage!("{text}: {why}"))?) {
            (Datum::Set(set), Datum::Set(more)) => set.extend(more),
            (Datum::Map(map), Datum::Map(more)) => more.into_iter().for_each(|(key, value)| {
                map.entry(key).or_insert(value);
            }),
            _ => {}
        }
    }
    if datum.len() > kind.max {
        return Err(usage!(
            "add would put {} values in column {column} of table {table}, which takes at most {}: use set to replace",
            datum.len(),
            kind.max
        ));
    }
    plan.set(row, column, datum)?;
    Ok(Output::Nothing)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn sets_grow_and_maps_keep_what_they_have() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "add port p0 trunks 3 1,2 2").unwrap();
        assert_eq!(print(&mut plan, "get port p0 trunks"), "[1, 2, 3]\n");
        run(&mut plan, "add port p0 external_ids a=1").unwrap();
        run(&mut plan, "add port p0 external_ids a=2 b=3").unwrap();
        assert_eq!(print(&mut plan, "get port p0 external_ids"), "{a=\"1\", b=\"3\"}\n");
        run(&mut plan, "add port p0 tag 5").unwrap();
        assert!(run(&mut plan, "add port p0 tag 6").unwrap_err().to_string().contains("at most 1"));
        assert!(run(&mut plan, "add port p0 trunks x").is_err());
    }
}
