//! The recorded numbers, and the comparison with them.
//!
//! Valgrind shows every program the same processor, whatever the machine has, as long as it has AVX2; so what the C library and
//! we choose by processor at run time is the same everywhere. What is left is who compiled: another compiler or C library
//! gives other counts for the same source. With those the comparison is still made, but only a difference that no compiler
//! explains fails.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use ::tests::failure::{During as _, Failure, Result};
use serde_json::{Map, Value, json};

/// How far a number may be from its record, in percent: compilers place things differently after unrelated changes.
const TOLERANCE: f64 = 3.0;
/// The same when another compiler or C library made the record.
const FOREIGN_TOLERANCE: f64 = 50.0;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/perf/instructions.json")
}

/// What decides the counts besides our source: compiler and C library, by their own names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tools {
    compiler: String,
    libc: String,
}

impl Tools {
    /// Those of this machine.
    pub(crate) fn here() -> Result<Self> {
        let ask = |program: &str, argument: &str| -> Result<String> {
            let output =
                Command::new(program).arg(argument).output().during(format_args!("starting {program}"))?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        Ok(Self { compiler: ask("rustc", "--version")?, libc: ask("getconf", "GNU_LIBC_VERSION")? })
    }
}

impl fmt::Display for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.compiler, self.libc)
    }
}

/// The record: instructions per packet by stage, and what they were counted with.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) tools: Tools,
    stages: Map<String, Value>,
}

impl Record {
    /// Reads it.
    pub(crate) fn load() -> Result<Self> {
        let path = file();
        let text = fs::read_to_string(&path).during(path.display())?;
        let value: Value = serde_json::from_str(&text).during(path.display())?;
        let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let stages = value.get("instructions_per_packet").and_then(Value::as_object).cloned();
        let stages =
            stages.ok_or_else(|| Failure::new(format!("{}: no instructions_per_packet", path.display())))?;
        Ok(Self { tools: Tools { compiler: word("compiler"), libc: word("libc") }, stages })
    }

    /// Makes these numbers the record.
    pub(crate) fn save(tools: &Tools, measured: &[(&str, f64)]) -> Result<()> {
        let path = file();
        let stages: Map<String, Value> =
            measured.iter().map(|(name, n)| ((*name).to_owned(), json!((n * 10.0).round() / 10.0))).collect();
        let value =
            json!({ "compiler": tools.compiler, "libc": tools.libc, "instructions_per_packet": stages });
        let text = serde_json::to_string_pretty(&value).during("writing JSON")?;
        fs::write(&path, text + "\n").during(path.display())
    }

    /// The number of a stage.
    pub(crate) fn stage(&self, name: &str) -> Option<f64> {
        self.stages.get(name).and_then(Value::as_f64)
    }

    /// How far numbers counted with `tools` may be from this record, in percent.
    pub(crate) fn tolerance(&self, tools: &Tools) -> f64 {
        if self.tools == *tools { TOLERANCE } else { FOREIGN_TOLERANCE }
    }
}

/// What a number means beside its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// As before.
    Same,
    /// Fewer than recorded: worth recording.
    Gain,
    /// More than recorded.
    Regression,
    /// Never recorded.
    New,
}

/// Compares a number with its record, which it may miss by `tolerance` percent.
pub(crate) fn judge(measured: f64, recorded: Option<f64>, tolerance: f64) -> Verdict {
    let Some(recorded) = recorded else { return Verdict::New };
    let percent = (measured - recorded) / recorded * 100.0;
    if percent > tolerance {
        Verdict::Regression
    } else if percent < -tolerance {
        Verdict::Gain
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, Tools, Verdict, judge};

    #[test]
    fn three_percent_either_way_is_nothing() {
        assert_eq!(judge(102.9, Some(100.0), 3.0), Verdict::Same);
        assert_eq!(judge(97.1, Some(100.0), 3.0), Verdict::Same);
        assert_eq!(judge(103.1, Some(100.0), 3.0), Verdict::Regression);
        assert_eq!(judge(96.9, Some(100.0), 3.0), Verdict::Gain);
        assert_eq!(judge(1.0, None, 3.0), Verdict::New);
    }

    #[test]
    fn the_tolerance_is_wider_for_what_others_built() {
        let tools = |compiler: &str| Tools { compiler: compiler.into(), libc: "glibc 2.36".into() };
        let record = Record { tools: tools("rustc 1"), ..Record::default() };
        assert!(record.tolerance(&tools("rustc 1")) < record.tolerance(&tools("rustc 2")));
    }

    #[test]
    fn the_record_of_this_repository_names_its_stages_and_tools() {
        let record = Record::load().unwrap();
        assert!(!record.tools.compiler.is_empty() && !record.tools.libc.is_empty());
        for (stage, _) in crate::stages::STAGES {
            assert!(record.stage(stage).is_some_and(|n| n > 0.0), "{stage} has no budget");
        }
    }
}
