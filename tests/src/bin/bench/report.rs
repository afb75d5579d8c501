//! What this run measured so far, on the way to the screen and to `results.json`.

use std::path::PathBuf;

use serde_json::Value;
use tests::failure::Result;

use crate::machine;
use crate::results::{self, Entry, Results};
pub(crate) use crate::table::Table;

/// All tables of a run.
pub(crate) struct Report {
    machine: Value,
    rows: Vec<&'static str>,
    row: &'static str,
    entries: Vec<Entry>,
    stamp: (String, String),
    path: PathBuf,
}

impl Report {
    /// An empty report about `machine`, to be merged into the file at `path`, whose rows stand in the order `rows`.
    pub(crate) fn new(machine: Value, rows: Vec<&'static str>, path: PathBuf) -> Self {
        Self { machine, rows, row: "", entries: Vec::new(), stamp: results::stamp(), path }
    }

    /// Tables that follow belong to `row`.
    pub(crate) fn begin(&mut self, row: &'static str) {
        println!("{row}: load {:.1}", machine::load());
        self.row = row;
    }

    /// Takes a finished table.
    pub(crate) fn push(&mut self, table: Table) {
        let (date, commit) = self.stamp.clone();
        self.entries.push(Entry { row: self.row.to_owned(), date, commit, table });
    }

    /// Notes that the row could not be measured.
    pub(crate) fn fail(&mut self, why: &str) {
        let mut table = Table::new(format!("{} could not be measured", self.row), "");
        table.fail(why);
        self.push(table);
    }

    /// Whether anything failed.
    pub(crate) fn failed(&self) -> bool {
        self.entries.iter().any(|e| !e.table.failures.is_empty())
    }

    /// Prints every table of this run.
    pub(crate) fn print(&self) {
        if let Value::Object(fields) = &self.machine {
            let text: Vec<String> =
                fields.iter().map(|(k, v)| format!("{k} {}", v.to_string().trim_matches('"'))).collect();
            println!("\n{}", text.join(", "));
        }
        for entry in &self.entries {
            entry.table.print();
        }
    }

    /// Merges what has been measured into the file and gives everything that is in it now.
    ///
    /// # Errors
    /// The target folder is not writable.
    pub(crate) fn save(&self) -> Result<Results> {
        let mut all = Results::newest(&self.path);
        all.machine = self.machine.clone();
        all.merge(&self.entries, &self.rows);
        all.save(&self.path)?;
        Ok(all)
    }
}
