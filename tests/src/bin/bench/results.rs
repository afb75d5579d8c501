//! `results.json`: what every row last gave, each with the day and the commit it was measured at.
//!
//! A run replaces the rows it measured and keeps the others, so that one slow row can be repeated without the rest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::failure::{During as _, Result};
use ::tests::lab::workspace;
use serde_json::{Value, json};

use crate::table::Table;

/// A table, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Name of the row.
    pub(crate) row: String,
    /// Day it was measured.
    pub(crate) date: String,
    /// Commit it was measured at, with `-dirty` behind it if files had been changed.
    pub(crate) commit: String,
    /// What was measured.
    pub(crate) table: Table,
}

/// Everything in `results.json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results {
    /// The machine of the newest run.
    pub(crate) machine: Value,
    /// All tables, in the order of the rows.
    pub(crate) entries: Vec<Entry>,
}

impl Results {
    /// The newest results: those in `path`, or, in a working copy where nothing was measured yet, those that are committed under the same name.
    pub(crate) fn newest(path: &Path) -> Self {
        let committed = committed().join(path.file_name().unwrap_or_default());
        Self::load(if path.exists() { path } else { &committed })
    }

    /// Reads a file. What cannot be understood (there is no file yet, or it is of an older bench) counts as nothing.
    pub(crate) fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        Self::from_json(&serde_json::from_str(&text).unwrap_or_default())
    }

    fn from_json(value: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or("unknown").to_owned();
        let entry = |v: &Value| {
            let row = v["row"].as_str()?.to_owned();
            Some(Entry {
                row,
                date: text(&v["date"]),
                commit: text(&v["commit"]),
                table: Table::from_json(v)?,
            })
        };
        let tables = value["tables"].as_array();
        Self {
            machine: value["machine"].clone(),
            entries: tables.into_iter().flatten().filter_map(entry).collect(),
        }
    }

    fn to_json(&self) -> Value {
        let table = |e: &Entry| {
            let mut value = json!({ "row": e.row, "date": e.date, "commit": e.commit });
            if let (Value::Object(fields), Value::Object(rest)) = (&mut value, e.table.to_json()) {
                fields.extend(rest);
            }
            value
        };
        json!({ "machine": self.machine, "tables": self.entries.iter().map(table).collect::<Vec<_>>() })
    }

    /// Puts `fresh` in the place of what was known of its rows, in the order `rows`; others follow.
    pub(crate) fn merge(&mut self, fresh: &[Entry], rows: &[&str]) {
        self.entries.retain(|old| fresh.iter().all(|new| new.row != old.row));
        self.entries.extend_from_slice(fresh);
        let place = |e: &Entry| rows.iter().position(|r| *r == e.row).unwrap_or(rows.len());
        self.entries.sort_by_key(place);
    }

    /// Writes a file, as a whole or not at all.
    ///
    /// # Errors
    /// The folder is not writable.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).during(folder.display())?;
        }
        let text = serde_json::to_string_pretty(&self.to_json()).during("results")? + "\n";
        let draft = path.with_extension("json.new");
        fs::write(&draft, text).during(draft.display())?;
        fs::rename(&draft, path).during(path.display())
    }
}

/// Where runs leave what: `results.json` of runs that count, `trial.json` of looks at a change.
pub(crate) fn file(name: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("bench").join(name)
}

/// The folder of what is committed: plots, and the results they were made from.
pub(crate) fn committed() -> PathBuf {
    workspace().join("docs/perf")
}

/// Today and the commit of the tree, as recorded with each row.
pub(crate) fn stamp() -> (String, String) {
    let output = |program: &str, arguments: &[&str]| {
        let out = Command::new(program).args(arguments).current_dir(workspace()).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        Some(text).filter(|t| out.status.success() && !t.is_empty())
    };
    let unknown = || "unknown".to_owned();
    (
        output("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
        output("git", &["describe", "--always", "--dirty", "--abbrev=10"]).unwrap_or_else(unknown),
    )
}

#[cfg(test)]
mod tests {
    use super::{Entry, Results};
    use crate::table::Table;

    fn entry(row: &str, title: &str) -> Entry {
        let table = Table::new(title, "Mpps");
        Entry { row: row.into(), date: "2026-11-28".into(), commit: "abc".into(), table }
    }

    fn titles(results: &Results) -> Vec<&str> {
        results.entries.iter().map(|e| e.table.title.as_str()).collect()
    }

    #[test]
    fn a_row_measured_again_replaces_all_its_tables_and_no_others() {
        let mut results = Results {
            entries: vec![entry("loop64", "a"), entry("idle", "b"), entry("idle", "c"), entry("gone", "d")],
            ..Results::default()
        };
        results.merge(&[entry("idle", "new")], &["idle", "loop64"]);
        assert_eq!(titles(&results), ["new", "a", "d"]);
    }

    #[test]
    fn results_survive_json() {
        let results = Results { entries: vec![entry("loop64", "a")], ..Results::default() };
        let back = Results::from_json(&results.to_json());
        assert_eq!(back.entries, results.entries);
    }

    #[test]
    fn a_file_of_another_kind_counts_as_nothing() {
        let strange = serde_json::json!({ "tables": [{ "row": 5 }, { "row": "x", "title": "no unit" }] });
        assert!(Results::from_json(&strange).entries.is_empty());
        assert!(Results::from_json(&serde_json::json!(null)).entries.is_empty());
    }
}
