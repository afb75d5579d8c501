//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::memory::HugePages;

/// Plays two guests on two vhost-user ports of a switch and measures what gets through.
///
/// Connects to two listening sockets, sends frames from A to B and from B to A, and prints one JSON object.
#[derive(Debug, Parser)]
#[command(name = "vsgen", version)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Rates, loss and latencies of one or two streams.
    #[command(after_help = STREAM_HELP)]
    Run(RunArgs),
    /// How long a frame takes after a silence, kick and wake-up included.
    Wake(WakeArgs),
}

const STREAM_HELP: &str = "\
STREAM is key=value,key=value…; a direction without one sends nothing:
  size=64         bytes on the wire with FCS; above 1518 a GSO frame (--offload tso, proto=tcp)
  flows=1         5-tuples that take turns, up to 16777216
  dst-nets=1      destination networks over which the flows are spread, up to 256
  proto=udp|tcp
  rate=closed     keep window=256 frames in flight; or max; or frames a second, paced: 2.5M, 300k, 1000
  new=50k         instead of rate and flows: so many frames a second, each a flow never seen before
  latency=yes|no  measure it; default yes for paced streams";

/// The switch's ports, and where we run.
#[derive(Debug, Args)]
pub(crate) struct Ports {
    /// Socket of port A; `listen:PATH` if the switch is the one that connects.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) a: PathBuf,
    /// Socket of port B, likewise.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) b: PathBuf,
    /// CPU to stay on.
    #[arg(long, value_name = "CPU")]
    pub(crate) core: Option<u32>,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Where.
    #[command(flatten)]
    pub(crate) ports: Ports,
    /// Seconds of traffic before counting.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) settle: f64,
    /// Seconds counted.
    #[arg(long, default_value_t = 3.0, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Layout of the rings.
    #[arg(long, value_enum, default_value_t = Layout::Split)]
    pub(crate) ring: Layout,
    /// Entries of each ring: a power of two.
    #[arg(long, default_value_t = 1024, value_name = "ENTRIES")]
    pub(crate) ring_size: u16,
    /// Offloads to negotiate.
    #[arg(long, value_enum, default_value_t = Offload::None)]
    pub(crate) offload: Offload,
    /// Huge pages for the guests' memory.
    #[arg(long, value_enum, default_value_t = HugePages::Auto)]
    pub(crate) hugepages: HugePages,
    /// First send a frame each way, for a learning bridge.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "yes", default_missing_value = "yes")]
    pub(crate) learn: YesNo,
    /// How often the switch goes away and comes back before anything is counted.
    #[arg(long, default_value_t = 0, value_name = "TIMES")]
    pub(crate) restarts: u32,
    /// What A sends to B.
    #[arg(long, value_name = "STREAM")]
    pub(crate) ab: Option<String>,
    /// What B sends to A.
    #[arg(long, value_name = "STREAM")]
    pub(crate) ba: Option<String>,
}

/// `wake`.
#[derive(Debug, Args)]
pub(crate) struct WakeArgs {
    /// Where.
    #[command(flatten)]
    pub(crate) ports: Ports,
    /// Frames.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Milliseconds of silence before each.
    #[arg(long, default_value_t = 50, value_name = "MILLISECONDS")]
    pub(crate) gap: u32,
}

/// Ring layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// Split rings.
    Split,
    /// Packed rings.
    Packed,
}

/// Offloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Offload {
    /// None.
    None,
    /// Checksums and TCP segmentation, both ways.
    Tso,
}

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum YesNo {
    /// Do.
    Yes,
    /// Do not.
    No,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.0..=86_400.0).contains(s));
    seconds.ok_or_else(|| "a number of seconds is wanted, a day at most".to_owned())
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    seconds(text).and_then(|s| if s > 0.0 { Ok(s) } else { Err("more than 0 is wanted".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn learning_is_on_unless_switched_off() {
        for (option, expected) in [
            ("", YesNo::Yes),
            ("--learn", YesNo::Yes),
            ("--learn=no", YesNo::No),
            ("--learn=yes", YesNo::Yes),
        ] {
            let cli = parse(&format!("vsgen run --a x --b y {option} --ab size=64")).unwrap();
            let Command::Run(run) = cli.command else { panic!("not run") };
            assert_eq!(run.learn, expected, "{option}");
            assert_eq!(run.ab.as_deref(), Some("size=64"));
            assert_eq!((run.seconds, run.settle, run.ring_size), (3.0, 1.0, 1024));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "vsgen",
            "vsgen run --a x",
            "vsgen run --a x --b y --seconds 0",
            "vsgen run --a x --b y --seconds nan",
            "vsgen run --a x --b y --ring-size 65536",
            "vsgen wake --a x --b y --count 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
