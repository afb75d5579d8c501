//! The mailboxes of the virtual functions, from the side of the physical one (82576 datasheet, 7.10.2.9 and 8.14).
//!
//! Never waits: a function that keeps its memory, or does not listen, has only itself to blame.

use std::time::{Duration, Instant};

use super::functions::{Functions, MOST};
use super::pools;
use super::registers::*;
use crate::nic::intel::vf_messages::{KNOWN, NOTICE, WORDS};
use crate::pci::{Bar, VfState};

/// All functions, in the registers that have a bit for each.
const ALL: u32 = 0xff;
/// After which the functions may speak again.
const SECOND: Duration = Duration::from_secs(1);

/// Our end of all mailboxes.
pub(super) struct Mailboxes {
    functions: Functions,
    /// Longest frame of the physical function, with check sequence.
    longest: u32,
    since: Instant,
    /// A bit for each function: it has not read yet what was said last; it is to be told that something has changed.
    unread: u32,
    owed: u32,
}

impl Mailboxes {
    /// Shares the card among its functions, right after a reset. The functions hear of it by [`Mailboxes::open`].
    pub(super) fn new(bar: &Bar, functions: Functions, longest: u32) -> Mailboxes {
        pools::prepare(bar);
        let boxes = Mailboxes { functions, longest, since: Instant::now(), unread: 0, owed: 0 };
        boxes.write(bar);
        boxes
    }

    pub(super) fn count(&self) -> usize {
        self.functions.count()
    }

    /// What holds for each function.
    pub(super) fn states(&self) -> Vec<VfState> {
        self.functions.states()
    }

    fn write(&self, bar: &Bar) {
        self.functions.pools(self.longest).write(bar);
    }

    /// Tells the functions that the card is ready.
    pub(super) fn open(&mut self, bar: &Bar) {
        bar.write32(MBVFIMR, ALL);
        bar.write32(CTRL_EXT, bar.read32(CTRL_EXT) | CTRL_EXT_RESET_DONE);
        self.notify(bar);
    }

    /// Tells the functions that something has changed: the link, or that they are known no more. One that has not read its last message is told when
    /// it has: this would be written over it.
    pub(super) fn notify(&mut self, bar: &Bar) {
        self.owed = (1 << self.functions.count()) - 1;
        self.pay(bar);
    }

    /// Says what is owed to those that can be told. With the memory ours a function cannot begin to ask, and a question that lies there already is not
    /// written over: it is heard first.
    fn pay(&mut self, bar: &Bar) {
        for number in numbers(self.owed & !self.unread) {
            if !take(bar, number) {
                continue;
            }
            if bar.read32(MBVFICR) >> number & 1 == 1 {
                bar.write32(mailbox(number), 0);
                continue;
            }
            let known = if self.functions.is_known(number) { KNOWN } else { 0 };
            self.say(bar, number, &[NOTICE | known]);
            self.owed &= !(1 << number);
        }
    }

    /// Says something in memory that is ours.
    fn say(&mut self, bar: &Bar, number: usize, words: &[u32]) {
        for (i, word) in words.iter().enumerate() {
            bar.write32(memory(number) + 4 * i, *word);
        }
        self.unread |= 1 << number;
        // This lets go of the memory too.
        bar.write32(mailbox(number), MAILBOX_MESSAGE);
    }

    /// Hears what the functions have to say. One that says too much interrupts no more until the second is over; with one that is reset too often
    /// nobody does, for which false is returned: all are then heard when the watch looks by itself.
    pub(super) fn serve(&mut self, bar: &Bar) -> bool {
        if self.since.elapsed() >= SECOND {
            self.since = Instant::now();
            self.functions.another_second();
            bar.write32(MBVFIMR, ALL);
        }
        let (reset, asked) = (bar.read32(VFLRE), bar.read32(MBVFICR));
        if reset == u32::MAX || asked == u32::MAX {
            return true;
        }
        let read = asked >> MBVFICR_READ & ALL;
        bar.write32(MBVFICR, read << MBVFICR_READ);
        self.unread &= !(read | reset | asked);
        let (mut changed, mut listens, mut silenced) = (false, true, 0);
        for number in numbers(reset) {
            if self.functions.may_speak(number) {
                bar.write32(VFLRE, 1 << number);
                self.functions.forget(number);
                changed = true;
            } else {
                listens = false;
            }
        }
        if changed {
            self.write(bar);
        }
        for number in numbers(asked) {
            if self.functions.may_speak(number) {
                bar.write32(MBVFICR, 1 << number);
                self.hear(bar, number);
            } else {
                silenced |= 1 << number;
            }
        }
        if silenced != 0 {
            bar.write32(MBVFIMR, ALL & !silenced);
        }
        self.pay(bar);
        listens
    }

    fn hear(&mut self, bar: &Bar, number: usize) {
        if !take(bar, number) {
            return;
        }
        let words: [u32; WORDS] = std::array::from_fn(|i| bar.read32(memory(number) + 4 * i));
        bar.write32(mailbox(number), MAILBOX_ACK);
        let reply = self.functions.answer(number, &words);
        if reply.changed {
            self.write(bar);
        }
        // It waits for the answer, so it leaves the memory alone.
        if take(bar, number) {
            self.say(bar, number, &reply.words[..reply.len]);
        }
    }
}

/// The functions whose bits are set.
fn numbers(bits: u32) -> impl Iterator<Item = usize> {
    (0..MOST).filter(move |number| bits >> number & 1 == 1)
}

fn mailbox(number: usize) -> usize {
    P2V_MAILBOX + 4 * number
}

fn memory(number: usize) -> usize {
    VMBMEM + 4 * WORDS * number
}

/// Takes the memory; false while the function has it.
fn take(bar: &Bar, number: usize) -> bool {
    bar.write32(mailbox(number), MAILBOX_OURS);
    bar.read32(mailbox(number)) & MAILBOX_OURS != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::igb::model::Played82576;
    use crate::nic::Filters;
    use crate::nic::intel::model::{MAC, Shared};
    use crate::nic::intel::post::post;
    use crate::nic::intel::vf_messages::{KIND, RESET};
    use crate::pci::{FakeFn, PciFn as _};

    #[test]
    fn a_notice_is_said_when_nothing_is_lost_by_it() {
        let post = post();
        let chip = Shared::<Played82576>::new();
        chip.lock().own.posts[0] = Some(post.clone());
        let bar = FakeFn::new(chip).bar(0).unwrap();
        let functions = Functions::new(1, MAC, &Filters::default(), &[]).unwrap();
        let mut boxes = Mailboxes::new(&bar, functions, 1522);
        let first = || post.lock().unwrap().words[0];

        // The function is writing its question when there is something to tell.
        (post.lock().unwrap().vf_has, post.lock().unwrap().words[0]) = (true, RESET);
        boxes.notify(&bar);
        assert_eq!(first(), RESET);
        // It has asked, and nobody has heard it yet.
        (post.lock().unwrap().vf_has, post.lock().unwrap().asked) = (false, true);
        boxes.notify(&bar);
        assert_eq!(first(), RESET);
        assert!(boxes.serve(&bar));
        assert_eq!(first() & KIND, RESET, "the answer");
        assert_ne!(first(), RESET);
        // Told when it has read the answer.
        post.lock().unwrap().pf_was_read = true;
        assert!(boxes.serve(&bar));
        assert_eq!(first() & KIND, NOTICE);
    }
}
