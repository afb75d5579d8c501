//! What a played 82574 has otherwise than its siblings ([`crate::nic::intel::model`]).

use std::sync::Arc;

use super::registers::*;
use super::{descriptors, open};
use crate::nic::NicConfig;
use crate::nic::intel::model::{Chip, Played, Sent};
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

#[derive(Default)]
pub(super) struct Played82574;

impl Played for Played82574 {
    const RX: usize = RX_BASE;
    const TX: usize = TX_BASE;
    const QUEUE: usize = QUEUE;
    const MASKS: &'static [(usize, usize)] = &[(IMS, IMC)];

    fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
        open(config, function)
    }

    fn sent(words: [u64; 2]) -> Sent {
        descriptors::sent(words)
    }

    fn rx_vector(chip: &Chip<Self>, queue: usize) -> Option<u16> {
        let wanted = chip.get(IMS) & CAUSE_RX_QUEUE_0 << queue != 0;
        wanted.then(|| (chip.get(IVAR) >> (4 * queue) & 7) as u16)
    }

    fn tell_link(chip: &mut Chip<Self>) -> u16 {
        assert_ne!(chip.get(IMS) & CAUSE_LINK, 0);
        (chip.get(IVAR) >> IVAR_OTHER_SHIFT & 7) as u16
    }
}
