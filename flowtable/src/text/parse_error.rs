//! What a parser says to whoever typed the text.

use core::fmt;

/// Bytes of a bad token that are quoted; the rest would only hide the message.
const QUOTED_MAX: usize = 80;

/// A text was refused. Prints as `token: problem; remedy`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The piece of text that is wrong.
    pub token: String,
    /// Why it is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl ParseError {
    /// An error about `token`.
    pub fn new(token: &str, problem: impl Into<String>, remedy: impl Into<String>) -> ParseError {
        let mut token = token.to_owned();
        if token.len() > QUOTED_MAX {
            let end = (0..=QUOTED_MAX).rev().find(|at| token.is_char_boundary(*at)).unwrap_or(0);
            token.truncate(end);
            token.push_str("...");
        }
        ParseError { token, problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.token, self.problem, self.remedy)
    }
}

impl std::error::Error for ParseError {}
