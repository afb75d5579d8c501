//! `add-br`, `del-br`, `list-br`, `br-exists`, `br-to-vlan`, `br-to-parent`.

use super::{Columns, Verb, flag, topology};
use crate::error::{Error, failed, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;
use crate::value::Datum;

const fn verb(
    name: &'static str,
    args: &'static str,
    about: &'static str,
    run: fn(&Call, &mut Plan<'_>) -> Result<Output, Error>,
) -> Verb {
    Verb {
        name,
        args,
        arity: (1, 1),
        options: &[],
        about,
        tables: topology::tables,
        looks_at: Columns::Named,
        run,
    }
}

pub(super) const VERBS: &[Verb] = &[
    Verb {
        arity: (1, 3),
        options: &[flag("may-exist", "Do nothing if the bridge exists already")],
        ..verb("add-br", "BRIDGE", "Create a bridge with its local port", add)
    },
    Verb {
        options: &[flag("if-exists", "Do nothing if there is no such bridge")],
        ..verb("del-br", "BRIDGE", "Delete a bridge with all its ports", delete)
    },
    Verb { arity: (0, 0), ..verb("list-br", "", "Print the names of all bridges", list) },
    verb("br-exists", "BRIDGE", "Exit with 0 if the bridge exists, with 2 if not", exists),
    verb(
        "br-to-vlan",
        "BRIDGE",
        "Print the VLAN of a fake bridge: 0, because every bridge here is real",
        to_vlan,
    ),
    verb("br-to-parent", "BRIDGE", "Print the parent of a fake bridge: the bridge itself", to_parent),
];

fn add(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let name = call.arg(0);
    match call.rest(1) {
        [] => {}
        [parent, vlan] => {
            return Err(usage!(
                "fake bridges are not supported: use access ports instead, like vsctl add-port {parent} PORT tag={vlan}"
            ));
        }
        _ => {
            return Err(usage!(
                "add-br takes the name of one bridge\nusage: vsctl {}",
                call.verb.usage_line()
            ));
        }
    }
    if call.has("may-exist") && topology::find_bridge(plan, name)?.is_some() {
        return Ok(Output::Nothing);
    }
    topology::check_free(plan, "bridge", name)?;
    let interface = plan.insert("Interface");
    plan.set(interface, "name", Datum::string(name))?;
    plan.set(interface, "type", Datum::string("internal"))?;
    let port = plan.insert("Port");
    plan.set(port, "name", Datum::string(name))?;
    plan.attach(port, "interfaces", interface)?;
    let bridge = plan.insert("Bridge");
    plan.set(bridge, "name", Datum::string(name))?;
    plan.attach(bridge, "ports", port)?;
    let root = plan.root()?;
    plan.attach(root, "bridges", bridge)?;
    Ok(Output::Nothing)
}

fn delete(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let name = call.arg(0);
    let bridge = match topology::find_bridge(plan, name)? {
        None if call.has("if-exists") => return Ok(Output::Nothing),
        None if topology::find_port(plan, name)?.is_some() => {
            return Err(failed!("{name} is a port, not a bridge: use vsctl del-port {name}"));
        }
        None => return Err(failed!("no bridge named {name} (vsctl list-br shows the bridges)")),
        Some(bridge) => bridge,
    };
    for port in plan.follow(bridge, "ports")? {
        topology::delete_port(plan, topology::PortPlace { bridge, port })?;
    }
    let root = plan.root()?;
    plan.detach(root, "bridges", bridge)?;
    plan.delete(bridge);
    Ok(Output::Nothing)
}

fn list(_: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    Ok(Output::names("name", topology::sorted_names(plan, topology::bridges(plan)?)?))
}

fn exists(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    match topology::find_bridge(plan, call.arg(0))? {
        Some(_) => Ok(Output::Nothing),
        None => Err(Error::Answer(2)),
    }
}

fn to_vlan(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    topology::bridge(plan, call.arg(0))?;
    Ok(Output::lines(["0".to_owned()]))
}

fn to_parent(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    topology::bridge(plan, call.arg(0))?;
    Ok(Output::lines([call.arg(0).to_owned()]))
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::fixture::{self, operations, print, run};

    #[test]
    fn a_bridge_comes_with_its_local_port() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "add-br br2").unwrap();
        assert_eq!(print(&mut plan, "list-br"), "br0\nbr1\nbr2\n");
        assert_eq!(print(&mut plan, "list-ports br2"), "");
        assert_eq!(print(&mut plan, "get interface br2 type"), "internal\n");
        let names = operations(&plan);
        assert_eq!(
            names,
            [
                "wait Open_vSwitch",
                "insert Interface",
                "insert Port",
                "insert Bridge",
                "update Open_vSwitch",
                "mutate Open_vSwitch",
                "select Open_vSwitch"
            ]
        );
    }

    #[test]
    fn names_are_shared_with_ports_and_interfaces() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        let error = |plan: &mut _, line| run(plan, line).unwrap_err().to_string();
        assert!(error(&mut plan, "add-br br0").contains("a bridge named br0 already exists"));
        assert!(error(&mut plan, "add-br p0").contains("a port named p0 on bridge br0"));
        assert!(error(&mut plan, "--may-exist add-br p0").contains("a port named p0"));
        assert!(error(&mut plan, "add-br br9 br0 5").contains("tag=5"));
        run(&mut plan, "--may-exist add-br br0").unwrap();
        assert!(operations(&plan).is_empty());
    }

    #[test]
    fn deleting_takes_ports_and_interfaces_along() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "del-br br0").unwrap();
        assert_eq!(print(&mut plan, "list-br"), "br1\n");
        let names = operations(&plan);
        assert_eq!(names.iter().filter(|name| *name == "delete Interface").count(), 2);
        assert_eq!(names.iter().filter(|name| *name == "delete Port").count(), 2);
        assert!(
            names.contains(&"update Open_vSwitch".to_owned()) && !names.contains(&"update Bridge".to_owned())
        );
        run(&mut plan, "--if-exists del-br nobody").unwrap();
        assert!(run(&mut plan, "del-br nobody").unwrap_err().to_string().contains("list-br"));
        assert!(run(&mut plan, "del-br p1").unwrap_err().to_string().contains("del-port p1"));
    }

    #[test]
    fn a_bridge_added_and_deleted_in_one_chain_is_no_change() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "add-br br2").unwrap();
        run(&mut plan, "del-br br2").unwrap();
        assert!(operations(&plan).is_empty());
    }

    #[test]
    fn existence_is_an_exit_code() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "br-exists br0").unwrap();
        assert!(matches!(run(&mut plan, "br-exists p0"), Err(Error::Answer(2))));
        assert_eq!(print(&mut plan, "br-to-vlan br0"), "0\n");
        assert_eq!(print(&mut plan, "br-to-parent br0"), "br0\n");
    }
}
