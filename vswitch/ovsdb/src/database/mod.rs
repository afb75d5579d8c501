//! The database in memory: immutable snapshots, the working copy of a transaction, the rules of a commit.

mod changes;
mod db;
mod integrity;
mod repair;
mod snapshot;
mod view;
mod working;

pub(crate) use changes::{Change, changes};
pub(crate) use db::{CommitOptions, Failure, Hook};
pub use db::{Db, Subscription};
pub(crate) use repair::repair;
pub use snapshot::Snapshot;
pub(crate) use snapshot::{Row, Table};
pub use view::{RowView, TableView};
pub(crate) use working::Working;
