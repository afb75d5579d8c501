//! What the environment asks of a run.

use std::env;
use std::time::Duration;

use ::tests::failure::{Failure, Result};
use ::tests::lab::Binaries;

/// Settings of a run.
pub(crate) struct Settings {
    /// Names of the rows wanted; empty: all.
    pub(crate) rows: Vec<String>,
    /// Rounds of every row; `None`: each row's own number.
    pub(crate) rounds: Option<usize>,
    /// Length of one sample.
    pub(crate) sample: Duration,
    /// An earlier build to compare with.
    pub(crate) baseline: Option<Binaries>,
    /// Whether others take part.
    pub(crate) peers: bool,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A value that means nothing; the message says which.
    pub(crate) fn read() -> Result<Self> {
        let rows = words(&env::var("ROWS").unwrap_or_default());
        let baseline = env::var_os("BASELINE").filter(|v| !v.is_empty()).map(Binaries::at).transpose()?;
        let peers = env::var("PEERS").map_or(true, |v| v != "no");
        let sample = Duration::from_secs(number("SECONDS")?.unwrap_or(2) as u64);
        Ok(Self { rows, rounds: number("ROUNDS")?, sample, baseline, peers })
    }

    /// Whether what this run measures may stand in `results.json`: a run without the peers, or beside another build, is a
    /// look at a change.
    pub(crate) fn counts(&self) -> bool {
        self.peers && self.baseline.is_none()
    }

    /// The rows wanted, of those there are.
    ///
    /// # Errors
    /// A row that does not exist.
    pub(crate) fn pick<'a, T>(&self, rows: &'a [T], name: impl Fn(&T) -> &str) -> Result<Vec<&'a T>> {
        if let Some(unknown) = self.rows.iter().find(|w| rows.iter().all(|r| name(r) != w.as_str())) {
            let names: Vec<&str> = rows.iter().map(&name).collect();
            return Err(Failure::new(format!(
                "ROWS: there is no row {unknown:?}; there are {}",
                names.join(", ")
            )));
        }
        let wanted = |r: &&T| self.rows.is_empty() || self.rows.iter().any(|w| w == name(r));
        Ok(rows.iter().filter(wanted).collect())
    }
}

fn words(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn number(name: &str) -> Result<Option<usize>> {
    let Some(text) = env::var(name).ok().filter(|v| !v.is_empty()) else { return Ok(None) };
    let number = text.parse().ok().filter(|n| (1..=1000).contains(n));
    number.map(Some).ok_or_else(|| Failure::new(format!("{name}={text}: a number from 1 to 1000 is wanted")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Settings, words};

    fn wanting(rows: &str) -> Settings {
        Settings { rows: words(rows), rounds: None, sample: Duration::ZERO, baseline: None, peers: true }
    }

    #[test]
    fn rows_are_picked_in_their_own_order() {
        let there = ["a", "b", "c"];
        let pick = |text: &str| {
            wanting(text).pick(&there, |r| r).map(|v| v.into_iter().copied().collect::<Vec<_>>())
        };
        assert_eq!(pick("").unwrap(), ["a", "b", "c"]);
        assert_eq!(pick("c, a").unwrap(), ["a", "c"]);
        assert!(pick("a,x").unwrap_err().to_string().contains("\"x\""));
    }

    #[test]
    fn only_a_run_with_all_contestants_counts() {
        assert!(wanting("a").counts());
        assert!(!Settings { peers: false, ..wanting("") }.counts());
    }
}
