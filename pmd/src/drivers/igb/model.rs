//! What a played 82576 has otherwise than its siblings ([`crate::nic::intel::model`]).

use std::sync::Arc;

use super::open;
use super::registers::*;
use crate::nic::NicConfig;
use crate::nic::intel::model::{Chip, Played, Sent};
use crate::nic::intel::sent;
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

#[derive(Default)]
pub(super) struct Played82576;

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

    fn tell_link(chip: &mut Chip<Self>) -> u16 {
        assert_ne!(chip.get(IMS) & CAUSE_LINK, 0);
        assert_eq!(chip.get(IVAR_MISC), 0x8000, "vector 0");
        0
    }
}
