//! Words the data path does not know: locks, clocks, logs, allocation.

use super::Finding;
use super::rules::{ALLOWANCES, HOT_FOLDERS, HOT_WORDS};
use super::source::{Source, Token};

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    if !HOT_FOLDERS.iter().any(|folder| source.file.starts_with(folder)) {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = Vec::new();
    for at in 0..source.tokens.len() {
        let rest = source.tokens.get(at..).unwrap_or_default();
        let Some(line) = rest.first().map(|token| token.line) else { continue };
        let Some((word, remedy)) = HOT_WORDS.iter().find(|(word, _)| begins_with(rest, word)) else {
            continue;
        };
        if source.is_test(line) || source.is_excused(line) || is_allowed(&source.file, word) {
            continue;
        }
        let text = format!(
            "`{word}` on the data path: {remedy}; if it is not per packet, say so with // tidy: REASON"
        );
        findings.push(Finding::new(&source.file, line, text));
    }
    // One finding per line is enough to look at the line.
    findings.dedup_by_key(|finding| finding.line);
    findings
}

fn is_allowed(file: &str, word: &str) -> bool {
    let covers = |words: &[&str]| words.is_empty() || words.contains(&word);
    ALLOWANCES.iter().any(|allowance| allowance.file == file && covers(allowance.words))
}

/// Whether the tokens spell the word: identifiers whole, `::` and `!` as they are.
fn begins_with(tokens: &[Token], word: &str) -> bool {
    let mut rest = word;
    for (index, token) in tokens.iter().enumerate() {
        match rest.strip_prefix(token.text.as_str()) {
            // `info!(…)` is a macro, `info != x` a comparison.
            Some("") => {
                return token.text != "!" || tokens.get(index + 1).is_some_and(|next| next.text != "=");
            }
            Some(behind) if behind.starts_with(['!', ':']) || token.text == "::" => rest = behind,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<usize> {
        check(&Source::new(file, text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn every_word_is_found() {
        for (word, _) in HOT_WORDS {
            let text = format!("fn f() {{\n    let x = std::{word}(y);\n}}");
            assert_eq!(found("vswitch/src/datapath/worker.rs", &text), [2], "{word}");
            assert_eq!(found("vhost-port/src/ring/chain.rs", &text), [2], "{word}");
            assert!(found("vswitch/src/management/server.rs", &text).is_empty());
        }
    }

    #[test]
    fn words_are_whole() {
        for text in [
            "let mutex_count = 1;",
            "MutexFree::new()",
            "x.to_string_lossy()",
            "let info = 1; info != 2",
            "// Mutex",
            "\"Mutex\"",
        ] {
            assert!(found("vswitch/src/datapath/worker.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn allowances_are_per_file_and_word() {
        let text = "let x = Mutex::new(1);\nlet y = Instant::now();";
        assert_eq!(found("vhost-port/src/ring/vring.rs", text), [2]);
        assert_eq!(found("vhost-port/src/ring/split.rs", text), [1, 2]);
        assert!(ALLOWANCES.iter().all(|allowance| !allowance.reason.is_empty()));
    }

    #[test]
    fn tests_and_excuses() {
        let file = "vswitch/src/datapath/worker.rs";
        assert!(found(file, "let x = Mutex::new(1); // tidy: made once at start").is_empty());
        assert!(found(file, "// tidy: made once at start\nlet x = Mutex::new(1);").is_empty());
        assert_eq!(found(file, "let x = Mutex::new(1); // tidy:"), [1]);
        assert!(found(file, "#[cfg(test)]\nmod tests {\n    use std::sync::Mutex;\n}").is_empty());
    }
}
