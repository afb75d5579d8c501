//! `remove`: elements of a set, keys or key-value pairs of a map.

use super::{Columns, IF_EXISTS, MANY, Verb, tables, target};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;
use crate::value::{ColumnType, Datum, parse_atom, parse_datum, split_items};

pub(super) const VERB: Verb = Verb {
    name: "remove",
    args: "TABLE RECORD COLUMN KEY|VALUE|KEY=VALUE...",
    arity: (4, MANY),
    options: &[IF_EXISTS],
    about: "Remove values from a set, or keys from a map; what is not there is no error",
    tables,
    looks_at: Columns::Named,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let Some(row) = target(call, plan)? else { return Ok(Output::Nothing) };
    let table = plan.schema().find_table(call.arg(0))?;
    let column = plan.schema().find_column(table, call.arg(2))?;
    let kind = &plan.schema().column(table, column)?.kind;
    plan.guard(row, column);
    let mut datum = plan.get(row, column)?;
    for text in call.rest(3) {
        remove(&mut datum, text, kind).map_err(|why| usage!("{text}: {why}"))?;
    }
    if datum.len() < kind.min {
        return Err(usage!(
            "remove would leave column {column} of table {table} empty: use set to replace its value"
        ));
    }
    plan.set(row, column, datum)?;
    Ok(Output::Nothing)
}

fn remove(datum: &mut Datum, text: &str, kind: &ColumnType) -> Result<(), Error> {
    match (datum, &kind.value) {
        (Datum::Map(map), Some(value_type)) => {
            for (key, value) in split_items(text, true)? {
                let key = parse_atom(key, &kind.key)?;
                let value = value.map(|value| parse_atom(value, value_type)).transpose()?;
                if value.is_none_or(|value| map.get(&key) == Some(&value)) {
                    map.remove(&key);
                }
            }
        }
        (Datum::Set(set), _) => {
            let any_number = ColumnType { min: 0, max: usize::MAX, ..kind.clone() };
            let gone = parse_datum(text, &any_number)?;
            set.retain(|atom| gone.keys().all(|other| other != atom));
        }
        (Datum::Map(_), None) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn values_keys_and_pairs() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set port p0 trunks=1,2,3,4 external_ids={a=b,c=d,e=f}").unwrap();
        run(&mut plan, "remove port p0 trunks 4 1,2 99").unwrap();
        assert_eq!(print(&mut plan, "get port p0 trunks"), "[3]\n");
        run(&mut plan, "remove port p0 external_ids a c=x e=f").unwrap();
        assert_eq!(print(&mut plan, "get port p0 external_ids"), "{c=d}\n");
        assert!(
            run(&mut plan, "remove interface p0 type vhost-user").unwrap_err().to_string().contains("empty")
        );
    }
}
