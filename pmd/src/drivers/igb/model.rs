//! What a played 82576 has otherwise than its siblings ([`crate::nic::intel::model`]).

use std::sync::{Arc, MutexGuard};

use super::open;
use super::registers::*;
use crate::nic::NicConfig;
use crate::nic::intel::model::{Chip, Played, Sent};
use crate::nic::intel::post::{Post, SharedPost};
use crate::nic::intel::sent;
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

#[derive(Default)]
pub(crate) struct Played82576 {
    /// Mailboxes of virtual functions, by number.
    pub(crate) posts: [Option<SharedPost>; 7],
}

impl Played82576 {
    /// The mailbox that a register belongs to.
    fn post(&self, number: usize) -> Option<MutexGuard<'_, Post>> {
        self.posts.get(number)?.as_ref().map(|post| post.lock().unwrap())
    }

    /// A bit for each function of which that is so.
    fn bits(&self, what: impl Fn(&Post) -> bool) -> u32 {
        let set = (0..7).filter(|number| self.post(*number).is_some_and(|post| what(&post)));
        set.fold(0, |bits, number| bits | 1 << number)
    }

    fn each(&self, bits: u32, mut what: impl FnMut(&mut Post)) {
        for number in (0..7).filter(|number| bits >> number & 1 == 1) {
            if let Some(mut post) = self.post(number) {
                what(&mut post);
            }
        }
    }
}

impl Played for Played82576 {
    const RX: usize = RX_BASE;
    const TX: usize = TX_BASE;
    const QUEUE: usize = QUEUE;
    const MASKS: &'static [(usize, usize)] = &[(IMS, IMC), (EIMS, EIMC)];

    fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
        open(config, function)
    }

    fn sent(words: [u64; 2]) -> Sent {
        sent(words)
    }

    fn rx_vector(chip: &Chip<Self>, queue: usize) -> Option<u16> {
        let vector = chip.get(IVAR + 4 * queue) & 0x1f;
        (chip.get(EIMS) & 1 << vector != 0).then_some(vector as u16)
    }

    fn reset(chip: &mut Chip<Self>) {
        chip.own.each(0x7f, |post| (post.in_reset, post.pf_has) = (true, false));
    }

    fn read(chip: &mut Chip<Self>, offset: usize) -> Option<u32> {
        let own = &chip.own;
        match offset {
            MBVFICR => Some(own.bits(|post| post.asked) | own.bits(|post| post.pf_was_read) << MBVFICR_READ),
            VFLRE => Some(own.bits(|post| post.vf_reset)),
            P2V_MAILBOX..MBVFICR => {
                let post = own.post((offset - P2V_MAILBOX) / 4)?;
                Some(if post.pf_has { MAILBOX_OURS } else { 0 })
            }
            VMBMEM..P2V_MAILBOX => {
                let (number, word) = ((offset - VMBMEM) / 64, (offset - VMBMEM) / 4 % 16);
                own.post(number).map(|post| post.words[word])
            }
            _ => None,
        }
    }

    fn write(chip: &mut Chip<Self>, offset: usize, value: u32) -> bool {
        let own = &chip.own;
        match offset {
            MBVFICR => {
                own.each(value, |post| post.asked = false);
                own.each(value >> MBVFICR_READ, |post| post.pf_was_read = false);
            }
            VFLRE => own.each(value, |post| post.vf_reset = false),
            P2V_MAILBOX..MBVFICR => own.each(1 << ((offset - P2V_MAILBOX) / 4), |post| {
                assert!(
                    value & (MAILBOX_MESSAGE | MAILBOX_ACK) == 0 || post.pf_has,
                    "said without having it"
                );
                post.message |= value & MAILBOX_MESSAGE != 0;
                post.was_read |= value & MAILBOX_ACK != 0;
                post.pf_has = value & MAILBOX_OURS != 0 && !post.vf_has;
            }),
            VMBMEM..P2V_MAILBOX => own.each(1 << ((offset - VMBMEM) / 64), |post| {
                assert!(post.pf_has, "written without having it");
                post.words[(offset - VMBMEM) / 4 % 16] = value;
            }),
            CTRL_EXT if value & CTRL_EXT_RESET_DONE != 0 => {
                own.each(0x7f, |post| (post.in_reset, post.reset_done) = (false, true));
                return false;
            }
            _ => return false,
        }
        true
    }

    fn tell_link(chip: &mut Chip<Self>) -> u16 {
        assert_ne!(chip.get(IMS) & CAUSE_LINK, 0);
        assert_eq!(chip.get(IVAR_MISC), 0x8000, "vector 0");
        0
    }
}
