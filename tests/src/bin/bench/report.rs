//! What was measured: printed as tables and kept as JSON.

use std::env;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tests::failure::{During as _, Result};
use tests::lab::workspace;

use crate::machine;
use crate::stats::{largest, median, paired, smallest};

/// One measured thing, one sample per round.
pub(crate) struct Series {
    name: String,
    samples: Vec<f64>,
}

/// The samples of one row that share a unit, and the ratios between them.
pub(crate) struct Table {
    title: String,
    unit: &'static str,
    series: Vec<Series>,
    ratios: Vec<(String, String)>,
    /// Circumstances, for example the distance of the processors in each round.
    remarks: Vec<String>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, series: Vec::new(), ratios: Vec::new(), remarks: Vec::new() }
    }

    /// Adds a sample to the series `name`.
    pub(crate) fn add(&mut self, name: &str, sample: f64) {
        match self.series.iter_mut().find(|s| s.name == name) {
            Some(series) => series.samples.push(sample),
            None => self.series.push(Series { name: name.to_owned(), samples: vec![sample] }),
        }
    }

    /// Asks for the ratio of two series, paired by round.
    pub(crate) fn compare(&mut self, first: &str, second: &str) {
        self.ratios.push((first.to_owned(), second.to_owned()));
    }

    /// Adds a line to be printed below.
    pub(crate) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    fn samples(&self, name: &str) -> &[f64] {
        self.series.iter().find(|s| s.name == name).map_or(&[], |s| &s.samples)
    }

    fn print(&self) {
        println!("\n{} [{}]", self.title, self.unit);
        println!("  {:<44} {:>9} {:>9} {:>9}  samples", "", "median", "smallest", "largest");
        for Series { name, samples } in &self.series {
            let (middle, low, high) = (median(samples), smallest(samples), largest(samples));
            println!("  {name:<44} {middle:>9.2} {low:>9.2} {high:>9.2}  {}", list(samples));
        }
        for (first, second) in &self.ratios {
            let ratios = paired(self.samples(first), self.samples(second));
            let name = format!("{first} / {second}");
            println!("  {name:<64} {:>6.2} x  {}", median(&ratios), list(&ratios));
        }
        for remark in &self.remarks {
            println!("  {remark}");
        }
    }

    fn to_json(&self, row: &str) -> Value {
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|s| {
                json!({
                    "name": s.name, "samples": s.samples, "median": median(&s.samples),
                    "smallest": smallest(&s.samples), "largest": largest(&s.samples),
                })
            })
            .collect();
        let ratios: Vec<Value> = self
            .ratios
            .iter()
            .map(|(first, second)| {
                let ratios = paired(self.samples(first), self.samples(second));
                json!({ "of": first, "to": second, "samples": ratios, "median": median(&ratios) })
            })
            .collect();
        json!({
            "row": row, "title": self.title, "unit": self.unit, "series": series, "ratios": ratios,
            "remarks": self.remarks,
        })
    }
}

fn list(samples: &[f64]) -> String {
    samples.iter().map(|s| format!("{s:.2}")).collect::<Vec<_>>().join(" ")
}

/// All tables of a run.
pub(crate) struct Report {
    machine: Value,
    row: &'static str,
    tables: Vec<(&'static str, Table)>,
}

impl Report {
    /// An empty report about `machine`.
    pub(crate) fn new(machine: Value) -> Self {
        Self { machine, row: "", tables: Vec::new() }
    }

    /// Tables that follow belong to `row`.
    pub(crate) fn begin(&mut self, row: &'static str) {
        println!("{row}: load {:.1}", machine::load());
        self.row = row;
    }

    /// Takes a finished table.
    pub(crate) fn push(&mut self, table: Table) {
        self.tables.push((self.row, table));
    }

    /// Prints everything.
    pub(crate) fn print(&self) {
        if let Value::Object(fields) = &self.machine {
            let text: Vec<String> =
                fields.iter().map(|(k, v)| format!("{k} {}", v.to_string().trim_matches('"'))).collect();
            println!("\n{}", text.join(", "));
        }
        for (_, table) in &self.tables {
            table.print();
        }
    }

    /// Writes `results.json` and gives its path.
    ///
    /// # Errors
    /// The target folder is not writable.
    pub(crate) fn save(&self) -> Result<PathBuf> {
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
        let folder = target.join("bench");
        fs::create_dir_all(&folder).during(folder.display())?;
        let path = folder.join("results.json");
        let tables: Vec<Value> = self.tables.iter().map(|(row, table)| table.to_json(row)).collect();
        let text = serde_json::to_string_pretty(&json!({ "machine": self.machine, "tables": tables }));
        fs::write(&path, text.during("results")? + "\n").during(path.display())?;
        Ok(path)
    }
}
