//! placeholder
use serde_json::Value;
use crate::connection::Database;
use crate::error::{Error, failed};
pub(crate) struct Socket;
impl Socket {
    pub(crate) fn connect(_: Option<&str>, _: bool) -> Result<Self, Error> {
        Err(Error::Connection("not yet".to_owned()))
    }
}
impl Database for Socket {
    fn schema(&mut self) -> Result<Value, Error> { Err(failed!("")) }
    fn transact(&mut self, _: &[Value]) -> Result<Vec<Value>, Error> { Err(failed!("")) }
    fn watch(&mut self, _: &[String], _: Option<&str>) -> Result<(), Error> { Err(failed!("")) }
    fn changed(&mut self) -> Result<(), Error> { Err(failed!("")) }
    fn call(&mut self, _: &str, _: Value) -> Result<Value, Error> { Err(failed!("")) }
}
