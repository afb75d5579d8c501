//! `vsctl`'s own commands: questions to the running switch that the database has no columns for. They go over
//! the same socket as further JSON-RPC methods, `vs.*`, and each answers one JSON object.

mod answer;
mod completion;
mod dp;
mod fdb;
mod flows;
mod nic;
mod pmd;
mod pmd_rxq;
mod stats;
mod top;

use std::io::Write;

use clap::{Parser, Subcommand};

use crate::connection::Database;
use crate::error::Error;
use crate::output::Style;

/// A command line that holds one own command.
#[derive(Debug, Parser)]
#[command(name = "vsctl", disable_help_subcommand = true)]
pub(crate) struct OwnLine {
    /// The command.
    #[command(subcommand)]
    pub(crate) own: Own,
}

/// The own commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Own {
    /// Look at or empty the tables of learned MAC addresses
    Fdb(fdb::Args),
    /// Add a rule to a bridge
    AddFlow(flows::Add),
    /// Add the rules in a file to a bridge, all or none
    AddFlows(flows::AddFile),
    /// Delete the rules of a bridge that match
    DelFlows(flows::Delete),
    /// Print the rules of a bridge with their counters
    DumpFlows(flows::Dump),
    /// Look into the data path: the megaflows of each worker
    Dp(dp::Args),
    /// List network devices of the machine; give them to the switch and back
    Nic(nic::Args),
    /// Print the counters of all ports, or of one with its queues, offloads and drop reasons
    Stats(stats::Args),
    /// Print the load of each worker (PMD thread) and of its rx queues
    Pmd(pmd::Args),
    /// Print which worker polls which rx queue, as ovs-appctl dpif-netdev/pmd-rxq-show does
    PmdRxqShow(pmd_rxq::Args),
    /// Watch ports, rates, flows and hit rate live
    Top(top::Args),
    /// Print the completion script of a shell
    Completion(completion::Args),
}

/// Their words, to tell them from database commands before clap sees the line.
pub(crate) const NAMES: &[&str] = &[
    "fdb",
    "add-flow",
    "add-flows",
    "del-flows",
    "dump-flows",
    "dp",
    "nic",
    "stats",
    "pmd",
    "pmd-rxq-show",
    "top",
    "completion",
];

/// Whether `name` is one of them.
pub(crate) fn is_own(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Runs an own command. The connection is made only if it is needed.
///
/// # Errors
/// Whatever the switch objects to, or an output that cannot be written.
pub(crate) fn run(
    own: &Own,
    connect: &mut dyn FnMut() -> Result<Box<dyn Database>, Error>,
    style: Style,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let text = match own {
        Own::Fdb(args) => fdb::run(args, &mut *connect()?, style)?,
        Own::AddFlow(args) => flows::add(args, &mut *connect()?)?,
        Own::AddFlows(args) => flows::add_file(args, &mut *connect()?)?,
        Own::DelFlows(args) => flows::delete(args, &mut *connect()?)?,
        Own::DumpFlows(args) => flows::dump(args, &mut *connect()?, style)?,
        Own::Dp(args) => dp::run(args, &mut *connect()?, style)?,
        Own::Nic(args) => nic::run(args, &mut *connect()?, style)?,
        Own::Stats(args) => stats::run(args, &mut *connect()?, style)?,
        Own::Pmd(_) => pmd::run(&mut *connect()?, style)?,
        Own::PmdRxqShow(_) => pmd_rxq::run(&mut *connect()?)?,
        Own::Top(args) => return top::run(args, &mut *connect()?, style, out),
        Own::Completion(args) => completion::run(args),
    };
    write(out, &text)
}

fn write(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|why| Error::output(&why))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_list_of_names_is_complete() {
        let command = OwnLine::command();
        let mut known: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let mut names = NAMES.to_vec();
        known.sort();
        names.sort_unstable();
        assert_eq!(known, names);
        OwnLine::command().debug_assert();
    }
}
