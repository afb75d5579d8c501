//! The connection to the switch: OVSDB over a unix socket.
//!
//! Framing, ids and keep-alives are `vswitch_ovsdb`'s; here are the address, the methods `vsctl` uses, and what to tell
//! the user when nobody answers.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use vswitch_ovsdb::client::{Client, ClientError};

use crate::connection::Database;
use crate::error::{Error, failed};
use crate::schema::DATABASE;

/// The directory of `vswitchd --rundir` if neither that nor `$OVS_RUNDIR` says otherwise.
const RUNDIR: &str = "/run/vswitch";

/// How long one sleep for a notification lasts. Only `--timeout` bounds the wait as a whole.
const NAP: Duration = Duration::from_secs(3600);

/// A connection to the switch.
#[derive(Debug)]
pub(crate) struct Socket {
    client: Client,
    verbose: bool,
    monitors: usize,
}

/// The socket in `$OVS_RUNDIR`, or in the default directory.
fn default_address(rundir: Option<&str>) -> String {
    let rundir = rundir.filter(|rundir| !rundir.is_empty()).unwrap_or(RUNDIR);
    format!("unix:{rundir}/db.sock")
}

impl Socket {
    /// Connects to `address`, or to the default one.
    ///
    /// # Errors
    /// When nobody listens there, with what to do about it.
    pub(crate) fn connect(address: Option<&str>, verbose: bool) -> Result<Self, Error> {
        let rundir = std::env::var("OVS_RUNDIR").ok();
        let address = address.map_or_else(|| default_address(rundir.as_deref()), str::to_owned);
        let client = Client::connect(&address).map_err(|why| explain_connect(&why))?;
        Ok(Self { client, verbose, monitors: 0 })
    }

    fn request(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        if self.verbose {
            eprintln!("vsctl: -> {method} {params}");
        }
        let answer = self.client.call(method, params);
        if self.verbose {
            match &answer {
                Ok(result) => eprintln!("vsctl: <- {result}"),
                Err(why) => eprintln!("vsctl: <- {why}"),
            }
        }
        answer.map_err(|why| explain(method, &why))
    }
}

/// What to do when there is no connection.
fn explain_connect(why: &ClientError) -> Error {
    let ClientError::Connect { path, source } = why else {
        return Error::Usage(format!("--db: {why}"));
    };
    let rundir = Path::new(path).parent().unwrap_or_else(|| Path::new(RUNDIR)).display();
    Error::Connection(match source.kind() {
        ErrorKind::NotFound => format!(
            "is vswitchd running? no socket at {path}: start it with `vswitchd --rundir {rundir}`, or name its socket with --db unix:PATH"
        ),
        ErrorKind::ConnectionRefused => format!(
            "nobody listens at {path}: vswitchd has ended and left its socket behind; start it with `vswitchd --rundir {rundir}`"
        ),
        ErrorKind::PermissionDenied => {
            format!("no permission for {path}: run vsctl as the user that runs vswitchd, or as root")
        }
        _ => format!("cannot connect to {path}: {source}"),
    })
}

/// What to tell when a request fails.
fn explain(method: &str, why: &ClientError) -> Error {
    match why {
        ClientError::Refused { error, .. } if error == "unknown method" => {
            failed!(
                "this switch does not know {method}: vswitchd is older than vsctl, or not vswitchd at all"
            )
        }
        // The switch's own words are the message; the tag of RFC 7047 adds nothing to them.
        ClientError::Refused { error, details } if error == "failed" && !details.is_empty() => {
            failed!("{details}")
        }
        ClientError::Refused { .. } | ClientError::Transaction { .. } => failed!("{method}: {why}"),
        ClientError::Io(_) => {
            Error::Connection(format!("{why} (vswitchd ended, or closed the connection; see its log)"))
        }
        _ => Error::Connection(why.to_string()),
    }
}

impl Database for Socket {
    fn schema(&mut self) -> Result<Value, Error> {
        self.request("get_schema", &json!([DATABASE]))
    }

    fn transact(&mut self, operations: &[Value]) -> Result<Vec<Value>, Error> {
        let params: Vec<_> = std::iter::once(json!(DATABASE)).chain(operations.iter().cloned()).collect();
        match self.request("transact", &Value::Array(params))? {
            Value::Array(results) => Ok(results),
            other => Err(failed!("the server answered a transaction with {other}")),
        }
    }

    fn watch(&mut self, tables: &[String], column: Option<&str>) -> Result<(), Error> {
        let request = match column {
            Some(column) => json!({"columns": [column]}),
            None => json!({}),
        };
        let requests: Map<_, _> = tables.iter().map(|table| (table.clone(), request.clone())).collect();
        self.monitors += 1;
        self.request("monitor", &json!([DATABASE, format!("vsctl-{}", self.monitors), requests])).map(|_| ())
    }

    fn changed(&mut self) -> Result<(), Error> {
        loop {
            match self.client.next_update(NAP).map_err(|why| explain("monitor", &why))? {
                Some(notice) if notice.method == "update" => return Ok(()),
                Some(_) | None => {}
            }
        }
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value, Error> {
        self.request(method, &params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(default_address(None), "unix:/run/vswitch/db.sock");
        assert_eq!(default_address(Some("")), "unix:/run/vswitch/db.sock");
        assert_eq!(default_address(Some("/tmp/x")), "unix:/tmp/x/db.sock");
    }

    #[test]
    fn nobody_there_says_how_to_start_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sock");
        let address = format!("unix:{}", path.display());
        let text = |address: &str| Socket::connect(Some(address), false).unwrap_err().to_string();
        assert!(text(&address).contains(&format!("vswitchd --rundir {}", dir.path().display())));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(text(&address).contains("left its socket behind"));
        assert!(text("tcp:1.2.3.4:6640").contains("unix:PATH"));
    }
}
