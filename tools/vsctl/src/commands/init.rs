//! `init` and `emer-reset`: the database as a whole.

use super::{Columns, Verb, topology};
use crate::error::Error;
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::{Plan, RowId};

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "init",
        args: "",
        arity: (0, 0),
        options: &[],
        about: "Make sure the database has its one Open_vSwitch row",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: init,
    },
    Verb {
        name: "emer-reset",
        args: "",
        arity: (0, 0),
        options: &[],
        about: "Put the configuration back to a known state: no fail mode, no controllers, no mirrors, no QoS",
        tables: topology::tables,
        looks_at: Columns::All,
        run: emer_reset,
    },
];

fn init(_: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    plan.root()?;
    Ok(Output::Nothing)
}

/// Columns that `emer-reset` puts back to their default. Bridges and ports with their links stay.
const RESET: &[(&str, &[&str])] = &[
    ("Open_vSwitch", &["manager_options", "ssl"]),
    (
        "Bridge",
        &["controller", "fail_mode", "mirrors", "netflow", "sflow", "ipfix", "other_config", "flow_tables"],
    ),
    ("Port", &["qos", "other_config"]),
    ("Interface", &["ingress_policing_burst", "ingress_policing_rate"]),
];

/// Keys of `other_config` that survive: the identity of a bridge and of a port.
const KEPT: &[&str] = &["hwaddr"];

fn emer_reset(_: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    for (table, columns) in RESET {
        for row in plan.rows(table)? {
            for column in *columns {
                reset(plan, row, table, column)?;
            }
        }
    }
    Ok(Output::Nothing)
}

fn reset(plan: &mut Plan<'_>, row: RowId, table: &str, column: &str) -> Result<(), Error> {
    use crate::value::{Atom, Datum};
    // A switch without a feature may leave its columns out of the schema.
    let Ok(known) = plan.schema().column(table, column) else { return Ok(()) };
    let mut datum = known.kind.default_datum();
    if let (Datum::Map(new), Datum::Map(old)) = (&mut datum, plan.get(row, column)?) {
        new.extend(old.into_iter().filter(|(key, _)| KEPT.iter().any(|kept| *key == Atom::string(*kept))));
    }
    plan.set(row, column, datum)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, run};

    #[test]
    fn a_new_database_gets_its_row_once() {
        let schema = fixture::schema();
        let mut plan = fixture::empty(&schema);
        run(&mut plan, "init").unwrap();
        run(&mut plan, "init").unwrap();
        assert_eq!(plan.rows("Open_vSwitch").unwrap().len(), 1);
        let operations = plan.operations(true).unwrap().operations;
        assert_eq!(operations[0]["op"], "wait", "another client may do the same at this moment");
        assert_eq!(operations[1]["op"], "insert");
    }

    #[test]
    fn reset_keeps_bridges_and_their_address() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set bridge br0 fail_mode=secure other_config={hwaddr=\"02:00:00:00:00:01\",x=y}")
            .unwrap();
        run(&mut plan, "emer-reset").unwrap();
        assert_eq!(
            fixture::print(&mut plan, "get bridge br0 fail_mode other_config"),
            "[]\n{hwaddr=\"02:00:00:00:00:01\"}\n"
        );
        assert_eq!(fixture::print(&mut plan, "list-br"), "br0\nbr1\n");
    }
}
