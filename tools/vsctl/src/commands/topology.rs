//! Bridges, ports and interfaces as the plan knows them: who contains whom, by name.
//!
//! Bridges are those the root row refers to and ports those a bridge refers to, exactly as the switch sees it; a row
//! nothing refers to does not exist for these commands.

use crate::error::{Error, failed};
use crate::grammar::Call;
use crate::plan::{Plan, RowId};
use crate::schema::Schema;

/// The tables these questions need.
pub(super) fn tables(_: &Call, _: &Schema) -> Result<Vec<String>, Error> {
    Ok(["Open_vSwitch", "Bridge", "Port", "Interface"].map(str::to_owned).to_vec())
}

/// A port and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortPlace {
    pub(super) bridge: RowId,
    pub(super) port: RowId,
}

/// An interface and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InterfacePlace {
    pub(super) place: PortPlace,
    pub(super) interface: RowId,
}

/// All bridges.
pub(super) fn bridges(plan: &Plan<'_>) -> Result<Vec<RowId>, Error> {
    match plan.rows("Open_vSwitch")?.first() {
        Some(root) => plan.follow(*root, "bridges"),
        None => Ok(Vec::new()),
    }
}

/// All ports of all bridges.
pub(super) fn ports(plan: &Plan<'_>) -> Result<Vec<PortPlace>, Error> {
    let mut places = Vec::new();
    for bridge in bridges(plan)? {
        places.extend(plan.follow(bridge, "ports")?.into_iter().map(|port| PortPlace { bridge, port }));
    }
    Ok(places)
}

/// All interfaces of all ports.
pub(super) fn interfaces(plan: &Plan<'_>) -> Result<Vec<InterfacePlace>, Error> {
    let mut places = Vec::new();
    for place in ports(plan)? {
        let found = plan.follow(place.port, "interfaces")?;
        places.extend(found.into_iter().map(|interface| InterfacePlace { place, interface }));
    }
    Ok(places)
}

/// The bridge called `name`, if there is one.
pub(super) fn find_bridge(plan: &Plan<'_>, name: &str) -> Result<Option<RowId>, Error> {
    for bridge in bridges(plan)? {
        if plan.text(bridge, "name")? == name {
            return Ok(Some(bridge));
        }
    }
    Ok(None)
}

/// The bridge called `name`.
pub(super) fn bridge(plan: &Plan<'_>, name: &str) -> Result<RowId, Error> {
    find_bridge(plan, name)?
        .ok_or_else(|| failed!("no bridge named {name} (vsctl list-br shows the bridges)"))
}

/// The port called `name`, if there is one.
pub(super) fn find_port(plan: &Plan<'_>, name: &str) -> Result<Option<PortPlace>, Error> {
    for place in ports(plan)? {
        if plan.text(place.port, "name")? == name {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// The interface called `name`, if there is one.
pub(super) fn find_interface(plan: &Plan<'_>, name: &str) -> Result<Option<InterfacePlace>, Error> {
    for place in interfaces(plan)? {
        if plan.text(place.interface, "name")? == name {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Checks that `name` can be given to a new `what`: bridges, ports and interfaces share one name space.
pub(super) fn check_free(plan: &Plan<'_>, what: &str, name: &str) -> Result<(), Error> {
    let taken = |by: &str| failed!("cannot create a {what} named {name} because {by} already exists");
    if find_bridge(plan, name)?.is_some() {
        return Err(taken(&format!("a bridge named {name}")));
    }
    if let Some(place) = find_port(plan, name)? {
        let bridge = plan.text(place.bridge, "name")?;
        return Err(taken(&format!("a port named {name} on bridge {bridge}")));
    }
    if let Some(found) = find_interface(plan, name)? {
        let bridge = plan.text(found.place.bridge, "name")?;
        return Err(taken(&format!("an interface named {name} on bridge {bridge}")));
    }
    Ok(())
}

/// Removes a port with its interfaces from a bridge.
pub(super) fn delete_port(plan: &mut Plan<'_>, place: PortPlace) -> Result<(), Error> {
    plan.detach(place.bridge, "ports", place.port)?;
    for interface in plan.follow(place.port, "interfaces")? {
        plan.delete(interface);
    }
    plan.guard(place.port, "interfaces");
    plan.delete(place.port);
    Ok(())
}

/// Names in alphabetical order.
pub(super) fn sorted_names(
    plan: &Plan<'_>,
    rows: impl IntoIterator<Item = RowId>,
) -> Result<Vec<String>, Error> {
    let mut names = rows.into_iter().map(|row| plan.text(row, "name")).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}
