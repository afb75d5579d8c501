//! The `_Server` database: how clients learn what a server serves.
//!
//! IDL clients ask it first and, when it answers, skip a round of fall-backs; so we serve a small true one.

use super::vswitch_schema::{Key, Spec, boolean, build, int, one, opt, string};
use super::{DatabaseSchema, TableSchema};

const DATABASE: &[(&str, Spec)] = &[
    ("name", string()),
    ("model", one(Key::Enum(&["standalone", "clustered", "relay"]))),
    ("connected", boolean()),
    ("leader", boolean()),
    ("schema", opt(Key::Str)),
    ("cid", opt(Key::Uuid)),
    ("sid", opt(Key::Uuid)),
    ("index", opt(int())),
];

/// The schema of `_Server`.
pub(crate) fn server_schema() -> DatabaseSchema {
    let tables: Vec<TableSchema> = [super::vswitch_schema::Table {
        name: "Database",
        columns: DATABASE,
        root: true,
        max_rows: u64::MAX,
        index: &[],
    }]
    .iter()
    .filter_map(|table| table.schema().ok())
    .collect();
    build("_Server", "1.2.0", tables)
}
