//! The command line of `vswitchd`.

use std::path::PathBuf;

use clap::Parser;

/// A virtual switch in user space for hosts that run QEMU guests.
#[derive(Parser, Clone, Debug)]
#[command(name = "vswitchd", version)]
pub struct Options {
    /// Directory for the management socket (db.sock), the database, the pid file and guests' sockets
    /// [default: $OVS_RUNDIR or /run/vswitch]
    #[arg(long, value_name = "DIR")]
    rundir: Option<PathBuf>,

    /// Database file [default: DIR/conf.db]
    #[arg(long, value_name = "FILE")]
    pub(super) db_file: Option<PathBuf>,

    /// Go to the background once the switch serves
    #[arg(long)]
    pub(super) detach: bool,

    /// Say more: -v for what happens, -vv for every step. RUST_LOG overrides it
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Options {
    /// What to log when `RUST_LOG` does not say.
    pub fn log_filter(&self) -> &'static str {
        match self.verbose {
            // What that crate calls errors are devices that somebody still has mapped when they are closed; what matters comes back to us.
            0 => "info,vfio_ioctls=off",
            1 => "debug",
            _ => "trace",
        }
    }

    pub(super) fn rundir(&self) -> PathBuf {
        let from_env = || std::env::var_os("OVS_RUNDIR").map(PathBuf::from);
        self.rundir.clone().or_else(from_env).unwrap_or_else(|| "/run/vswitch".into())
    }
}
