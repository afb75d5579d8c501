//! The receiving end of one direction: counts frames, tells ours from foreign ones, takes latencies.
//!
//! Of every frame the header is read, as every driver with mergeable buffers must: it says over how many buffers the frame
//! goes. The frame's own line is read for latency. Otherwise one frame of a burst is looked at, and the length of all; the first foreign
//! one makes the receiver look at every frame from then on. The switch may thus go undetected in mixing in a few frames of exactly our
//! length, not in doing so for long.

use pmd::virtio::NetHeader;
use pmd::virtio::burst_driver::BufferView;

use crate::error::{During as _, Error};
use crate::frame::{Kind, STAMP, read_stamp, tag};
use crate::guest::{BURST, Guest};
use crate::histogram::Histogram;

/// Offset of `num_buffers` in the virtio-net header.
const NUM_BUFFERS: usize = 10;
/// Bytes of Ethernet's frame check sequence.
const FCS: u64 = 4;

/// What a frame turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ours(u64),
    Learn,
    Foreign,
}

/// A frame of which buffers are missing.
#[derive(Debug, Clone, Copy)]
struct Unfinished {
    verdict: Verdict,
    buffers: u16,
    len: u64,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Receiver {
    tag: u32,
    learn: u32,
    stamp_at: usize,
    /// Bytes of header and frame if the frame is ours and has one buffer.
    len: u32,
    look_at_all: bool,
    unfinished: Option<Unfinished>,
    /// Frames of the stream.
    pub(crate) received: u64,
    /// Their bytes on the wire.
    pub(crate) bytes: u64,
    /// Other frames.
    pub(crate) foreign: u64,
    /// Frames to be learned from.
    pub(crate) introduced: u64,
    /// Latencies in ticks, if the stream wants them.
    pub(crate) latency: Option<Histogram>,
}

impl Receiver {
    /// A receiver of frames with the stamp of `kind` and `run` at `stamp_at` in the buffer; the usual one has `len` bytes, header included.
    pub(crate) fn new(kind: Kind, run: u32, stamp_at: usize, len: usize, latency: bool) -> Self {
        Self {
            tag: tag(kind, run),
            learn: tag(Kind::Learn, run),
            stamp_at,
            len: len as u32,
            look_at_all: latency,
            unfinished: None,
            received: 0,
            bytes: 0,
            foreign: 0,
            introduced: 0,
            latency: latency.then(Histogram::new),
        }
    }

    /// Counts anew from here.
    pub(crate) fn restart(&mut self) {
        (self.received, self.bytes, self.foreign) = (0, 0, 0);
        if let Some(latency) = &mut self.latency {
            *latency = Histogram::new();
        }
    }

    /// Takes a burst and gives its buffers back to the switch. Returns how many it had.
    #[inline]
    pub(crate) fn turn(&mut self, guest: &mut Guest, clock: impl Fn() -> u64) -> Result<u16, Error> {
        let taken = self.collect(guest, clock)?;
        guest.repost();
        Ok(taken)
    }

    /// Takes a burst. Returns how many buffers it had.
    #[inline]
    pub(crate) fn collect(&mut self, guest: &mut Guest, clock: impl Fn() -> u64) -> Result<u16, Error> {
        let taken = if self.look_at_all {
            let mut now = 0;
            guest.rx.take_used::<2>(BURST, |buffer, len| {
                if now == 0 {
                    now = clock();
                }
                self.take(&buffer, len, now);
            })
        } else {
            let (expected, mut plain, mut first) = (self.len, 0u64, true);
            let taken = guest.rx.take_used::<1>(BURST, |buffer, len| {
                let single = u16::from_le_bytes(buffer.read(NUM_BUFFERS)) == 1;
                if len == expected && single && !first && self.unfinished.is_none() {
                    plain += 1;
                } else {
                    first = false;
                    self.take(&buffer, len, 0);
                }
            });
            self.received += plain;
            self.bytes += plain * (u64::from(expected) - NetHeader::LEN as u64 + FCS);
            taken
        };
        taken.during("receive ring")
    }

    /// Takes one buffer, whatever it is.
    #[inline]
    fn take(&mut self, buffer: &BufferView<'_>, len: u32, now: u64) {
        let len = u64::from(len);
        let frame = match self.unfinished.take() {
            Some(old) => Unfinished { buffers: old.buffers - 1, len: old.len + len, ..old },
            None => Unfinished {
                verdict: self.judge(buffer, len),
                buffers: u16::from_le_bytes(buffer.read(NUM_BUFFERS)).max(1) - 1,
                len,
            },
        };
        if frame.buffers > 0 {
            self.unfinished = Some(frame);
            return;
        }
        match frame.verdict {
            Verdict::Ours(time) => {
                self.received += 1;
                self.bytes += frame.len.saturating_sub(NetHeader::LEN as u64) + FCS;
                if let Some(latency) = &mut self.latency {
                    latency.record(now.saturating_sub(time));
                }
            }
            Verdict::Learn => self.introduced += 1,
            Verdict::Foreign => {
                self.foreign += 1;
                self.look_at_all = true;
            }
        }
    }

    #[inline]
    fn judge(&self, buffer: &BufferView<'_>, len: u64) -> Verdict {
        // Behind the end of a short frame lies what was in the buffer before.
        if len < (self.stamp_at + STAMP) as u64 {
            return Verdict::Foreign;
        }
        match read_stamp(buffer, self.stamp_at) {
            (tag, time) if tag == self.tag => Verdict::Ours(time),
            (tag, _) if tag == self.learn => Verdict::Learn,
            _ => Verdict::Foreign,
        }
    }
}
