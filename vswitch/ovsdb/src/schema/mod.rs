//! Database schemas (RFC 7047 section 3.2): what tables there are and what their columns may hold.

mod column_type;
mod database_schema;
mod parse;
mod server_schema;
mod vswitch_schema;

pub use column_type::{BaseType, ColumnType, Constraint};
pub(crate) use database_schema::ReferenceColumn;
pub use database_schema::{Column, ColumnSchema, DatabaseSchema, TableSchema};
pub(crate) use server_schema::server_schema;
pub use vswitch_schema::vswitch_schema;
