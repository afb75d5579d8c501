//! `make instructions`: how many instructions a packet costs, stage by stage, counted by valgrind's callgrind.
//!
//! A count does not depend on how busy the machine is, so it can be compared with the record in
//! `docs/perf/instructions.json`: a stage that has become dearer fails the run, one that has become cheaper asks to be
//! recorded (`make instructions RECORD=1`). `.ci/run` runs it; valgrind comes from the lab cache. `STAGES` chooses stages by
//! a part of their name. Counts say nothing of waiting for memory or for other cores; that is what `make bench` measures.

mod budget;
mod guest;
mod stages;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use budget::{Record, Tools, Verdict};
use tests::failure::{During as _, Failure, Result};
use tests::lab;

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
    if !std::arch::is_x86_feature_detected!("avx2") {
        println!(
            "instructions: SKIPPED, nothing compared: this processor has no AVX2, and valgrind shows programs another one"
        );
        return Ok(true);
    }
    let wanted = env::var("STAGES").unwrap_or_default();
    let recording = env::var("RECORD").is_ok_and(|v| !v.is_empty());
    let valgrind = lab::fill()?.join("bin/valgrind");
    let tools = Tools::here()?;
    let record = if recording { Record::default() } else { Record::load()? };
    let tolerance = record.tolerance(&tools);
    if !recording && record.tools != tools {
        println!(
            "instructions: WIDE tolerance of {tolerance} %: counting with {tools}, recorded with {}",
            record.tools
        );
    }
    let me = env::current_exe().during("finding this program")?;
    let (mut measured, mut dearer, mut cheaper) = (Vec::new(), 0, 0);
    println!("{:<20} {:>12} {:>10}", "instructions", "per packet", "recorded");
    for (name, _) in stages::STAGES {
        if !wanted.is_empty() && !wanted.split([',', ' ']).any(|part| name.contains(part)) {
            continue;
        }
        let count = count_stage(&valgrind, &me, name)?;
        let budget = record.stage(name);
        let remark = match budget::judge(count, budget, tolerance) {
            Verdict::Same => "",
            Verdict::New if recording => "",
            Verdict::New => "not recorded yet: make instructions RECORD=1",
            Verdict::Gain => {
                cheaper += 1;
                "cheaper than recorded"
            }
            Verdict::Regression => {
                dearer += 1;
                "DEARER than recorded"
            }
        };
        let budget = budget.map_or_else(|| "-".into(), |r| format!("{r:.1}"));
        println!("{name:<20} {count:>12.1} {budget:>10}  {remark}");
        measured.push((name, count));
    }
    if recording {
        if measured.len() != stages::STAGES.len() {
            return Err(Failure::new("RECORD needs all stages: leave STAGES out"));
        }
        Record::save(&tools, &measured)?;
    }
    if cheaper > 0 {
        println!(
            "instructions: {cheaper} stages are cheaper than recorded; keep the gain: make instructions RECORD=1"
        );
    }
    if dearer > 0 {
        println!(
            "instructions: {dearer} stages are more than {tolerance} % dearer than docs/perf/instructions.json allows; \
             find out why, or record them on purpose and say so in the commit: make instructions RECORD=1"
        );
    }
    Ok(dearer == 0)
}

/// Instructions per packet of one stage.
fn count_stage(valgrind: &Path, me: &Path, name: &str) -> Result<f64> {
    let output = Command::new(valgrind)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*counted_by_callgrind*")
        .arg(me)
        .args(["stage", name])
        // Would change which copy routine the C library chooses.
        .env_remove("GLIBC_TUNABLES")
        .output()
        .during(format_args!("starting {}", valgrind.display()))?;
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let number = |text: Option<&str>| text.and_then(|n| n.trim().parse::<f64>().ok());
    let packets = number(out.lines().last());
    let instructions = number(log.lines().find_map(|line| line.split("Collected : ").nth(1)));
    match (output.status.success(), packets, instructions) {
        (true, Some(packets), Some(instructions)) if instructions > 0.0 => Ok(instructions / packets),
        _ => Err(Failure::new(format!("stage {name} could not be counted:\n{out}{log}"))),
    }
}
