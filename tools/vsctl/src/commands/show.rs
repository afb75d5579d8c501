//! `show`: the configuration as a tree, in the shape people know from `ovs-vsctl show`.

use std::fmt::Write as _;

use super::{Columns, Verb};
use crate::error::Error;
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::{Plan, RowId};
use crate::schema::Schema;
use crate::value::{atom_text, datum_text};

pub(super) const VERBS: &[Verb] = &[Verb {
    name: "show",
    args: "",
    arity: (0, 0),
    options: &[],
    about: "Print the configuration as a tree",
    tables,
    looks_at: Columns::All,
    run,
}];

/// What is shown of a table: the column that names a row, and the columns below it. A column that refers to another
/// table of this list becomes a branch.
struct Level {
    table: &'static str,
    name: Option<&'static str>,
    columns: &'static [&'static str],
}

const LEVELS: &[Level] = &[
    Level { table: "Open_vSwitch", name: None, columns: &["manager_options", "bridges", "ovs_version"] },
    Level {
        table: "Bridge",
        name: Some("name"),
        columns: &["controller", "fail_mode", "datapath_type", "ports"],
    },
    Level { table: "Port", name: Some("name"), columns: &["tag", "trunks", "interfaces"] },
    Level { table: "Interface", name: Some("name"), columns: &["type", "options", "error"] },
    Level { table: "Controller", name: Some("target"), columns: &["is_connected"] },
    Level { table: "Manager", name: Some("target"), columns: &["is_connected"] },
];

/// Spaces per level.
const INDENT: usize = 4;

fn tables(_: &Call, schema: &Schema) -> Result<Vec<String>, Error> {
    Ok(LEVELS
        .iter()
        .map(|level| level.table.to_owned())
        .filter(|table| schema.table(table).is_ok())
        .collect())
}

fn run(_: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let mut text = String::new();
    if let Some(level) = LEVELS.first() {
        for row in plan.rows(level.table)? {
            branch(plan, level, row, 0, &mut text)?;
        }
    }
    Ok(Output::Text(text))
}

fn branch(plan: &Plan<'_>, level: &Level, row: RowId, depth: usize, text: &mut String) -> Result<(), Error> {
    let indent = depth * INDENT;
    let title = match level.name {
        None => plan.get(row, crate::schema::UUID)?.atoms().map(atom_text).collect(),
        Some(column) => format!("{} {}", level.table, datum_text(&plan.get(row, column)?, 1)),
    };
    let _ = writeln!(text, "{:indent$}{title}", "");
    for column in level.columns {
        let Ok(known) = plan.schema().column(level.table, column) else { continue };
        let child = LEVELS.iter().find(|below| Some(below.table) == known.kind.key.ref_table.as_deref());
        if let Some(child) = child {
            let mut rows = Vec::new();
            for row in plan.follow(row, column)? {
                rows.push((child.name.map(|name| plan.text(row, name)).transpose()?, row));
            }
            rows.sort();
            for (_, row) in rows {
                branch(plan, child, row, depth + 1, text)?;
            }
            continue;
        }
        let datum = plan.get(row, column)?;
        if datum != known.kind.default_datum() {
            let value = datum_text(&datum, known.kind.max);
            let _ = writeln!(text, "{:width$}{column}: {value}", "", width = indent + INDENT);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn the_tree_of_the_fixture() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "set port p0 tag=5").unwrap();
        run(&mut plan, "set interface p0 options:path=/run/p0").unwrap();
        let expected = "\
00000000-0000-0000-0000-000000000001
    Bridge br0
        Port br0
            Interface br0
                type: internal
        Port p0
            tag: 5
            Interface p0
                type: vhost-user
                options: {path=\"/run/p0\"}
    Bridge br1
        Port br1
            Interface br1
                type: internal
        Port p1
            Interface p1
                type: tap
                error: \"no permission\"
    ovs_version: \"3.1.0\"
";
        assert_eq!(print(&mut plan, "show"), expected);
    }
}
