//! The mailbox between a virtual function and its physical function (82576 datasheet, 7.10.2.9).
//!
//! Sixteen words that both sides may use in turn, and a register with who has them and who has something to say. What a virtual function may
//! not do itself, it asks the driver of the physical function for here. That driver is the host's kernel, or whatever has the card.
//!
//! ```text
//!   ours:    take the memory, write the question, ring         MAILBOX_OURS, MAILBOX_ASK
//!   theirs:  read it                                           MAILBOX_WAS_READ
//!   theirs:  write the answer: the question's first word, with YES or NO    MAILBOX_MESSAGE
//!   ours:    take the memory, read the answer                  MAILBOX_OURS, MAILBOX_READ
//! ```
//!
//! Between the two the other side may say something of its own: that the link has changed, or that it has been reset and knows us no more. So an
//! answer is told by what it answers.
//!
//! Everything here waits, at most [`PATIENCE`] for an answer: control side only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::registers::*;
pub(super) use crate::nic::intel::vf_messages::*;
use crate::nic::intel::wait;
use crate::pci::Bar;

/// How long the other side may keep the memory.
const LOCK: Duration = Duration::from_millis(200);
/// How long an answer may take. The other side is a kernel thread, or a guest under emulation.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Done; the whole message.
    Yes([u32; WORDS]),
    /// Refused.
    No,
    /// Nobody answered.
    Nothing,
}

/// How it is with the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    /// As it was.
    Same,
    /// The card is being reset, or its driver is not up.
    InReset,
    /// It was reset, or says that it does not know us: everything we asked for is gone.
    Forgot,
}

/// Our end.
pub(super) struct Mailbox {
    bar: Arc<Bar>,
    /// Of the bits that reading clears, those that nobody has looked at yet.
    seen: u32,
}

impl Mailbox {
    pub(super) fn new(bar: Arc<Bar>) -> Mailbox {
        Mailbox { bar, seen: 0 }
    }

    /// Reads the register without losing what reading clears. All ones, an empty slot, is nothing.
    fn state(&mut self) -> u32 {
        let now = self.bar.read32(MAILBOX);
        let now = if now == u32::MAX { 0 } else { now };
        self.seen |= now & (MAILBOX_MESSAGE | MAILBOX_WAS_READ | MAILBOX_RESET_DONE);
        now | self.seen
    }

    /// Whether the other side has set this since it was last looked for.
    fn happened(&mut self, bit: u32) -> bool {
        let state = self.state();
        self.seen &= !bit;
        state & bit != 0
    }

    /// Takes the memory. False when the other side does not let go of it.
    fn lock(&mut self) -> bool {
        wait(LOCK, || {
            self.bar.write32(MAILBOX, MAILBOX_OURS);
            self.state() & MAILBOX_OURS != 0
        })
    }

    fn read(&mut self) -> Option<[u32; WORDS]> {
        if !self.lock() {
            return None;
        }
        let message = std::array::from_fn(|i| self.bar.read32(MAILBOX_MEMORY + 4 * i));
        // This lets go of the memory too.
        self.bar.write32(MAILBOX, MAILBOX_READ);
        Some(message)
    }

    /// Whether the card is being reset.
    pub(super) fn is_in_reset(&mut self) -> bool {
        self.state() & MAILBOX_IN_RESET != 0
    }

    /// Forgets what was said before: a new life begins.
    pub(super) fn begin(&mut self) {
        self.state();
        self.seen = 0;
    }

    /// Asks for something and waits for the answer. `question` has at most [`WORDS`] words, the first says what it is.
    pub(super) fn ask(&mut self, question: &[u32]) -> Answer {
        if !self.lock() {
            return Answer::Nothing;
        }
        // What was under way is overwritten now.
        self.seen &= !(MAILBOX_MESSAGE | MAILBOX_WAS_READ);
        for (i, word) in question.iter().take(WORDS).enumerate() {
            self.bar.write32(MAILBOX_MEMORY + 4 * i, *word);
        }
        self.bar.write32(MAILBOX, MAILBOX_ASK);
        let deadline = Instant::now() + PATIENCE;
        let asked = question.first().map_or(0, |word| word & KIND);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !wait(left, || self.happened(MAILBOX_MESSAGE)) {
                return Answer::Nothing;
            }
            let Some(message) = self.read() else { return Answer::Nothing };
            if message[0] & KIND != asked {
                continue;
            }
            if message[0] & YES != 0 {
                return Answer::Yes(message);
            }
            if message[0] & NO != 0 {
                return Answer::No;
            }
        }
    }

    /// Looks whether the other side has said something by itself.
    pub(super) fn peer(&mut self) -> Peer {
        if self.is_in_reset() {
            return Peer::InReset;
        }
        let was_reset = self.happened(MAILBOX_RESET_DONE);
        let stranger = self.happened(MAILBOX_MESSAGE)
            && self
                .read()
                .is_some_and(|[first, ..]| first & KIND == NOTICE && first & KNOWN == 0 || first & NO != 0);
        if was_reset || stranger { Peer::Forgot } else { Peer::Same }
    }
}
