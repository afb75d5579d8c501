//! The recorded numbers, and the comparison with them.

use std::fs;
use std::path::PathBuf;

use ::tests::failure::{During as _, Failure, Result};
use serde_json::{Map, Value, json};

/// How far a number may be from its record, in percent: compilers place things differently after unrelated changes.
const TOLERANCE: f64 = 3.0;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/perf/instructions.json")
}

/// Instructions per packet by stage, as recorded.
pub(crate) fn recorded() -> Result<Map<String, Value>> {
    let path = file();
    let text = fs::read_to_string(&path).during(path.display())?;
    let value: Value = serde_json::from_str(&text).during(path.display())?;
    let stages = value.get("instructions_per_packet").and_then(Value::as_object);
    stages.cloned().ok_or_else(|| Failure::new(format!("{}: no instructions_per_packet", path.display())))
}

/// Makes these numbers the record.
pub(crate) fn record(compiler: &str, measured: &[(&str, f64)]) -> Result<()> {
    let path = file();
    let stages: Map<String, Value> =
        measured.iter().map(|(name, n)| ((*name).to_owned(), json!((n * 10.0).round() / 10.0))).collect();
    let value = json!({ "compiler": compiler, "instructions_per_packet": stages });
    let text = serde_json::to_string_pretty(&value).during("writing JSON")?;
    fs::write(&path, text + "\n").during(path.display())
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

/// Compares a number with its record.
pub(crate) fn judge(measured: f64, recorded: Option<f64>) -> Verdict {
    let Some(recorded) = recorded else { return Verdict::New };
    let percent = (measured - recorded) / recorded * 100.0;
    if percent > TOLERANCE {
        Verdict::Regression
    } else if percent < -TOLERANCE {
        Verdict::Gain
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, judge};

    #[test]
    fn three_percent_either_way_is_nothing() {
        assert_eq!(judge(102.9, Some(100.0)), Verdict::Same);
        assert_eq!(judge(97.1, Some(100.0)), Verdict::Same);
        assert_eq!(judge(103.1, Some(100.0)), Verdict::Regression);
        assert_eq!(judge(96.9, Some(100.0)), Verdict::Gain);
        assert_eq!(judge(1.0, None), Verdict::New);
    }
}
