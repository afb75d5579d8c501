//! `make instructions`: how many instructions a packet costs, stage by stage, counted by valgrind's callgrind.
//!
//! A count does not depend on how busy the machine is, so it can be compared with the record in
//! `docs/perf/instructions.json`: a stage that has become dearer fails the run, one that has become cheaper asks to be
//! recorded (`make instructions RECORD=1`). `STAGES` chooses stages by a part of their name. Counts say nothing of
//! waiting for memory or for other cores; that is what `make bench` measures.

mod budget;
mod guest;
mod stages;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use budget::Verdict;
use tests::failure::{During as _, Failure, Result};

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let outcome = match (words.next().as_deref(), words.next()) {
        (Some("stage"), Some(name)) => run_stage(&name).map(|()| true),
        _ => count_all(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("instructions: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What runs inside valgrind: one stage, which prints how many packets it counted.
fn run_stage(name: &str) -> Result<()> {
    let stage = stages::STAGES.iter().find(|(stage, _)| *stage == name);
    let (_, run) = stage.ok_or_else(|| Failure::new(format!("no stage is called {name}")))?;
    let folder = tempfile::tempdir().during("a folder for sockets")?;
    println!("{}", run(folder.path())?);
    Ok(())
}

/// Counts the stages asked for. False when one has become dearer.
fn count_all() -> Result<bool> {
    let wanted = env::var("STAGES").unwrap_or_default();
    let recording = env::var("RECORD").is_ok_and(|v| !v.is_empty());
    let recorded = if recording { Default::default() } else { budget::recorded()? };
    let me = env::current_exe().during("finding this program")?;
    let (mut measured, mut fine) = (Vec::new(), true);
    println!("{:<20} {:>12} {:>10}", "instructions", "per packet", "recorded");
    for (name, _) in stages::STAGES {
        if !wanted.is_empty() && !wanted.split([',', ' ']).any(|part| name.contains(part)) {
            continue;
        }
        let count = count_stage(&me, name)?;
        let record = recorded.get(name).and_then(serde_json::Value::as_f64);
        let remark = match budget::judge(count, record) {
            Verdict::Same => "",
            Verdict::New if recording => "",
            Verdict::New => "not recorded yet: make instructions RECORD=1",
            Verdict::Gain => "cheaper than recorded, record it: make instructions RECORD=1",
            Verdict::Regression => {
                fine = false;
                "DEARER than recorded"
            }
        };
        println!(
            "{name:<20} {count:>12.1} {:>10}  {remark}",
            record.map_or_else(|| "-".into(), |r| format!("{r:.1}"))
        );
        measured.push((name, count));
    }
    if recording {
        if measured.len() != stages::STAGES.len() {
            return Err(Failure::new("RECORD needs all stages: leave STAGES out"));
        }
        budget::record(&compiler()?, &measured)?;
    }
    Ok(fine)
}

/// Instructions per packet of one stage.
fn count_stage(me: &Path, name: &str) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*counted_by_callgrind*")
        .arg(me)
        .args(["stage", name])
        .output()
        .during("starting valgrind (Debian package `valgrind`)")?;
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let number = |text: Option<&str>| text.and_then(|n| n.trim().parse::<f64>().ok());
    let packets = number(out.lines().last());
    let instructions = number(log.lines().find_map(|line| line.split("Collected : ").nth(1)));
    match (output.status.success(), packets, instructions) {
        (true, Some(packets), Some(instructions)) if instructions > 0.0 => Ok(instructions / packets),
        _ => Err(Failure::new(format!("stage {name} could not be counted:\n{out}{log}"))),
    }
}

/// The compiler's own name: counts made with another one do not compare.
fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().during("rustc --version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
