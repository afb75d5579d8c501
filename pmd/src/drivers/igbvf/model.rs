//! A played virtual function of an 82576, and the other end of its mailbox, the driver of the physical function.

use std::sync::Arc;

use super::mailbox::{KNOWN, NO, NOTICE, RESET, SET_ADDRESS, WORDS, YES};
use super::open;
use super::registers::*;
use crate::nic::NicConfig;
use crate::nic::intel::model::{Chip, MAC, Played, Sent};
use crate::nic::intel::post::{Post, SharedPost};
use crate::nic::intel::sent;
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

/// The mailbox and what is behind it.
#[derive(Default)]
pub(crate) struct PlayedVf {
    /// A mailbox with a physical function that is played too, instead of all that follows.
    pub(crate) post: Option<SharedPost>,
    /// The register, as we read it.
    state: u32,
    memory: [u32; WORDS],
    /// Has been introduced since the last reset of the card.
    known: bool,
    /// Everything asked for since then, first words without arguments of ours.
    pub(super) asked: Vec<[u32; 3]>,
    /// Questions, by their first word, that are answered with no.
    pub(super) refuses: Vec<u32>,
    /// Questions are not answered.
    pub(super) silent: bool,
    /// Gives no address.
    pub(super) no_address: bool,
    /// Says something else before each answer.
    pub(super) talks: bool,
    /// The answer that is said after that.
    held: Option<[u32; WORDS]>,
}

impl PlayedVf {
    /// What the driver of the physical function does when it finds a question.
    fn answer(&mut self) {
        let question = self.memory;
        if self.silent {
            return;
        }
        self.state |= MAILBOX_WAS_READ;
        let [first, second, third, ..] = question;
        let yes = if first == RESET {
            (self.known, self.asked) = (true, Vec::new());
            !self.no_address
        } else {
            self.known && !self.refuses.contains(&first)
        };
        self.asked.push([first, second, third]);
        if first == RESET && yes {
            self.memory[1] = u32::from_le_bytes([MAC[0], MAC[1], MAC[2], MAC[3]]);
            self.memory[2] = u32::from_le_bytes([MAC[4], MAC[5], 0, 0]);
        }
        self.memory[0] = first | if yes { YES } else { NO } | if self.known { KNOWN } else { 0 };
        self.state |= MAILBOX_MESSAGE;
        if self.talks {
            self.held = Some(self.memory);
            self.memory[0] = NOTICE | KNOWN;
        }
    }

    /// The card is reset, and its driver does not come back for now.
    pub(super) fn go_down(&mut self) {
        self.known = false;
        self.state |= MAILBOX_IN_RESET;
    }

    /// The driver is back.
    pub(super) fn come_back(&mut self) {
        self.state = self.state & !MAILBOX_IN_RESET | MAILBOX_RESET_DONE;
    }

    /// The driver says that it does not know us.
    pub(super) fn forget(&mut self) {
        self.known = false;
        self.memory[0] = NOTICE;
        self.state |= MAILBOX_MESSAGE;
    }

    /// Addresses that were set or added.
    pub(super) fn addresses(&self) -> Vec<[u8; 6]> {
        let set = self.asked.iter().filter(|[first, low, _]| first & 0xffff == SET_ADDRESS && *low != 0);
        set.map(|[_, low, high]| {
            let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
            [a, b, c, d, e, f]
        })
        .collect()
    }
}

impl Played for PlayedVf {
    const RX: usize = RX_BASE;
    const TX: usize = TX_BASE;
    const QUEUE: usize = 0x100;
    const MASKS: &'static [(usize, usize)] = &[(EIMS, EIMC)];

    fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
        open(config, function)
    }

    fn sent(words: [u64; 2]) -> Sent {
        sent(words)
    }

    fn rx_vector(chip: &Chip<Self>, queue: usize) -> Option<u16> {
        let vector = chip.get(IVAR) >> (16 * queue) & 3;
        (chip.get(EIMS) & 1 << vector != 0).then_some(vector as u16)
    }

    fn tell_link(chip: &mut Chip<Self>) -> u16 {
        assert_eq!((chip.get(IVAR_MISC), chip.get(EIMS) & 1), (IVAR_VALID, 1), "vector 0");
        chip.own.memory[0] = NOTICE | KNOWN;
        chip.own.state |= MAILBOX_MESSAGE;
        0
    }

    fn reset(chip: &mut Chip<Self>) {
        if let Some(post) = &chip.own.post {
            let mut post = post.lock().unwrap();
            (post.vf_reset, post.vf_has) = (true, false);
        }
    }

    fn read(chip: &mut Chip<Self>, offset: usize) -> Option<u32> {
        if let Some(post) = &chip.own.post {
            return read_post(&mut post.lock().unwrap(), offset);
        }
        let own = &mut chip.own;
        match offset {
            MAILBOX => {
                let state = own.state;
                own.state &= !(MAILBOX_MESSAGE | MAILBOX_WAS_READ | MAILBOX_RESET_DONE);
                Some(state)
            }
            MAILBOX_MEMORY..MAILBOX => own.memory.get((offset - MAILBOX_MEMORY) / 4).copied(),
            _ => None,
        }
    }

    fn write(chip: &mut Chip<Self>, offset: usize, value: u32) -> bool {
        if let Some(post) = &chip.own.post {
            return write_post(&mut post.lock().unwrap(), offset, value);
        }
        let own = &mut chip.own;
        match offset {
            MAILBOX => {
                own.state = own.state & !MAILBOX_OURS | value & MAILBOX_OURS;
                // What was waiting to be said is said as soon as it can be.
                if let Some(answer) = own.held.take_if(|_| value & MAILBOX_READ != 0) {
                    own.memory = answer;
                    own.state |= MAILBOX_MESSAGE;
                }
                if value & MAILBOX_ASK != 0 {
                    own.answer();
                }
            }
            MAILBOX_MEMORY..MAILBOX => {
                assert_ne!(own.state & MAILBOX_OURS, 0, "written without having it");
                own.memory[(offset - MAILBOX_MEMORY) / 4] = value;
            }
            _ => return false,
        }
        true
    }
}

fn read_post(post: &mut Post, offset: usize) -> Option<u32> {
    match offset {
        MAILBOX => {
            let bits = [
                (post.vf_has, MAILBOX_OURS),
                (post.in_reset, MAILBOX_IN_RESET),
                (std::mem::take(&mut post.message), MAILBOX_MESSAGE),
                (std::mem::take(&mut post.was_read), MAILBOX_WAS_READ),
                (std::mem::take(&mut post.reset_done), MAILBOX_RESET_DONE),
            ];
            Some(bits.into_iter().filter(|(is, _)| *is).fold(0, |state, (_, bit)| state | bit))
        }
        MAILBOX_MEMORY..MAILBOX => post.words.get((offset - MAILBOX_MEMORY) / 4).copied(),
        _ => None,
    }
}

fn write_post(post: &mut Post, offset: usize, value: u32) -> bool {
    match offset {
        MAILBOX => {
            post.asked |= value & MAILBOX_ASK != 0;
            post.pf_was_read |= value & MAILBOX_READ != 0;
            post.vf_has = value & MAILBOX_OURS != 0 && !post.pf_has;
        }
        MAILBOX_MEMORY..MAILBOX => {
            assert!(post.vf_has, "written without having it");
            post.words[(offset - MAILBOX_MEMORY) / 4] = value;
        }
        _ => return false,
    }
    true
}
