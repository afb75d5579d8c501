//! `add-port`, `del-port`, `list-ports`, `port-to-br`.

use super::database::apply_settings;
use super::{Columns, MANY, Verb, flag, topology};
use crate::error::{Error, failed};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::{Plan, RowId};
use crate::value::Datum;

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "add-port",
        args: "BRIDGE PORT [COLUMN[:KEY]=VALUE]...",
        arity: (2, MANY),
        options: &[flag("may-exist", "Do nothing if the port is on that bridge already")],
        about: "Add a port with one interface of the same name; settings go to the Port row",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: add,
    },
    Verb {
        name: "del-port",
        args: "[BRIDGE] PORT",
        arity: (1, 2),
        options: &[
            flag("if-exists", "Do nothing if there is no such port"),
            flag("with-iface", "PORT may also be the name of an interface: delete the port it is in"),
        ],
        about: "Delete a port with its interfaces",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: delete,
    },
    Verb {
        name: "list-ports",
        args: "BRIDGE",
        arity: (1, 1),
        options: &[],
        about: "Print the names of all ports of a bridge but its local port",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: list,
    },
    Verb {
        name: "port-to-br",
        args: "PORT",
        arity: (1, 1),
        options: &[],
        about: "Print the name of the bridge a port is on",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: to_bridge,
    },
];

fn add(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let (bridge_name, name) = (call.arg(0), call.arg(1));
    let bridge = topology::bridge(plan, bridge_name)?;
    if call.has("may-exist")
        && let Some(place) = topology::find_port(plan, name)?
    {
        if place.bridge == bridge {
            return Ok(Output::Nothing);
        }
        let actual = plan.text(place.bridge, "name")?;
        return Err(failed!(
            "port {name} is on bridge {actual}, not on {bridge_name}: delete it there first (vsctl del-port {name})"
        ));
    }
    topology::check_free(plan, "port", name)?;
    let interface = plan.insert("Interface");
    plan.set(interface, "name", Datum::string(name))?;
    let port = plan.insert("Port");
    plan.set(port, "name", Datum::string(name))?;
    plan.attach(port, "interfaces", interface)?;
    plan.attach(bridge, "ports", port)?;
    apply_settings(plan, port, call.rest(2))?;
    Ok(Output::Nothing)
}

fn delete(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let (bridge_name, name) = match call.optional(1) {
        Some(port) => (Some(call.arg(0)), port),
        None => (None, call.arg(0)),
    };
    let mut place = topology::find_port(plan, name)?;
    if place.is_none() && call.has("with-iface") {
        place = topology::find_interface(plan, name)?.map(|found| found.place);
    }
    let bridge = bridge_name.map(|bridge| topology::bridge(plan, bridge)).transpose()?;
    let Some(place) = place else {
        if call.has("if-exists") {
            return Ok(Output::Nothing);
        }
        return Err(failed!("no port named {name} (vsctl show lists all ports)"));
    };
    let actual = plan.text(place.bridge, "name")?;
    if let (Some(wanted), Some(bridge)) = (bridge_name, bridge)
        && bridge != place.bridge
    {
        return Err(failed!("bridge {wanted} does not have a port {name}: it is on bridge {actual}"));
    }
    if actual == plan.text(place.port, "name")? {
        return Err(failed!(
            "cannot delete port {name} because it is the local port of bridge {actual}: delete the bridge (vsctl del-br {actual})"
        ));
    }
    topology::delete_port(plan, place)?;
    Ok(Output::Nothing)
}

fn list(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let bridge = topology::bridge(plan, call.arg(0))?;
    let ports: Vec<RowId> = plan.follow(bridge, "ports")?;
    let mut names = topology::sorted_names(plan, ports)?;
    names.retain(|name| name != call.arg(0));
    Ok(Output::names("name", names))
}

fn to_bridge(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    match topology::find_port(plan, call.arg(0))? {
        Some(place) => Ok(Output::lines([plan.text(place.bridge, "name")?])),
        None => Err(failed!("no port named {} (vsctl show lists all ports)", call.arg(0))),
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, operations, print, run};

    #[test]
    fn settings_go_to_the_port() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "add-port br0 p9 tag=5 vlan_mode=access").unwrap();
        run(&mut plan, "set interface p9 type=vhost-user options:path=/tmp/a:b").unwrap();
        assert_eq!(print(&mut plan, "get port p9 tag vlan-mode"), "5\naccess\n");
        assert_eq!(print(&mut plan, "get interface p9 options"), "{path=\"/tmp/a:b\"}\n");
        let batch = plan.operations(false).unwrap();
        let port = batch.operations.iter().find(|op| op["table"] == "Port").unwrap();
        assert_eq!(port["row"]["tag"], 5);
        assert_eq!(port["row"]["interfaces"][0], "named-uuid");
        assert!(batch.warnings.is_empty(), "{:?}", batch.warnings);
    }

    #[test]
    fn the_guard_names_what_was_read() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "add-port br0 p9").unwrap();
        let batch = plan.operations(true).unwrap();
        let wait = &batch.operations[0];
        assert_eq!(
            (&wait["op"], &wait["table"], &wait["timeout"]),
            (&"wait".into(), &"Bridge".into(), &0.into())
        );
        assert_eq!(wait["rows"][0]["ports"][1].as_array().unwrap().len(), 2);
        assert_eq!(wait["columns"], serde_json::json!(["ports"]));
    }

    #[test]
    fn a_port_exists_once() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "--may-exist add-port br0 p0").unwrap();
        assert!(operations(&plan).is_empty());
        for (line, hint) in [
            ("add-port br0 p0", "a port named p0 on bridge br0"),
            ("add-port br1 br0", "a bridge named br0"),
            ("--may-exist add-port br1 p0", "on bridge br0, not on br1"),
            ("add-port br7 p9", "no bridge named br7"),
            ("add-port br0 p8 tag=4096", "range 0 to 4095"),
            ("add-port br0 p7 nonsense=1", "nonsense"),
        ] {
            let error = run(&mut plan, line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }

    #[test]
    fn deleting_says_why_not() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        for (line, hint) in [
            ("del-port nobody", "no port named nobody"),
            ("del-port br1 p0", "it is on bridge br0"),
            ("del-port br0", "vsctl del-br br0"),
        ] {
            let error = run(&mut plan, line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
        run(&mut plan, "--if-exists del-port nobody").unwrap();
        run(&mut plan, "--with-iface del-port br0 p0").unwrap();
        assert_eq!(print(&mut plan, "list-ports br0"), "");
        run(&mut plan, "add-port br1 p0").unwrap();
        assert_eq!(print(&mut plan, "port-to-br p0"), "br1\n");
        assert!(run(&mut plan, "port-to-br p7").is_err());
    }
}
