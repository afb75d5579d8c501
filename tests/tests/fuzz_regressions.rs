//! Replays what fuzzing has found, and the inputs it starts from, so that plain `cargo test` guards both.
//!
//! A finding lives in `tests/fuzz/regressions/TARGET/STORY`; see `docs/howto/fuzz.md`.

#[path = "../fuzz/src/lib.rs"]
pub mod fuzz;

use std::fs;
use std::path::Path;

#[test]
fn findings_stay_fixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let target = fuzz::TARGETS.iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("{name} in {} is no target", folder.display()));
        for input in fs::read_dir(entry.path()).unwrap().map(|input| input.unwrap().path()) {
            println!("{}", input.display());
            (target.run)(&fs::read(input).unwrap());
            replayed += 1;
        }
    }
    assert!(replayed > 0, "no findings in {}", folder.display());
}

#[test]
fn every_target_takes_its_seeds_and_simple_inputs() {
    for target in fuzz::TARGETS {
        println!("{}", target.name);
        (target.seeds)().iter().for_each(|seed| (target.run)(seed));
        for input in [&[][..], &[0], &[0xff; 64], &[0; 300]] {
            (target.run)(input);
        }
    }
}

#[test]
fn every_target_has_a_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/src/bin");
    let mut names: Vec<String> =
        fs::read_dir(programs).unwrap().map(|p| p.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, fuzz::TARGETS.map(|target| format!("{}.rs", target.name)));
}

/// The fuzz package is no member of the workspace, so no other build notices that its lock file has fallen behind.
#[test]
fn lock_file_of_the_fuzz_package_knows_what_our_crates_depend_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let lock = fs::read_to_string(root.join("tests/fuzz/Cargo.lock")).unwrap();
    for (name, folder) in [
        ("flowtable", "flowtable"),
        ("pmd", "pmd"),
        ("vhost-port", "vhost-port"),
        ("vswitch-ovsdb", "vswitch/ovsdb"),
    ] {
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
        let package =
            lock.split("[[package]]").find(|p| p.contains(&format!("name = \"{name}\"\n"))).unwrap();
        let section =
            manifest.split("\n[").find_map(|part| part.strip_prefix("dependencies]\n")).unwrap_or("");
        let wanted = section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
        for wanted in wanted.filter_map(|line| line.split([' ', '.', '=']).next()) {
            let known = [format!("\"{wanted}\""), format!("\"{wanted} ")].iter().any(|w| package.contains(w));
            assert!(
                known,
                "{name} depends on {wanted}: cargo metadata --manifest-path tests/fuzz/Cargo.toml"
            );
        }
    }
}
