//! Turns: who is measured when, and what happens when one of them fails.

use tests::failure::Result;

use crate::Bench;
use crate::contestants::{Contestant, Entrant, Setup};
use crate::machine;
use crate::table::Table;

/// After so many failures of one contestant in a row of the report it is not started again: it costs time and says the same.
const GIVE_UP: usize = 2;

/// The tables one row of the report fills, all in step: same round, same distance.
pub(crate) struct Tables<const N: usize> {
    tables: [Table; N],
    round: usize,
}

impl<const N: usize> Tables<N> {
    /// In step from here on.
    pub(crate) fn new(tables: [Table; N]) -> Self {
        Self { tables, round: 0 }
    }

    /// The tables.
    pub(crate) fn into_inner(self) -> [Table; N] {
        self.tables
    }

    /// The round, from 0.
    pub(crate) fn round(&self) -> usize {
        self.round
    }

    /// One of them, to add a sample to.
    pub(crate) fn table(&mut self, index: usize) -> Option<&mut Table> {
        self.tables.get_mut(index)
    }

    /// Measures how far the processors are apart now. To be called right before each sample.
    ///
    /// # Errors
    /// The threads cannot be pinned.
    pub(crate) fn look(&mut self) -> Result<f64> {
        let distance = machine::round_trip()?;
        for table in &mut self.tables {
            table.at_distance(distance);
        }
        Ok(distance)
    }

    fn begin_round(&mut self, round: usize) -> Result<()> {
        let distance = self.look()?;
        let text = format!(
            "round {}: cache line there and back {distance:.0} ns, load {:.1}",
            round + 1,
            machine::load()
        );
        println!("  {text}");
        self.round = round;
        for table in &mut self.tables {
            table.begin_round(round);
        }
        if let Some(first) = self.tables.first_mut() {
            first.remark(text);
        }
        Ok(())
    }

    /// Adds a sample to the first table.
    pub(crate) fn add(&mut self, name: &str, sample: f64) {
        if let Some(first) = self.tables.first_mut() {
            first.add(name, sample);
        }
    }

    /// Notes a circumstance in the first table, with its round, unless the same was said in an earlier round.
    pub(crate) fn note(&mut self, text: &str) {
        let round = self.round + 1;
        if let Some(first) = self.tables.first_mut()
            && !first.remarks.iter().any(|r| r.ends_with(text))
        {
            println!("    {text}");
            first.remark(format!("round {round}, {text}"));
        }
    }

    /// Notes a failure in the first table.
    pub(crate) fn fail(&mut self, text: String) {
        if let Some(first) = self.tables.first_mut() {
            first.fail(text);
        }
    }
}

/// Lets every entrant be started and measured once per round, another one first each time. One that fails is noted in
/// the table, and the others go on.
///
/// # Errors
/// The machine itself fails the measurement, never a contestant.
pub(crate) fn alternate<const N: usize>(
    bench: &Bench,
    setup: &Setup,
    entrants: &[Entrant],
    tables: &mut Tables<N>,
    mut measure: impl FnMut(&mut Tables<N>, &mut Contestant) -> Result<()>,
) -> Result<()> {
    let mut failures = vec![0_usize; entrants.len()];
    for round in 0..bench.rounds {
        tables.begin_round(round)?;
        for turn in 0..entrants.len() {
            let who = (turn + round) % entrants.len();
            let (Some(entrant), Some(failed)) = (entrants.get(who), failures.get_mut(who)) else { continue };
            if *failed >= GIVE_UP {
                continue;
            }
            let result = (entrant.start)(bench, setup).and_then(|mut c| measure(tables, &mut c));
            if let Err(e) = result {
                *failed += 1;
                tables.fail(format!("round {}, {}: {e}", round + 1, entrant.name));
            }
        }
    }
    Ok(())
}
