//! Serves an `Open_vSwitch` database without a switch behind it: for trying clients.
//!
//! `cargo run -p vswitch-ovsdb --example serve -- /tmp/conf.db /tmp/db.sock`, then for example
//! `ovs-vsctl --no-wait --db=unix:/tmp/db.sock add-br br0`. Ends with its standard input.

use std::path::Path;
use std::sync::Arc;

use vswitch_ovsdb::{Datum, Db, NoMethods, Server, schema::vswitch_schema};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, socket] = arguments.as_slice() else {
        return Err("usage: serve DATABASE-FILE SOCKET".into());
    };
    let (db, warnings) = Db::open(Path::new(file), vswitch_schema())?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    db.transact_local(|txn| {
        if txn.snapshot().table("Open_vSwitch").is_empty() {
            txn.insert("Open_vSwitch", [("ovs_version", Datum::from(env!("CARGO_PKG_VERSION")))])?;
        }
        Ok(())
    })?;
    let _server = Server::start(&db, Path::new(socket), Arc::new(NoMethods))?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
