//! The command line of `ovs-vsctl`: options, then commands separated by `--`, each with options of its own.
//!
//! ```text
//!   vsctl --timeout=5 -- --may-exist add-br br0 -- add-port br0 p0 tag=5 -- set interface p0 type=vhost-user
//!         └ global ┘     └── a call ────────┘    └── a call ──────────┘    └── a call ──────────────────────┘
//! ```
//!
//! clap cannot express this: an option's meaning depends on a command word behind it, and `--` means "next command",
//! not "no more options". So the line is split here first; clap then parses what is left of the global options,
//! and the whole of `vsctl`'s own commands, which follow today's conventions.

use std::collections::BTreeMap;

use crate::commands::{self, Verb};
use crate::error::{Error, usage};

/// The line, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Global options, wherever they stood, in clap's form.
    pub(crate) globals: Vec<String>,
    /// The words between `--`, without global options and without empty segments.
    pub(crate) segments: Vec<Vec<String>>,
}

/// A global option as far as the splitter has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GlobalOption {
    /// Name without dashes.
    pub(crate) long: String,
    /// Letter of the short form.
    pub(crate) short: Option<char>,
    /// Whether it takes a value.
    pub(crate) takes_value: bool,
}

/// Takes the arguments (without the program name) apart.
///
/// Long global options are taken out wherever they stand, so that `vsctl list-br --format json` works; short ones
/// only in front of the first command word, because behind a database command `-1` is a value. Behind an own command it
/// is not, and short ones may stand there too.
///
/// # Errors
/// When a global option lacks its value.
pub(crate) fn split(args: &[String], options: &[GlobalOption]) -> Result<Line, Error> {
    let mut line = Line::default();
    let mut segment: Vec<String> = Vec::new();
    // Whether the first command word is an own command, once it is known.
    let mut own = None;
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            line.segments.extend((!segment.is_empty()).then(|| std::mem::take(&mut segment)));
            continue;
        }
        // The text of a comment is the user's, whatever it looks like.
        let is_comment = segment.first().is_some_and(|word| word == "comment");
        let found = (!is_comment).then(|| find_global(word, options, own != Some(false))).flatten();
        let Some((option, has_value)) = found else {
            if !word.starts_with('-') {
                own.get_or_insert_with(|| commands::is_own(word));
            }
            segment.push(word.clone());
            continue;
        };
        line.globals.push(word.clone());
        if option.takes_value && !has_value {
            let value = words.next().ok_or_else(|| usage!("option {word} needs a value: {word}=VALUE"))?;
            line.globals.push(value.clone());
        }
    }
    line.segments.extend((!segment.is_empty()).then_some(segment));
    Ok(line)
}

/// The global option a word is, and whether its value is part of the word. `short` says whether short ones count.
fn find_global<'o>(word: &str, options: &'o [GlobalOption], short: bool) -> Option<(&'o GlobalOption, bool)> {
    if let Some(long) = word.strip_prefix("--") {
        let name = long.split('=').next()?;
        return options.iter().find(|option| option.long == name).map(|option| (option, long.contains('=')));
    }
    let letter = word.strip_prefix('-')?.chars().next().filter(|_| short)?;
    options.iter().find(|option| option.short == Some(letter)).map(|option| (option, word.len() > 2))
}

/// One command of the chain, checked against the table of verbs.
#[derive(Debug)]
pub(crate) struct Call {
    /// What to do.
    pub(crate) verb: &'static Verb,
    options: BTreeMap<&'static str, String>,
    args: Vec<String>,
}

impl Call {
    /// Whether an argument begins with `column` or an abbreviation of it, as `options:path=…` does. True more often than it
    /// is meant so.
    pub(crate) fn may_name(&self, column: &str) -> bool {
        self.args.iter().any(|argument| {
            let word = argument.to_ascii_lowercase().replace('-', "_");
            let word =
                word.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
            !word.is_empty() && column.starts_with(word)
        })
    }

    /// Reads one segment.
    ///
    /// # Errors
    /// When the command is unknown, an option is not one of its, or the number of arguments is wrong.
    pub(crate) fn parse(segment: &[String]) -> Result<Self, Error> {
        let at = segment
            .iter()
            .position(|word| !word.starts_with('-'))
            .ok_or_else(|| usage!("{}: a command is missing behind the options", segment.join(" ")))?;
        let (before, rest) = segment.split_at(at);
        let (name, args) = rest.split_first().ok_or_else(|| usage!("a command is missing"))?;
        let verb = commands::find(name)?;
        let mut options = BTreeMap::new();
        for word in before {
            let (option, value) = word.split_once('=').map_or((word.as_str(), None), |(o, v)| (o, Some(v)));
            let known = verb.options.iter().find(|known| option.strip_prefix("--") == Some(known.name));
            let known = known
                .ok_or_else(|| usage!("{name} has no option {option}\nusage: vsctl {}", verb.usage_line()))?;
            match (known.value, value) {
                (Some(_), Some(value)) => options.insert(known.name, value.to_owned()),
                (None, None) => options.insert(known.name, String::new()),
                (Some(value), None) => return Err(usage!("option {option} needs a value: {option}={value}")),
                (None, Some(_)) => return Err(usage!("option {option} does not take a value")),
            };
        }
        let (min, max) = verb.arity;
        if args.len() < min || args.len() > max {
            let what = if args.len() < min { "too few" } else { "too many" };
            return Err(usage!("{what} arguments for {name}\nusage: vsctl {}", verb.usage_line()));
        }
        Ok(Self { verb, options, args: args.to_vec() })
    }

    /// Whether the option was given.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    /// The value of an option.
    pub(crate) fn option(&self, option: &str) -> Option<&str> {
        self.options.get(option).map(String::as_str)
    }

    /// The argument at `index`; empty if it was not given. The number of arguments is checked before a verb runs.
    pub(crate) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// The argument at `index`, if given.
    pub(crate) fn optional(&self, index: usize) -> Option<&str> {
        self.args.get(index).map(String::as_str)
    }

    /// The arguments from `index` on.
    pub(crate) fn rest(&self, index: usize) -> &[String] {
        self.args.get(index..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn line(text: &str) -> Line {
        let option =
            |long: &str, short, takes_value| GlobalOption { long: long.to_owned(), short, takes_value };
        let options = [
            option("timeout", Some('t'), true),
            option("no-wait", None, false),
            option("format", Some('f'), true),
        ];
        split(&words(text), &options).unwrap()
    }

    #[test]
    fn libvirts_line() {
        let line =
            line("--timeout=5 -- --if-exists del-port p0 -- add-port br0 p0 tag=5 -- set Interface p0 a:b=c");
        assert_eq!(line.globals, ["--timeout=5"]);
        let segments: Vec<_> = line.segments.iter().map(|segment| segment.join(" ")).collect();
        assert_eq!(segments, ["--if-exists del-port p0", "add-port br0 p0 tag=5", "set Interface p0 a:b=c"]);
    }

    #[test]
    fn global_options_may_stand_behind_the_command() {
        let line = line("list-br --format json --no-wait");
        assert_eq!(line.globals, ["--format", "json", "--no-wait"]);
        assert_eq!(line.segments, [["list-br"]]);
    }

    #[test]
    fn short_options_stand_in_front_only() {
        assert_eq!(line("-t5 -f csv list-br").globals, ["-t5", "-f", "csv"]);
        let line = line("add interface p0 x -t");
        assert!(line.globals.is_empty());
        assert_eq!(line.segments[0].last().unwrap(), "-t");
    }

    #[test]
    fn own_commands_have_no_values_that_look_like_options() {
        let line = line("dump-flows br0 -f csv");
        assert_eq!((line.globals.join(" ").as_str(), line.segments[0].len()), ("-f csv", 2));
    }

    #[test]
    fn a_comment_keeps_its_words() {
        assert_eq!(line("comment use --no-wait here").segments[0].join(" "), "comment use --no-wait here");
    }

    #[test]
    fn calls_check_options_and_arity() {
        let call = Call::parse(&words("--may-exist add-port br0 p0 tag=5")).unwrap();
        assert!(call.has("may-exist"));
        assert_eq!((call.arg(1), call.rest(2)), ("p0", words("tag=5").as_slice()));
        assert_eq!(Call::parse(&words("--id=@x create Mirror name=m")).unwrap().option("id"), Some("@x"));
        for (bad, hint) in [
            ("--may-exist del-br br0", "no option --may-exist"),
            ("--id create Mirror", "--id=@NAME"),
            ("--if-exists=1 del-br br0", "does not take a value"),
            ("add-port br0", "too few"),
            ("list-br x", "too many"),
            ("--may-exist", "missing"),
            ("add-prot br0 p0", "add-port"),
        ] {
            let error = Call::parse(&words(bad)).unwrap_err().to_string();
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }
}
