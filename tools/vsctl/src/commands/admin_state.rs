//! `set-admin-state`, `get-admin-state`: taking a port down and up. As `ovs-appctl netdev-dpdk/set-admin-state`, but for a port of any type,
//! and it outlives the switch: it is `options:admin-state` of the interface.

use super::{Columns, Verb, topology};
use crate::error::{Error, failed, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::{Plan, RowId};
use crate::value::{Atom, Datum};

const COLUMN: &str = "options";
const KEY: &str = "admin-state";

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "set-admin-state",
        args: "INTERFACE up|down",
        arity: (2, 2),
        options: &[],
        about: "Take a port down, so that it neither receives nor sends, or up again",
        tables: topology::tables,
        looks_at: Columns::NamedAnd(COLUMN),
        run: set,
    },
    Verb {
        name: "get-admin-state",
        args: "INTERFACE",
        arity: (1, 1),
        options: &[],
        about: "Print whether a port is wanted up or down",
        tables: topology::tables,
        looks_at: Columns::NamedAnd(COLUMN),
        run: get,
    },
];

fn interface(plan: &Plan<'_>, name: &str) -> Result<RowId, Error> {
    let found = topology::find_interface(plan, name)?;
    Ok(found.ok_or_else(|| failed!("no interface named {name} (vsctl show lists all)"))?.interface)
}

fn set(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let state = call.arg(1);
    if !matches!(state, "up" | "down") {
        return Err(usage!("admin state \"{state}\" is neither up nor down"));
    }
    let interface = interface(plan, call.arg(0))?;
    plan.guard(interface, COLUMN);
    let mut options = plan.get(interface, COLUMN)?;
    if let Datum::Map(map) = &mut options {
        match state {
            "down" => map.insert(Atom::string(KEY), Atom::string(state)),
            _ => map.remove(&Atom::string(KEY)),
        };
    }
    plan.set(interface, COLUMN, options)?;
    Ok(Output::Nothing)
}

fn get(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let interface = interface(plan, call.arg(0))?;
    let Datum::Map(options) = plan.get(interface, COLUMN)? else {
        return Err(failed!("column {COLUMN} of table Interface is not a map in this switch's schema"));
    };
    let down = options.get(&Atom::string(KEY)) == Some(&Atom::string("down"));
    Ok(Output::lines([if down { "down" } else { "up" }.to_owned()]))
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn down_is_kept_among_the_options_and_up_is_the_rule() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        assert_eq!(print(&mut plan, "get-admin-state p0"), "up\n");
        run(&mut plan, "set Interface p0 options:path=/tmp/p0").unwrap();
        run(&mut plan, "set-admin-state p0 down").unwrap();
        assert_eq!(print(&mut plan, "get-admin-state p0"), "down\n");
        assert_eq!(print(&mut plan, "get Interface p0 options"), "{admin-state=down, path=\"/tmp/p0\"}\n");
        run(&mut plan, "set-admin-state p0 up").unwrap();
        assert_eq!(print(&mut plan, "get-admin-state p0"), "up\n");
        assert_eq!(print(&mut plan, "get Interface p0 options"), "{path=\"/tmp/p0\"}\n");
        assert!(run(&mut plan, "set-admin-state p0 off").unwrap_err().to_string().contains("neither"));
        assert!(run(&mut plan, "set-admin-state nobody up").unwrap_err().to_string().contains("nobody"));
    }
}
