//! Upcalls on the slow path's side of the queue, port by port, so that ports are served in turn.
//!
//! The queue the workers fill is in order of arrival: a port that misses without end stands in it with all its share. So the
//! receiver empties it whole, which costs little, into a line per port, and serves the lines [`QUANTUM`] at a time. A single
//! packet of another port is then decided about in the next batch, however many wait before it.
//!
//! Only the slow path's thread touches this. Its memory is bounded by what ports may have waiting.

use std::collections::VecDeque;

use super::upcall::Upcall;

/// Upcalls of one line in a turn.
const QUANTUM: usize = 32;

/// A line that has grown beyond this gives its memory back when it is empty.
const KEPT: usize = 256;

/// An upcall and the number of its arrival.
type Numbered = (u64, Upcall);

/// Lines of waiting upcalls.
pub(super) struct Backlog {
    lines: Vec<VecDeque<Numbered>>,
    /// Lines that are not empty, in the order they are served.
    turns: VecDeque<usize>,
    len: usize,
    /// Upcalls that have ever come in.
    arrived: u64,
}

impl Backlog {
    /// Empty lines.
    pub(super) fn new(lines: usize) -> Backlog {
        let lines = std::iter::repeat_with(VecDeque::new).take(lines).collect();
        Backlog { lines, turns: VecDeque::new(), len: 0, arrived: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Number of the next arrival.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Lines up an upcall.
    pub(super) fn push(&mut self, upcall: Upcall) {
        let count = self.lines.len().max(1);
        let at = upcall.key.in_port as usize % count;
        let Some(line) = self.lines.get_mut(at) else { return };
        if line.is_empty() {
            self.turns.push_back(at);
        }
        line.push_back((self.arrived, upcall));
        self.arrived += 1;
        self.len += 1;
    }

    /// Takes up to `most` upcalls, every line in turn.
    pub(super) fn take(&mut self, most: usize, mut each: impl FnMut(Upcall)) {
        let mut left = most;
        while left != 0
            && let Some(at) = self.turns.pop_front()
            && let Some(line) = self.lines.get_mut(at)
        {
            let served = line.len().min(QUANTUM).min(left);
            for (_, upcall) in line.drain(..served) {
                each(upcall);
            }
            left -= served;
            self.len -= served;
            if !line.is_empty() {
                self.turns.push_back(at);
            } else if line.capacity() > KEPT {
                line.shrink_to(KEPT);
            }
        }
    }

    /// Number of the oldest upcall that waits, or of the next to come if none does.
    pub(super) fn oldest(&self) -> u64 {
        let fronts = self.turns.iter().filter_map(|at| self.lines.get(*at)?.front());
        fronts.map(|(number, _)| *number).min().unwrap_or(self.arrived)
    }
}
