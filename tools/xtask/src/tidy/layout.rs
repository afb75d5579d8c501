//! How files look from outside: their length, their name, their first line.

use super::Finding;
use super::rules::{ALLOWANCES, EMPTY_NAMES, LONG_FILES, LONG_NAMES, MAX_LINES};

/// Checks one source file.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    let name = file.rsplit('/').next().unwrap_or(file);
    let excepted = LONG_FILES.iter().any(|(long, _)| *long == file);
    if lines > MAX_LINES && !LONG_NAMES.contains(&name) && !excepted {
        let text = format!(
            "{lines} lines, at most {MAX_LINES}: move one concept, or the tests, to a file of its own"
        );
        findings.push(Finding::new(file, MAX_LINES + 1, text));
    }
    for part in file.split('/') {
        let stem = part.strip_suffix(".rs").unwrap_or(part);
        if EMPTY_NAMES.contains(&stem) {
            findings.push(Finding::new(
                file,
                1,
                format!("the name \"{stem}\" says nothing: name the concept"),
            ));
        }
    }
    if !text.starts_with("//!") {
        findings.push(Finding::new(file, 1, "the first line is not `//!`: say what this file is and why"));
    }
    findings
}

/// Reports exceptions for files that are gone. `exists` tells which are there.
pub(super) fn check_exceptions(exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let allowed = ALLOWANCES.iter().map(|allowance| (allowance.file, allowance.reason));
    let gone = LONG_FILES.iter().copied().chain(allowed).filter(|(file, _)| !exists(file));
    let finding = |(file, reason)| {
        let text = format!("the exception for {file} (\"{reason}\") has no file any more: remove it");
        Finding::new("tools/xtask/src/tidy/rules.rs", 1, text)
    };
    gone.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &str, lines: usize) -> Vec<String> {
        let text = "//! Docs.\n".repeat(lines);
        check(file, &text).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn length() {
        assert!(text("pmd/src/ring.rs", MAX_LINES).is_empty());
        assert!(text("pmd/src/ring.rs", MAX_LINES + 1)[0].contains("501 lines"));
        assert!(text("pmd/src/ring/tests.rs", 2000).is_empty());
        assert!(text("pmd/src/drivers/igb/registers.rs", 2000).is_empty());
    }

    #[test]
    fn names() {
        assert!(text("pmd/src/helpers.rs", 1)[0].contains("helpers"));
        assert!(text("pmd/src/common/ring.rs", 1)[0].contains("common"));
        assert!(text("pmd/src/commonplace.rs", 1).is_empty());
    }

    #[test]
    fn exceptions_are_for_files_that_exist() {
        assert!(check_exceptions(|_| true).is_empty());
        assert_eq!(check_exceptions(|_| false).len(), LONG_FILES.len() + ALLOWANCES.len());
    }

    #[test]
    fn docs_come_first() {
        assert_eq!(check("a.rs", "use x;\n//! Late.\n").len(), 1);
        assert_eq!(check("a.rs", "").len(), 1);
        assert!(check("a.rs", "//! Docs.\n#![allow(x)]\n").is_empty());
    }
}
