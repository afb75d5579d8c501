//! `list-ifaces` and `iface-to-br`.

use super::{Columns, Verb, topology};
use crate::error::{Error, failed};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "list-ifaces",
        args: "BRIDGE",
        arity: (1, 1),
        options: &[],
        about: "Print the names of all interfaces of a bridge but its local one",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: list,
    },
    Verb {
        name: "iface-to-br",
        args: "INTERFACE",
        arity: (1, 1),
        options: &[],
        about: "Print the name of the bridge an interface is on",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: to_bridge,
    },
];

fn list(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let bridge = topology::bridge(plan, call.arg(0))?;
    let mut interfaces = Vec::new();
    for port in plan.follow(bridge, "ports")? {
        interfaces.extend(plan.follow(port, "interfaces")?);
    }
    let mut names = topology::sorted_names(plan, interfaces)?;
    names.retain(|name| name != call.arg(0));
    Ok(Output::names("name", names))
}

fn to_bridge(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    match topology::find_interface(plan, call.arg(0))? {
        Some(found) => Ok(Output::lines([plan.text(found.place.bridge, "name")?])),
        None => Err(failed!("no interface named {} (vsctl show lists all)", call.arg(0))),
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn interfaces_by_bridge_and_back() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        assert_eq!(print(&mut plan, "list-ifaces br0"), "p0\n");
        assert_eq!(print(&mut plan, "iface-to-br p0"), "br0\n");
        assert_eq!(print(&mut plan, "iface-to-br br1"), "br1\n");
        assert!(run(&mut plan, "iface-to-br nobody").unwrap_err().to_string().contains("nobody"));
    }
}
