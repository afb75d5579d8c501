//! `br-set-external-id` and `br-get-external-id`: a bridge's notes for other programs.

use super::{Columns, Verb, topology};
use crate::error::{Error, failed};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;
use crate::value::{Atom, Datum, atom_bare};

const COLUMN: &str = "external_ids";

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "br-set-external-id",
        args: "BRIDGE KEY [VALUE]",
        arity: (2, 3),
        options: &[],
        about: "Set a key of a bridge's external_ids, or remove it if no value is given",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: set,
    },
    Verb {
        name: "br-get-external-id",
        args: "BRIDGE [KEY]",
        arity: (1, 2),
        options: &[],
        about: "Print a key of a bridge's external_ids, or all as KEY=VALUE",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: get,
    },
];

fn set(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let bridge = topology::bridge(plan, call.arg(0))?;
    plan.guard(bridge, COLUMN);
    let mut ids = plan.get(bridge, COLUMN)?;
    if let Datum::Map(map) = &mut ids {
        match call.optional(2) {
            Some(value) => map.insert(Atom::string(call.arg(1)), Atom::string(value)),
            None => map.remove(&Atom::string(call.arg(1))),
        };
    }
    plan.set(bridge, COLUMN, ids)?;
    Ok(Output::Nothing)
}

fn get(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let bridge = topology::bridge(plan, call.arg(0))?;
    let Datum::Map(ids) = plan.get(bridge, COLUMN)? else {
        return Err(failed!("column {COLUMN} of table Bridge is not a map in this switch's schema"));
    };
    Ok(match call.optional(1) {
        Some(key) => Output::lines(ids.get(&Atom::string(key)).map(atom_bare)),
        None => {
            Output::lines(ids.iter().map(|(key, value)| format!("{}={}", atom_bare(key), atom_bare(value))))
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn keys_come_and_go() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "br-set-external-id br0 b two").unwrap();
        run(&mut plan, "br-set-external-id br0 a one").unwrap();
        assert_eq!(print(&mut plan, "br-get-external-id br0"), "a=one\nb=two\n");
        run(&mut plan, "br-set-external-id br0 b").unwrap();
        assert_eq!(print(&mut plan, "br-get-external-id br0 b"), "");
        assert_eq!(print(&mut plan, "br-get-external-id br0 a"), "one\n");
    }
}
