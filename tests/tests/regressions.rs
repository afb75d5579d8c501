//! Inputs that fuzzing once found something with, replayed; and a few that every target must take.

use std::fs;
use std::path::Path;

use tests::fuzzed::TARGETS;

#[test]
fn inputs_that_once_broke_something_no_longer_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for (name, target) in TARGETS {
        let Ok(entries) = fs::read_dir(folder.join(name)) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
        }
    }
}

#[test]
fn every_target_takes_the_simplest_inputs() {
    for (name, target) in TARGETS {
        println!("{name}");
        for input in [&[][..], &[0], &[0xff; 64], &[0; 300], br#" {"id":1,"method":"echo","params":[]}"#] {
            target(input);
        }
    }
}
