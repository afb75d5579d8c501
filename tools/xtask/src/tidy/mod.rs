//! House rules checked on the text of the tree.
//!
//! ```text
//!   walk ─▶ Cargo.toml ─▶ crates       arrows between crates
//!       └─▶ *.rs ──────▶ layout        length, name, docs
//!                  └ source (no comments, no strings) ─▶ imports     arrows between modules
//!                                                    └─▶ hot_path    words the data path does not know
//! ```
//!
//! The rules themselves are tables in [`rules`]; everything else is how to apply them. A line that has to break the
//! import or hot-path rules says why: `// tidy: REASON` at its end or on the line above. An exception for a whole
//! file stands in the table with its reason.

mod crates;
mod hot_path;
mod imports;
mod layout;
mod rules;
mod source;

use std::fmt;
use std::io;
use std::path::Path;

use source::Source;

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the root of the workspace.
    file: String,
    /// Line, from 1.
    line: usize,
    /// What is wrong and what to do.
    text: String,
}

impl Finding {
    fn new(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// Checks the workspace at `root`; findings in order of file and line.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn check(root: &Path) -> io::Result<Vec<Finding>> {
    let mut files = Vec::new();
    walk(root, "", &mut files)?;
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(root.join(&file))?;
        if file.ends_with("Cargo.toml") {
            findings.extend(crates::check(&file, &text));
        } else {
            findings.extend(layout::check(&file, &text));
            sources.push(Source::new(&file, &text));
        }
    }
    for source in &sources {
        findings.extend(imports::check(source));
        findings.extend(hot_path::check(source));
    }
    findings.extend(layout::check_exceptions(|file| sources.iter().any(|source| source.file == file)));
    findings.sort();
    Ok(findings)
}

/// Collects manifests and sources below `root`, as paths with `/` relative to it.
fn walk(root: &Path, dir: &str, files: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && name != "target" {
            walk(root, &path, files)?;
        } else if kind.is_file() && (name == "Cargo.toml" || name.ends_with(".rs")) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_clickable() {
        assert_eq!(Finding::new("pmd/src/lib.rs", 3, "why").to_string(), "pmd/src/lib.rs:3: why");
    }

    #[test]
    fn a_tree_with_one_breach_of_each_rule() {
        let root = std::env::temp_dir().join(format!("xtask-tidy-{}", std::process::id()));
        let put = |file: &str, text: &str| {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("pmd/Cargo.toml", "[package]\nname = \"pmd\"\n[dependencies]\nflowtable.workspace = true\n");
        put("pmd/src/lib.rs", "//! Docs.\nuse libc::close;\n");
        put("pmd/src/utils.rs", "//! Docs.\n");
        put("pmd/src/bare.rs", "fn f() {}\n");
        put("vswitch/src/datapath/worker.rs", "//! Docs.\nfn f() { let _ = format!(\"x\"); }\n");
        put("target/debug/build.rs", "not looked at");
        let found = check(&root);
        std::fs::remove_dir_all(&root).unwrap();
        let found = found.unwrap();
        let places: Vec<_> = found
            .iter()
            .filter(|f| f.file != "tools/xtask/src/tidy/rules.rs")
            .map(|f| (f.file.as_str(), f.line))
            .collect();
        assert_eq!(
            places,
            [
                ("pmd/Cargo.toml", 4),
                ("pmd/src/bare.rs", 1),
                ("pmd/src/lib.rs", 2),
                ("pmd/src/utils.rs", 1),
                ("vswitch/src/datapath/worker.rs", 2)
            ]
        );
    }
}
