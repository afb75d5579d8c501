//! Two guests and the streams between them: one turn of everything, again and again, on one thread.

use std::path::Path;
use std::time::Duration;

use pmd::sys::clock::{cycles, cycles_per_second};
use pmd::virtio::NetHeader;

use crate::args::Ports;
use crate::error::{During as _, Error};
use crate::frame::{Kind, Template, tag};
use crate::guest::{Guest, repost_at};
use crate::memory::{HugePages, Shape};
use crate::receiver::Receiver;
use crate::sender::{KINDS, Sender};
use crate::session::Terms;
use crate::stream::Stream;

/// Bytes of a receive buffer without offloads: an mbuf's data room and the header.
const PLAIN_BUFFER: u32 = 2048 + NetHeader::LEN as u32;
/// Bytes of a receive buffer with offloads: a page, as Linux posts when large frames come in.
const OFFLOAD_BUFFER: u32 = 4096;
/// Transmit buffers longer than a page are so many, so that they stay in the cache as a busy guest's do.
const LARGE_BUFFERS: u16 = 128;
/// After sending has ended, frames are given up for lost when none has come for so long, or at the latest after
/// [`STRAGGLERS_AT_MOST`].
const STRAGGLERS: Duration = Duration::from_millis(200);
const STRAGGLERS_AT_MOST: Duration = Duration::from_secs(2);
/// A closed loop in which nothing has moved for so long has lost its frames.
const STALLED: Duration = Duration::from_secs(1);
/// How long a bridge may take to pass the first frame: a switch may still be setting up its queues.
const LEARNING: Duration = Duration::from_secs(5);
/// Time between two attempts.
const LEARN_AGAIN: Duration = Duration::from_millis(10);

/// What both guests have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Entries of a ring.
    pub(crate) ring_size: u16,
    /// Packed rings instead of split ones.
    pub(crate) packed: bool,
    /// Checksum offload and TSO are negotiated.
    pub(crate) offload: bool,
    /// Pages of guest memory.
    pub(crate) huge: HugePages,
}

/// One direction: index 0 from A to B, 1 from B to A.
pub(crate) struct Way {
    /// The end that sends, if the direction has a stream.
    pub(crate) sender: Sender,
    /// Whether it does.
    pub(crate) active: bool,
    /// The end that receives.
    pub(crate) receiver: Receiver,
    /// Frames seen at the last look for a stall, and when they had last become more.
    progress: (u64, u64),
}

/// What the loop did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turns {
    /// Turns of the loop.
    pub(crate) all: u64,
    /// Turns that moved a frame.
    pub(crate) busy: u64,
    /// Closed loops that had to be filled again because nothing came back.
    pub(crate) stalls: u64,
}

/// Two connected guests.
pub(crate) struct Pair {
    /// A and B.
    pub(crate) guests: [Guest; 2],
    /// Both directions.
    pub(crate) ways: [Way; 2],
    run: u32,
    hz: u64,
}

impl Pair {
    /// Connects both guests and makes the streams; `None` sends nothing. Pins the thread if told to.
    pub(crate) fn connect(
        ports: &Ports,
        settings: Settings,
        streams: [Option<&Stream>; 2],
    ) -> Result<Self, Error> {
        if let Some(core) = ports.core {
            pmd::sys::cpu::pin_current_thread(core).during(format_args!("--core {core}"))?;
        }
        let hz = cycles_per_second();
        // Tells our frames from those of another run that are still on their way.
        let run = (cycles() >> 8) as u32 & 0x00ff_ffff;
        let default = Stream::default();
        let mut parts = Vec::with_capacity(2);
        for (kind, stream) in KINDS.into_iter().zip(streams) {
            let (spec, active) = (stream.unwrap_or(&default), stream.is_some());
            let template = Template::new(spec, kind, run, settings.offload);
            let (len, stamp_at) = (template.len(), template.stamp_at());
            let capacity = settings.capacity(len)?;
            let sender = Sender::new(spec, template, capacity, hz);
            let receiver = Receiver::new(kind, run, stamp_at, len, spec.latency);
            parts.push((Way { sender, active, receiver, progress: (0, 0) }, settings.shape(len)));
        }
        let mut attach = |path: &Path| {
            let (way, shape) = parts.remove(0);
            let terms = Terms { path: path.to_owned(), offload: settings.offload };
            let mut guest = Guest::attach(terms, shape, settings.huge)?;
            way.sender.fill(&mut guest);
            Ok((guest, way))
        };
        let ((a, ab), (b, ba)) = (attach(&ports.a)?, attach(&ports.b)?);
        Ok(Self { guests: [a, b], ways: [ab, ba], run, hz })
    }

    /// Feature bits of both conversations.
    pub(crate) fn features(&self) -> u64 {
        self.guests[0].session().features()
    }

    /// Ticks of the clock in a second.
    pub(crate) fn hz(&self) -> u64 {
        self.hz
    }

    /// Ticks of a time.
    pub(crate) fn ticks(&self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.hz) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// Receives what is there, in both directions. Returns the buffers taken.
    #[inline]
    pub(crate) fn receive(&mut self) -> Result<u32, Error> {
        let [a, b] = &mut self.guests;
        let [ab, ba] = &mut self.ways;
        let taken = u32::from(ab.receiver.turn(b, cycles)?) + u32::from(ba.receiver.turn(a, cycles)?);
        Ok(taken)
    }

    /// Sends from A one frame stamped with `time`. False without room.
    pub(crate) fn send_one(&mut self, time: u64) -> Result<bool, Error> {
        let [a, _] = &mut self.guests;
        self.ways[0].sender.send_one(a, time)
    }

    /// Counts anew from here.
    pub(crate) fn restart(&mut self) {
        let now = cycles();
        for way in &mut self.ways {
            way.sender.restart(now);
            way.receiver.restart();
            way.progress = (0, now);
        }
    }

    /// Sends and receives for `time`. Returns what the loop did and how many seconds it really took.
    pub(crate) fn exchange(&mut self, time: Duration) -> Result<(Turns, f64), Error> {
        let (start, length, stalled) = (cycles(), self.ticks(time), self.ticks(STALLED));
        let mut turns = Turns::default();
        loop {
            let mut moved = 0;
            let now = cycles();
            if now.wrapping_sub(start) >= length {
                return Ok((turns, now.wrapping_sub(start) as f64 / self.hz as f64));
            }
            for index in 0..2 {
                let way = &mut self.ways[index];
                moved += u32::from(way.receiver.turn(&mut self.guests[1 - index], cycles)?);
                if way.active {
                    let received = way.receiver.received;
                    moved += u32::from(way.sender.turn(&mut self.guests[index], received, now)?);
                    if moved == 0 && way.is_stalled(now, stalled) {
                        turns.stalls += 1;
                    }
                }
            }
            turns.all += 1;
            turns.busy += u64::from(moved > 0);
        }
    }

    /// Receives what is still on its way, until nothing is or it is too late.
    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        let (start, patience, end) = (cycles(), self.ticks(STRAGGLERS), self.ticks(STRAGGLERS_AT_MOST));
        let mut last = start;
        while self.ways.iter().any(|way| way.sender.sent() > way.receiver.received) {
            let now = cycles();
            if self.receive()? > 0 {
                last = now;
            } else if now.wrapping_sub(last) > patience || now.wrapping_sub(start) > end {
                break;
            }
        }
        for guest in &self.guests {
            guest.session().must_be_alive()?;
        }
        Ok(())
    }

    /// Sends a frame each way until one has arrived each way, so that a bridge knows both addresses and the switch is known to
    /// forward. Says so on standard error if it does not.
    pub(crate) fn learn(&mut self) -> Result<(), Error> {
        let (start, patience, again) = (cycles(), self.ticks(LEARNING), self.ticks(LEARN_AGAIN));
        let learn = tag(Kind::Learn, self.run);
        let mut due = start;
        loop {
            let now = cycles();
            let missing = self.ways.iter().any(|way| way.receiver.introduced == 0);
            if !missing || now.wrapping_sub(start) >= patience {
                break;
            }
            if now.wrapping_sub(due) < u64::MAX / 2 {
                due = now + again;
                for (guest, way) in self.guests.iter_mut().zip(&self.ways) {
                    way.sender.introduce(guest, learn)?;
                }
            }
            self.receive()?;
        }
        for (way, name) in self.ways.iter().zip(["from A to B", "from B to A"]) {
            if way.receiver.introduced == 0 {
                eprintln!("vsgen: no frame got {name} within {} s; going on", LEARNING.as_secs());
            }
        }
        self.settle_down()?;
        for (guest, way) in self.guests.iter_mut().zip(&self.ways) {
            way.sender.fill(guest);
        }
        Ok(())
    }

    /// Waits until the switch has taken everything and nothing has come for a while.
    pub(crate) fn settle_down(&mut self) -> Result<(), Error> {
        let (start, patience, quiet) = (cycles(), self.ticks(LEARNING), self.ticks(LEARN_AGAIN));
        let mut last = start;
        loop {
            let now = cycles();
            let mut waiting = self.receive()? > 0;
            for (guest, name) in self.guests.iter_mut().zip(["A", "B"]) {
                guest.make_room(u16::MAX)?;
                waiting |= guest.tx.outstanding() > 0;
                if waiting && now.wrapping_sub(start) > patience {
                    guest.session().must_be_alive()?;
                    return Err(Error::Failed(format!(
                        "port {name}: the switch does not take what the guest sends"
                    )));
                }
            }
            if waiting {
                last = now;
            } else if now.wrapping_sub(last) > quiet {
                return Ok(());
            }
        }
    }
}

impl Way {
    /// Finds out whether a closed loop has lost all its frames, and lets it go on then.
    fn is_stalled(&mut self, now: u64, patience: u64) -> bool {
        let received = self.receiver.received;
        if received != self.progress.0 || self.sender.in_flight(received) == 0 {
            self.progress = (received, now);
        }
        let stalled = self.sender.is_closed() && now.wrapping_sub(self.progress.1) > patience;
        if stalled {
            self.sender.write_off(received);
            self.progress.1 = now;
        }
        stalled
    }
}

impl Settings {
    /// The buffers of a guest whose frames have `len` bytes, header included.
    fn shape(&self, len: usize) -> Shape {
        let transmit = len as u32;
        let count =
            if transmit > OFFLOAD_BUFFER { LARGE_BUFFERS.min(self.ring_size) } else { self.ring_size };
        Shape {
            ring_size: self.ring_size,
            packed: self.packed,
            receive: self.receive_buffer(),
            transmit,
            transmit_count: count,
        }
    }

    fn receive_buffer(&self) -> u32 {
        if self.offload { OFFLOAD_BUFFER } else { PLAIN_BUFFER }
    }

    /// How many frames of `len` bytes a receive ring is sure to hold.
    fn capacity(&self, len: usize) -> Result<u32, Error> {
        let size = self.ring_size;
        if !size.is_power_of_two() || size > 32_768 {
            return Err(Error::Usage(format!("--ring-size {size}: a power of two up to 32768 is wanted")));
        }
        let capacity = u32::from(size - repost_at(size)) / (len as u32).div_ceil(self.receive_buffer());
        if capacity == 0 {
            return Err(Error::Usage(format!("--ring-size {size}: too small for a frame of {len} bytes")));
        }
        Ok(capacity)
    }
}
