//! The conversation with the switch, as the rest of `vsctl` sees it.
//!
//! A trait, so that the transaction loop can be tested against scripted answers.

use serde_json::Value;

use crate::error::Error;

/// The table the switch reports its progress in.
pub(crate) const ROOT: &str = "Open_vSwitch";

/// What `vsctl` asks of the switch.
pub(crate) trait Database {
    /// The schema of the database (`get_schema`).
    fn schema(&mut self) -> Result<Value, Error>;

    /// Runs operations as one transaction and returns one result for each, and one more if the commit failed.
    fn transact(&mut self, operations: &[Value]) -> Result<Vec<Value>, Error>;

    /// Asks to be told about changes in these tables (all columns), or in one column if `column` is given.
    fn watch(&mut self, tables: &[String], column: Option<&str>) -> Result<(), Error>;

    /// Waits for the next change in a watched table.
    fn changed(&mut self) -> Result<(), Error>;

    /// Calls any other method and returns its result.
    fn call(&mut self, method: &str, params: Value) -> Result<Value, Error>;
}
