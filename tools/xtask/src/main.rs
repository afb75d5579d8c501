//! `cargo xtask`: the checks of the house that no compiler makes.
//!
//! It depends on none of our crates, so it builds and speaks when the tree does not.

mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy

    tidy    check imports between crates and modules, file lengths and names, module docs, and what the
            data path may not do; one line per finding, exit code 1 if there is any";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => run_tidy(),
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run_tidy() -> ExitCode {
    // The crate sits at tools/xtask of the workspace it checks.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match tidy::check(&root) {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            println!("tidy: {} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("tidy: cannot read the tree: {why}");
            ExitCode::from(2)
        }
    }
}
