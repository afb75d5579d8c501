//! A Rust file as the rules need it: tokens with lines, without comments and the insides of strings, and which
//! lines are tests or excused.
//!
//! Not a Rust parser. It knows just enough of the lexical grammar (nested comments, raw strings, character
//! literals next to lifetimes) that text in a comment or string is never mistaken for code.

use std::collections::BTreeSet;

/// The mark that excuses a line; a reason has to follow.
const MARK: &str = "tidy:";

/// One token: an identifier, `::`, or a single character of anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// A file ready to be checked.
#[derive(Debug)]
pub(super) struct Source {
    /// Path from the root of the workspace.
    pub(super) file: String,
    /// Its code.
    pub(super) tokens: Vec<Token>,
    excused: BTreeSet<usize>,
    /// The first line of the unit tests at the end of the file.
    tests_from: usize,
}

impl Source {
    /// Reads a file.
    pub(super) fn new(file: &str, text: &str) -> Self {
        let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new(), excused: BTreeSet::new() };
        lexer.run();
        let is_test_file = file.ends_with("/tests.rs")
            || file.split('/').any(|part| part == "tests" || part == "benches" || part == "examples");
        let tests_from = if is_test_file { 0 } else { tests_from(&lexer.tokens) };
        Self { file: file.to_owned(), tokens: lexer.tokens, excused: lexer.excused, tests_from }
    }

    /// Whether a line is part of tests, examples or benches.
    pub(super) fn is_test(&self, line: usize) -> bool {
        line >= self.tests_from
    }

    /// Whether a line, or the one above it, says `// tidy: REASON`.
    pub(super) fn is_excused(&self, line: usize) -> bool {
        self.excused.contains(&line) || line.checked_sub(1).is_some_and(|above| self.excused.contains(&above))
    }
}

/// The line of `#[cfg(test)] mod … {`, which by convention is the last item of a file.
fn tests_from(tokens: &[Token]) -> usize {
    const START: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let at = tokens.windows(START.len() + 2).find(|window| {
        window.iter().zip(START).all(|(token, text)| token.text == text)
            && window.last().is_some_and(|last| last.text == "{")
    });
    at.and_then(|window| window.first()).map_or(usize::MAX, |token| token.line)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
    excused: BTreeSet<usize>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(first) = self.rest.chars().next() {
            if self.rest.starts_with("//") {
                self.line_comment();
            } else if self.rest.starts_with("/*") {
                self.block_comment();
            } else if let Some(hashes) = raw_string(self.rest) {
                self.raw_string(hashes);
            } else if first == '"' || self.rest.starts_with("b\"") || self.rest.starts_with("c\"") {
                self.string();
            } else if first == '\'' {
                self.quote();
            } else if first.is_alphanumeric() || first == '_' {
                let end =
                    self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
                self.token(end);
            } else if self.rest.starts_with("::") {
                self.token(2);
            } else if first.is_whitespace() {
                self.skip(first.len_utf8());
            } else {
                self.token(first.len_utf8());
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        let (gone, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += gone.matches('\n').count();
        self.rest = rest;
    }

    fn token(&mut self, bytes: usize) {
        let text = self.rest.split_at(bytes).0.to_owned();
        self.tokens.push(Token { text, line: self.line });
        self.skip(bytes);
    }

    fn line_comment(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let text = self.rest.split_at(end).0.trim_start_matches('/').trim();
        if text.strip_prefix(MARK).is_some_and(|reason| !reason.trim().is_empty()) {
            self.excused.insert(self.line);
        }
        self.skip(end);
    }

    fn block_comment(&mut self) {
        let mut depth = 0usize;
        loop {
            match (self.rest.starts_with("/*"), self.rest.starts_with("*/")) {
                (true, _) => depth += 1,
                (_, true) => depth -= 1,
                _ => match self.rest.chars().next() {
                    Some(c) => {
                        self.skip(c.len_utf8());
                        continue;
                    }
                    None => return,
                },
            }
            self.skip(2);
            if depth == 0 {
                return;
            }
        }
    }

    fn raw_string(&mut self, hashes: usize) {
        let open = self.rest.find('"').map_or(self.rest.len(), |at| at + 1);
        self.skip(open);
        let close = format!("\"{}", "#".repeat(hashes));
        let end = self.rest.find(&close).map_or(self.rest.len(), |at| at + close.len());
        self.skip(end);
    }

    fn string(&mut self) {
        let open = self.rest.find('"').map_or(self.rest.len(), |at| at + 1);
        self.skip(open);
        self.until('"');
    }

    /// A character literal or a lifetime.
    fn quote(&mut self) {
        let mut chars = self.rest.chars().skip(1);
        let (second, third) = (chars.next(), chars.next());
        self.skip(1);
        if second == Some('\\') || third == Some('\'') {
            self.until('\'');
        }
    }

    /// Skips to behind the next `end` that is not escaped.
    fn until(&mut self, end: char) {
        let mut escaped = false;
        while let Some(c) = self.rest.chars().next() {
            self.skip(c.len_utf8());
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == end => return,
                _ => {}
            }
        }
    }
}

/// The number of `#` of a raw string at the beginning of `text`.
fn raw_string(text: &str) -> Option<usize> {
    let rest = ["br", "cr", "r"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest.get(hashes..)?.starts_with('"').then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let source = Source::new("a.rs", text);
        source.tokens.iter().map(|token| token.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(words("a /* b /* c */ d */ e // f\ng"), "a e g");
        assert_eq!(words(r##"a "b \" c" d r#"e " f"# g b"h" i"##), "a d g i");
        assert_eq!(words("x::y('\"', '\\'', 'z', &'a str)"), "x :: y ( , , , & a str )");
        assert_eq!(words("/// doc crate::x\nfn f() {}"), "fn f ( ) { }");
        assert_eq!(words("unfinished \"string"), "unfinished");
    }

    #[test]
    fn lines_survive_everything() {
        let source = Source::new("a.rs", "/*\n*/ a \"\n\n\" b\nc");
        let lines: Vec<_> = source.tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [2, 4, 5]);
    }

    #[test]
    fn an_excuse_needs_a_reason() {
        let source = Source::new("a.rs", "a // tidy: set-up only\nb\nc // tidy:\n// no tidy: x\nd");
        assert!(source.is_excused(1) && source.is_excused(2), "its own line and the next");
        assert!(!source.is_excused(3) && !source.is_excused(4) && !source.is_excused(5));
    }

    #[test]
    fn tests_are_told_from_code() {
        let source = Source::new("a.rs", "fn f() {}\n#[cfg(test)]\nuse x;\n#[cfg(test)]\nmod tests {\n}\n");
        assert!(!source.is_test(1) && !source.is_test(3) && source.is_test(5));
        assert!(!Source::new("a.rs", "#[cfg(test)]\nmod tests;\nfn f() {}\n").is_test(3));
        assert!(Source::new("pmd/tests/x.rs", "").is_test(1));
        assert!(Source::new("pmd/src/tests.rs", "").is_test(1));
    }
}
