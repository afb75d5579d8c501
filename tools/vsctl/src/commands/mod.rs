//! The commands, one file per verb or family of verbs: its place in the grammar, its help, what it does to the
//! plan, and its tests.
//!
//! Two kinds. *Database commands* ([`Verb`]) have `ovs-vsctl`'s grammar, may be chained with `--`, and only read
//! and write a [`Plan`]: what they do to the switch is the transaction that comes out. *Own commands* ([`Own`]) ask the running
//! switch for what is not in the database (MAC tables, rules, megaflows, counters) and stand alone.

mod admin_state;
mod bridge;
mod database;
mod external_id;
mod fail_mode;
mod init;
mod interface;
mod own;
mod port;
mod show;
mod topology;
mod unsupported;

use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;
use crate::schema::Schema;

pub(crate) use own::{Own, OwnLine, is_own, run as run_own};

/// An option of one verb.
#[derive(Debug)]
pub(crate) struct VerbOption {
    /// Name without dashes.
    pub(crate) name: &'static str,
    /// Placeholder of the value, if it takes one.
    pub(crate) value: Option<&'static str>,
    /// One line of help.
    pub(crate) help: &'static str,
}

/// An option without value.
const fn flag(name: &'static str, help: &'static str) -> VerbOption {
    VerbOption { name, value: None, help }
}

/// A command in `ovs-vsctl`'s grammar.
#[derive(Debug)]
pub(crate) struct Verb {
    /// The command word.
    pub(crate) name: &'static str,
    /// Its arguments as the help shows them.
    pub(crate) args: &'static str,
    /// Smallest and largest number of arguments.
    pub(crate) arity: (usize, usize),
    /// Options that stand in front of the command word.
    pub(crate) options: &'static [VerbOption],
    /// One line of help.
    pub(crate) about: &'static str,
    /// Tables that have to be fetched for this call.
    pub(crate) tables: fn(&Call, &Schema) -> Result<Vec<String>, Error>,
    /// Columns of table `Interface` that have to be fetched, if that is one of them.
    pub(crate) looks_at: Columns,
    /// What it does.
    pub(crate) run: fn(&Call, &mut Plan<'_>) -> Result<Output, Error>,
}

/// Columns of interfaces that a verb looks at, beside their names. Interfaces are most of the database of a host full of guests, and have
/// some fifty columns, statistics among them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Columns {
    /// Those that its arguments name.
    Named,
    /// Those, and one that they do not name.
    NamedAnd(&'static str),
    /// All.
    All,
}

/// As many arguments as the user likes.
const MANY: usize = usize::MAX;

impl Verb {
    /// The line of usage: options, word, arguments.
    pub(crate) fn usage_line(&self) -> String {
        let option = |option: &VerbOption| match option.value {
            Some(value) => format!("[--{}={value}] ", option.name),
            None => format!("[--{}] ", option.name),
        };
        let options: String = self.options.iter().map(option).collect();
        format!("{options}{} {}", self.name, self.args).trim_end().to_owned()
    }
}

/// All verbs, in the order of the help.
pub(crate) fn all() -> impl Iterator<Item = &'static Verb> {
    let groups: [&[Verb]; 10] = [
        init::VERBS,
        show::VERBS,
        bridge::VERBS,
        external_id::VERBS,
        fail_mode::VERBS,
        port::VERBS,
        interface::VERBS,
        admin_state::VERBS,
        database::VERBS,
        unsupported::VERBS,
    ];
    groups.into_iter().flatten()
}

/// The verb called `name`.
///
/// # Errors
/// When there is none; the text names the nearest ones.
pub(crate) fn find(name: &str) -> Result<&'static Verb, Error> {
    if let Some(verb) = all().find(|verb| verb.name == name) {
        return Ok(verb);
    }
    if is_own(name) {
        return Err(usage!("{name} stands alone: it cannot be part of a chain of commands separated by --"));
    }
    let names = all().map(|verb| verb.name).chain(own::NAMES.iter().copied());
    let near: Vec<_> = names.filter(|known| distance(known, name) <= 2).collect();
    let hint = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(" or ")) };
    Err(usage!("unknown command \"{name}\" ({hint}vsctl --help lists all)"))
}

/// Number of inserted, removed and changed letters between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_distinct_and_documented() {
        let mut names: Vec<_> = all().map(|verb| verb.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(all().all(|verb| !verb.about.is_empty() && verb.arity.0 <= verb.arity.1));
        assert!(names.iter().all(|name| !is_own(name)));
    }

    #[test]
    fn edit_distance() {
        for (a, b, d) in
            [("add-br", "add-br", 0), ("add-br", "ad-br", 1), ("add-port", "add-prot", 2), ("", "abc", 3)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }
}
