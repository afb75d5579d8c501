//! What the driver of a card provides.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::memory::DmaArena;
use crate::packet::{Batch, Frame, OffloadCaps};
use crate::pci::VfState;
use crate::port::{Armed, DropCounters, DropReason, PmdError, TxBurst};

/// A ring or card that does not do what its manual says; only a restart can help.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A descriptor was written back that makes no sense.
    #[error("it wrote back a descriptor that makes no sense")]
    BadDescriptor,
    /// Frames wait to be sent and none has gone for seconds.
    #[error("it has stopped sending")]
    Stuck,
    /// Registers read as all ones.
    #[error("its registers are gone")]
    Gone,
    /// The card asks for a reset itself.
    #[error("it asks for a reset")]
    NeedsReset,
    /// The card has more virtual functions than when it was started, or fewer.
    #[error("the number of its virtual functions has changed")]
    Functions,
}

/// The link as a card sees it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Mbit/s; unknown if absent.
    pub speed: Option<u32>,
    /// Both directions at once; unknown if absent.
    pub full_duplex: Option<bool>,
}

/// What a card is, found when it was opened.
#[derive(Clone, Debug)]
pub struct CardInfo {
    /// Name of the driver.
    pub driver: &'static str,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Most queues in each direction.
    pub max_queues: u16,
    /// Largest MTU.
    pub max_mtu: u16,
}

/// How a card is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Queues in each direction, at most [`CardInfo::max_queues`].
    pub queues: u16,
    /// Descriptors of each receive ring, a power of two.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit ring, a power of two.
    pub tx_descriptors: u16,
    /// Largest payload of a frame.
    pub mtu: u16,
}

/// Bytes a frame may have beyond the MTU: Ethernet header and two tags.
pub(super) const LINK_OVERHEAD: usize = 14 + 8;

impl Settings {
    /// Longest frame, without check sequence.
    pub fn max_frame(&self) -> usize {
        usize::from(self.mtu) + LINK_OVERHEAD
    }
}

/// The rings of a started card, as many of each as [`Settings::queues`].
pub struct Queues<C: Card> {
    /// Receive rings.
    pub rx: Vec<C::Rx>,
    /// Transmit rings.
    pub tx: Vec<C::Tx>,
}

/// A card, seen from the control side. One thread at a time.
pub trait Card: Send + Sized + 'static {
    /// Its receive ring.
    type Rx: RxRing;
    /// Its transmit ring.
    type Tx: TxRing;

    /// What it is.
    fn info(&self) -> &CardInfo;

    /// Resets the card and starts it with fresh rings, buffers given to the card, receiving all addresses. `events` are to be signalled: the first
    /// for changes of the link, each other by a receive ring that was armed.
    ///
    /// # Errors
    /// The card does not come up, or there is no memory.
    fn start(&mut self, settings: &Settings, events: &[Arc<OwnedFd>]) -> Result<Queues<Self>, PmdError>;

    /// Stops the card: when this returns it does no more DMA.
    fn stop(&mut self);

    /// The link now; what a card that is gone says is no link.
    fn link(&mut self) -> Link;

    /// A fault the card itself shows.
    fn fault(&mut self) -> Option<Fault>;

    /// The card's own counters since it was started, by name.
    fn counters(&mut self) -> Vec<(&'static str, u64)>;

    /// What holds for the virtual functions that it shares the card with, by number.
    fn virtual_functions(&self) -> Vec<VfState> {
        Vec::new()
    }

    /// Whether another MTU takes effect only by a restart.
    fn mtu_needs_restart(&self) -> bool {
        true
    }
}

/// Receive ring of a card. Used by one worker at a time; never blocks.
pub trait RxRing: Send + 'static {
    /// The memory that received payload lies in.
    fn arena(&self) -> &Arc<DmaArena>;

    /// Receives into the batch until that is full or nothing waits. Payload is named in `arena`, which is [`RxRing::arena`]. Returns the bytes
    /// received. The card does not get the buffers back before [`RxRing::release`].
    ///
    /// # Errors
    /// The ring makes no sense any more. Packets received before that are in the batch.
    fn receive<'q>(
        &mut self,
        arena: &'q DmaArena,
        batch: &mut Batch<'q>,
        drops: &DropCounters,
    ) -> Result<u64, Fault>;

    /// Gives the buffers of what was received back to the card. Returns whether a register was written for it.
    fn release(&mut self) -> bool;

    /// Does what [`RxRing::release`] put off until the next round, if it is a ring that does: tells the card. Returns whether a register was written.
    fn settle(&mut self) -> bool {
        false
    }

    /// Asks for an interrupt at the next packet, and looks once more.
    fn arm(&mut self) -> Armed;

    /// Wants no interrupts.
    fn disarm(&mut self);
}

/// Transmit ring of a card. Used by one thread at a time; never blocks.
pub trait TxRing: Send + 'static {
    /// What the card does itself of what frames ask for, at best.
    fn caps(&self) -> OffloadCaps;

    /// Copies a burst into the ring, where the card finds it after [`TxRing::publish`] at the latest. A frame goes as several where the card cannot cut it
    /// or shall not. What was done, and what is lost, is counted. Returns how many frames were sent.
    ///
    /// # Errors
    /// The ring makes no sense any more; the burst was lost.
    fn send_burst(&mut self, burst: TxBurst<'_, '_>) -> Result<usize, Fault>;

    /// Has the card told of what was added, by one register write at most. Returns whether there was one.
    fn publish(&mut self) -> bool;

    /// Descriptors the card is done with since the ring was made, and those it has and is not done with.
    ///
    /// # Errors
    /// The ring makes no sense any more.
    fn progress(&mut self) -> Result<(u64, u32), Fault>;
}

/// A transmit ring that takes one frame after the other; a [`TxRing`] by that.
pub trait FrameRing: Send + 'static {
    /// As [`TxRing::caps`].
    fn caps(&self) -> OffloadCaps;

    /// What of it for this frame: a card may want headers where it finds them, or be unable to name where they are.
    fn caps_for(&self, frame: &Frame<'_>) -> OffloadCaps;

    /// Takes back what the card has sent.
    ///
    /// # Errors
    /// The ring makes no sense any more.
    fn reclaim(&mut self) -> Result<(), Fault>;

    /// Copies a frame into the ring, where the card finds it after [`FrameRing::publish`]. It asks for nothing that [`FrameRing::caps_for`] lacks.
    ///
    /// # Errors
    /// There is no room, or the frame cannot be sent.
    fn send(&mut self, frame: &Frame<'_>) -> Result<(), DropReason>;

    /// Shows the card what was added, by one register write at most. Returns whether there was one.
    fn publish(&mut self) -> bool;

    /// Descriptors the card is done with since the ring was made, and those it has and is not done with.
    fn progress(&mut self) -> (u64, u32);
}
