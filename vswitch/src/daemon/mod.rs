//! `vswitchd`: what the process does from start to stop, on one page.
//!
//! ```text
//!   rundir and pid file ─▶ database ─▶ switch ─▶ configuration ─▶ socket ─▶ (detach) ─▶ wait for a signal
//! ```
//!
//! The first configuration is applied before the socket opens, so whoever can connect finds a switch that does what its
//! database says. Stopping goes the other way.

mod detach;
mod options;
mod pidfile;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vswitch_ovsdb::{Db, Server};

use crate::config::{ConfigError, ConfigThread};
use crate::management::SwitchMethods;
use crate::switch::{Switch, SwitchConfig, SwitchError};

pub use options::Options;
use pidfile::PidFile;

/// Why the daemon did not start.
#[derive(thiserror::Error, Debug)]
pub enum DaemonError {
    /// A file or directory could not be used.
    #[error("{what} {}: {source}{hint}", path.display())]
    File {
        /// What was being done with it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operator can do; begins with a space and parenthesis, or is empty.
        hint: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another daemon has this directory.
    #[error("another vswitchd (process {pid}) runs in {}: stop it, or use another --rundir", rundir.display())]
    Running {
        /// Its process.
        pid: String,
        /// The directory.
        rundir: PathBuf,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] vswitch_ovsdb::OpenError),
    /// The management socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] vswitch_ovsdb::server::ServerError),
    /// The switch did not start.
    #[error("starting the switch: {0}")]
    Switch(#[from] SwitchError),
    /// The database could not be put into force.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A thread or signal handler could not be made.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The daemon.
pub struct Daemon;

impl Daemon {
    /// Runs until SIGTERM or SIGINT. With `--detach` the calling process returns as soon as its child serves.
    pub fn run(options: &Options) -> Result<(), DaemonError> {
        let rundir = options.rundir();
        make_rundir(&rundir)?;
        if options.detach {
            return detach::spawn_and_wait(&rundir);
        }
        let detached = detach::begin();
        let pid_file = PidFile::create(&rundir)?;
        // Before any thread exists, so that all of them leave these signals alone.
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
            .map_err(|source| DaemonError::System { what: "taking signals", source })?;

        let db_file = options.db_file.clone().unwrap_or_else(|| rundir.join("conf.db"));
        let db = open_database(&db_file)?;
        let switch = Switch::start(SwitchConfig { rundir: rundir.clone() })?;
        let config = ConfigThread::start(&db, switch.clone(), switch.watch())?;

        let socket = rundir.join("db.sock");
        let methods = std::sync::Arc::new(SwitchMethods::new(switch.clone()));
        let server = Server::start(&db, &socket, methods)?;
        log::info!("serving {}", socket.display());
        detached.ready();

        wait_for_end(&mut signals);
        log::info!("stopping");
        drop(server);
        drop(config);
        drop(switch);
        drop(pid_file);
        Ok(())
    }
}

fn make_rundir(rundir: &Path) -> Result<(), DaemonError> {
    fs::create_dir_all(rundir).map_err(|source| DaemonError::File {
        what: "making the run directory",
        path: rundir.to_owned(),
        hint: " (choose one you may write with --rundir)",
        source,
    })
}

fn open_database(path: &Path) -> Result<Db, DaemonError> {
    let (db, warnings) = Db::open(path, vswitch_ovsdb::schema::vswitch_schema())?;
    for warning in warnings {
        log::warn!("{}: {warning}", path.display());
    }
    Ok(db)
}

fn wait_for_end(signals: &mut Signals) {
    for signal in signals.forever() {
        // A closed terminal is no reason to stop switching.
        if signal != SIGHUP {
            return;
        }
    }
}
