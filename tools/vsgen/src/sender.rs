//! The sending end of one direction: decides how many frames go out now, patches and publishes them.
//!
//! Two styles of patching. A stream of one flow without time stamps sends its buffers as they are: the sequence
//! number stays what it was when the rings started, nothing per frame is written, and the switch finds every frame in its own
//! cache. Any other stream writes addresses and stamp into the first line of each frame.

use crate::error::Error;
use crate::flows::{Flow, Flows, Fresh, Round};
use crate::frame::{Kind, Template};
use crate::guest::{BURST, Guest};
use crate::pacer::Pacer;
use crate::stream::{Rate, Stream};

/// When frames go out.
#[derive(Debug)]
enum Pace {
    /// At most so many in flight.
    Closed(u64),
    Max,
    Paced(Pacer),
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Sender {
    template: Template,
    flows: Flows,
    first: Flow,
    pace: Pace,
    sequence: u64,
    /// Frames sent, and how many of them nobody waits for any more.
    sent: u64,
    written_off: u64,
    /// Frames of an open loop that were due and found no room in the ring.
    refused: u64,
}

impl Sender {
    /// A sender of `stream`; `capacity` is how many of its frames the far end's receive ring holds, which bounds the window: frames in
    /// flight that fit there cannot be dropped for want of buffers.
    pub(crate) fn new(stream: &Stream, template: Template, capacity: u32, hz: u64) -> Self {
        let mut flows = if stream.new {
            Flows::New(Fresh::new(stream.nets))
        } else {
            Flows::Round(Round::new(stream.flows, stream.nets))
        };
        let pace = match stream.rate {
            Rate::Closed => Pace::Closed(u64::from(stream.window.min(capacity))),
            Rate::Max => Pace::Max,
            Rate::Paced(rate) => Pace::Paced(Pacer::new(rate, hz, 0)),
        };
        // Of new flows the first is spent on this; of a round it comes again.
        let first = flows.next();
        Self { template, flows, first, pace, sequence: 0, sent: 0, written_off: 0, refused: 0 }
    }

    /// Writes the stream's frame into every transmit buffer of a guest.
    pub(crate) fn fill(&self, guest: &mut Guest) {
        guest.tx.for_each_buffer(|buffer| self.template.write(&buffer, self.first));
    }

    /// Sends one frame from which a bridge can learn where the guest is.
    pub(crate) fn introduce(&self, guest: &mut Guest, tag: u32) -> Result<(), Error> {
        guest.make_room(1)?;
        guest.tx.stage(1, |buffer| self.template.patch(&buffer, tag, self.first, 0, 0));
        guest.publish();
        Ok(())
    }

    /// Sends a single frame now, stamped with `time`. False when there is no room.
    pub(crate) fn send_one(&mut self, guest: &mut Guest, time: u64) -> Result<bool, Error> {
        guest.make_room(1)?;
        let sent = self.stage(guest, 1, time);
        guest.publish();
        self.sent += u64::from(sent);
        Ok(sent == 1)
    }

    /// Counts anew from here; nothing is in flight.
    pub(crate) fn restart(&mut self, now: u64) {
        (self.sent, self.written_off, self.refused) = (0, 0, 0);
        if let Pace::Paced(pacer) = &mut self.pace {
            pacer.restart(now);
        }
    }

    /// Sends what is due, a burst at most. `received` is how many of the stream's frames have arrived. Returns how many were sent.
    #[inline]
    pub(crate) fn turn(&mut self, guest: &mut Guest, received: u64, now: u64) -> Result<u16, Error> {
        let due = match &mut self.pace {
            Pace::Closed(window) => {
                window.saturating_sub(self.sent.saturating_sub(received + self.written_off))
            }
            Pace::Max => u64::from(BURST),
            Pace::Paced(pacer) => pacer.owed(now),
        };
        if due == 0 {
            return Ok(0);
        }
        let due = due.min(u64::from(BURST)) as u16;
        guest.make_room(due)?;
        let sent = self.stage(guest, due, now);
        if sent > 0 {
            guest.publish();
            self.sent += u64::from(sent);
        }
        if let Pace::Paced(pacer) = &mut self.pace {
            // An open loop does not wait for room: what found none is not sent at all.
            pacer.settle(u64::from(due));
            self.refused += u64::from(due - sent);
        }
        Ok(sent)
    }

    /// Writes each frame, those of a single flow too: buffers that nobody wrote would stay in the switch's caches, as no sender's do.
    #[inline(always)]
    fn stage(&mut self, guest: &mut Guest, frames: u16, time: u64) -> u16 {
        let Self { template, flows, sequence, .. } = self;
        guest.tx.stage(frames, |buffer| {
            template.patch(&buffer, template.tag(), flows.next(), *sequence, time);
            *sequence += 1;
        })
    }

    /// Frames sent since the last restart.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Frames that an open loop did not send because the ring was full, since the last restart.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Frames in flight when so many have arrived.
    pub(crate) fn in_flight(&self, received: u64) -> u64 {
        self.sent.saturating_sub(received + self.written_off)
    }

    /// Whether nothing is sent unless something comes back.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.pace, Pace::Closed(_))
    }

    /// No longer waits for what is in flight, so that a closed loop that has lost frames goes on. They still count as sent.
    pub(crate) fn write_off(&mut self, received: u64) {
        self.written_off += self.in_flight(received);
    }

    /// How often the pacer fell behind.
    pub(crate) fn behind(&self) -> u64 {
        match &self.pace {
            Pace::Paced(pacer) => pacer.behind(),
            _ => 0,
        }
    }
}

/// Which way a sender's frames go.
pub(crate) const KINDS: [Kind; 2] = [Kind::Ab, Kind::Ba];
