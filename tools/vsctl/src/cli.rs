//! The command line: global options, help, and which kind of command it is.

use clap::{Arg, ArgAction, Command, CommandFactory, Parser};

use crate::commands::{self, Own, OwnLine};
use crate::error::{Error, usage};
use crate::grammar::{Call, GlobalOption, split};
use crate::output::{Data, Format, Style};

const ABOUT: &str = "Look at and change a running vswitchd";

const LONG_ABOUT: &str = "Look at and change a running vswitchd.

Database commands have the grammar of ovs-vsctl: options of a command stand in front of it, and several commands
separated by -- are applied as one transaction, all or none:

    vsctl --may-exist add-br br0 -- add-port br0 p0 tag=5 -- set interface p0 type=vhost-user

The other commands (fdb, flows, dp, nic, stats, pmd, top) stand alone. vsctl COMMAND --help explains one command.";

/// Global options. They may stand in front of the command, and those with long names behind it as well.
#[derive(Debug, Clone, Parser)]
#[command(name = "vsctl", version, about = ABOUT, disable_help_flag = true, disable_version_flag = true,
    args_override_self = true)]
pub(crate) struct Globals {
    /// Socket of the switch: unix:PATH [default: unix:$OVS_RUNDIR/db.sock or unix:/run/vswitch/db.sock]
    #[arg(long, value_name = "unix:PATH")]
    pub(crate) db: Option<String>,
    /// Give up after this many seconds, with exit code 142; 0 waits for ever
    #[arg(short, long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) timeout: u64,
    /// Do not wait until the switch runs with the change
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Have the change checked by the switch, but not applied
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the output of each command on one line, line ends as \n
    #[arg(long)]
    pub(crate) oneline: bool,
    /// Layout of tables
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    format: Option<Format>,
    /// Form of the values in tables
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Data::String)]
    data: Data,
    /// Leave the headings out of tables
    #[arg(long)]
    no_headings: bool,
    /// Short for --format=list --data=bare --no-headings
    #[arg(long)]
    bare: bool,
    /// Print the messages to and from the switch on standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print help
    #[arg(short, long)]
    help: bool,
    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,
}

impl Globals {
    /// How tables are printed.
    pub(crate) fn style(&self) -> Style {
        if self.bare {
            return Style {
                format: Some(self.format.unwrap_or(Format::List)),
                data: Data::Bare,
                headings: false,
            };
        }
        Style { format: self.format, data: self.data, headings: !self.no_headings }
    }
}

/// What the user wants.
#[derive(Debug)]
pub(crate) enum Request {
    /// Print this text.
    Print(String),
    /// A chain of database commands.
    Chain(Vec<Call>),
    /// One own command.
    Own(Own),
}

/// Reads the arguments (without the program name).
///
/// # Errors
/// When the line is not understood; the text says what is wrong with it.
pub(crate) fn parse(args: &[String]) -> Result<(Globals, Request), Error> {
    let line = split(args, &global_options())?;
    let words = std::iter::once("vsctl").chain(line.globals.iter().map(String::as_str));
    let globals = Globals::try_parse_from(words).map_err(|why| from_clap(&why))?;
    let command =
        line.segments.first().and_then(|segment| segment.iter().find(|word| !word.starts_with('-')));
    let request = if globals.version {
        Request::Print(format!("vsctl {}\n", env!("CARGO_PKG_VERSION")))
    } else if globals.help || command.is_some_and(|word| word == "help") {
        let about = line.segments.iter().flatten().filter(|word| *word != "help" && !word.starts_with('-'));
        Request::Print(help(&about.map(String::as_str).collect::<Vec<_>>())?)
    } else {
        match line.segments.as_slice() {
            [] => return Err(usage!("a command is missing (vsctl --help lists all)")),
            [only] if command.is_some_and(|word| commands::is_own(word)) => Request::Own(own(only)?),
            segments => {
                Request::Chain(segments.iter().map(|segment| Call::parse(segment)).collect::<Result<_, _>>()?)
            }
        }
    };
    Ok((globals, request))
}

/// Reads an own command. As with database commands, its options may stand in front of it.
fn own(segment: &[String]) -> Result<Own, Error> {
    let at = segment.iter().position(|word| !word.starts_with('-')).unwrap_or(0);
    let (before, rest) = segment.split_at(at);
    let (name, behind) = rest.split_first().ok_or_else(|| usage!("a command is missing"))?;
    let words = ["vsctl", name].into_iter().chain(before.iter().chain(behind).map(String::as_str));
    OwnLine::try_parse_from(words).map(|line| line.own).map_err(|why| from_clap(&why))
}

/// clap's message without its prefix, ours is put in front of every error, and without its tips: they do not know
/// that `--` separates commands here.
fn from_clap(why: &clap::Error) -> Error {
    let text = why.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let noise = |line: &&str| {
        line.is_empty() || line.starts_with("  tip:") || line.starts_with("For more information")
    };
    Error::Usage(text.lines().filter(|line| !noise(line)).collect::<Vec<_>>().join("\n"))
}

/// The global options as the splitter needs them.
fn global_options() -> Vec<GlobalOption> {
    let option = |arg: &Arg| {
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        Some(GlobalOption { long: arg.get_long()?.to_owned(), short: arg.get_short(), takes_value })
    };
    Globals::command().get_arguments().filter_map(option).collect()
}

/// All commands and options as one clap command, for help and completion. It is never used to parse.
pub(crate) fn full_command() -> Command {
    let verb = |verb: &'static commands::Verb| {
        let option = |option: &'static commands::VerbOption| {
            let arg = Arg::new(option.name).long(option.name).help(option.help);
            match option.value {
                Some(value) => arg.value_name(value).action(ArgAction::Set),
                None => arg.action(ArgAction::SetTrue),
            }
        };
        let words =
            (verb.arity.1 > 0).then(|| Arg::new("words").value_name("ARGUMENT").num_args(0..).hide(true));
        Command::new(verb.name)
            .about(verb.about)
            .override_usage(format!("vsctl [GLOBAL OPTIONS] {}", verb.usage_line()))
            .disable_help_flag(true)
            .args(verb.options.iter().map(option))
            .args(words)
    };
    Globals::command()
        .long_about(LONG_ABOUT)
        .override_usage("vsctl [OPTIONS] COMMAND [ARGUMENT]... [-- [OPTIONS] COMMAND [ARGUMENT]...]...")
        .subcommands(commands::all().map(verb))
        .subcommands(OwnLine::command().get_subcommands().cloned())
}

fn help(about: &[&str]) -> Result<String, Error> {
    let mut command = full_command();
    command.build();
    for word in about {
        // Words behind the command are its arguments.
        match command.find_subcommand(word) {
            Some(sub) => command = sub.clone(),
            None if command.get_name() == "vsctl" => {
                commands::find(word)?;
            }
            None => break,
        }
    }
    Ok(command.render_long_help().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<(Globals, Request), Error> {
        parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_full_command_is_consistent() {
        full_command().debug_assert();
    }

    #[test]
    fn the_manual_has_every_command_and_option() {
        let manual = include_str!("../../../docs/vsctl.md");
        let words: Vec<_> = manual.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        for sub in full_command().get_subcommands() {
            assert!(words.contains(&sub.get_name()), "{}", sub.get_name());
        }
        let verbs = full_command();
        let options = verbs.get_subcommands().flat_map(Command::get_arguments).chain(verbs.get_arguments());
        for long in options.filter_map(Arg::get_long) {
            assert!(words.contains(&format!("--{long}").as_str()), "--{long}");
        }
    }

    #[test]
    fn kinds_of_requests() {
        let (globals, request) = line("-t5 --db unix:/x --no-wait add-br br0 -- list-br").unwrap();
        assert_eq!((globals.timeout, globals.db.as_deref(), globals.no_wait), (5, Some("unix:/x"), true));
        assert!(matches!(request, Request::Chain(calls) if calls.len() == 2));
        assert!(matches!(line("fdb show br0 --format csv").unwrap().1, Request::Own(Own::Fdb(_))));
        assert!(matches!(line("--strict del-flows br0").unwrap().1, Request::Own(Own::DelFlows(_))));
        assert!(matches!(line("--version").unwrap().1, Request::Print(text) if text.starts_with("vsctl ")));
    }

    #[test]
    fn help_of_everything_and_of_one_command() {
        let text = |words| match line(words).unwrap().1 {
            Request::Print(text) => text,
            other => panic!("{other:?}"),
        };
        let all = text("--help");
        for word in ["add-port", "dump-flows", "wait-until", "--no-wait", "one transaction"] {
            assert!(all.contains(word), "{word} in\n{all}");
        }
        assert!(text("add-port --help").contains("[--may-exist] add-port BRIDGE PORT"));
        assert!(text("help fdb show").contains("MAC"));
        assert!(text("help").contains("add-port"));
    }

    #[test]
    fn errors_say_what_to_do() {
        for (words, hint) in [
            ("--timeout=x list-br", "timeout"),
            ("--nonsense", "command is missing"),
            ("fdb show -- list-br", "stands alone"),
            ("list-br -- fdb show", "stands alone"),
            ("dump-flows", "BRIDGE"),
            ("fdb shw", "shw"),
            ("add-prot", "add-port"),
            ("help add-prot", "add-port"),
            ("--format=xml list-br", "table"),
        ] {
            let error = line(words).unwrap_err().to_string();
            assert!(error.contains(hint), "{words}: {error}");
            assert!(!error.starts_with("error") && !error.contains("tip:"), "{error}");
        }
    }
}
