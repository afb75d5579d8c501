//! The relay of one ring.

use std::sync::Arc;

use pmd::virtio::driver_ring::Buffer;

use super::fault::{DeviceFault, ShadowFault};
use super::flight::{Flights, Landed};
use super::queue::{DeviceQueue, Issued};
use crate::memory::{HostRange, MemTable, PageLog};
use crate::ring::{Cursor, DeviceRing, Direction, MAX_SEGMENTS, Ring, RingFault};

/// What a call of [`Shadow::relay`] did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Relayed {
    /// Chains taken from the guest.
    pub(crate) taken: u16,
    /// Chains given back to it.
    pub(crate) returned: u16,
    /// The device wants a kick: the caller is to give it.
    pub(crate) kick: bool,
    /// The guest was interrupted.
    pub(crate) interrupted: bool,
    /// Who broke the rules. What was right before that has been done. A guest's fault comes again with the next call that takes, a device's with
    /// every call; both are for the caller to act upon.
    pub(crate) fault: Option<ShadowFault>,
}

impl Relayed {
    /// Whether nothing was there to be done.
    pub(crate) fn idle(&self) -> bool {
        self.taken == 0 && self.returned == 0
    }
}

/// How a ring was left when its shadow ended. See [`Shadow::stop`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Settled {
    /// Chains that the device had used by then, which were given back now.
    pub(crate) returned: u64,
    /// Chains that the device had and the guest has not got back: they are taken again by whoever goes on with the ring.
    pub(crate) rewound: u64,
    /// Of those, chains of frames that the device has sent already: they will be sent twice.
    pub(crate) sent_again: u64,
    /// Receive buffers given back empty, because frames were in later ones.
    pub(crate) returned_empty: u64,
}

/// See the parent module.
pub(crate) struct Shadow {
    direction: Direction,
    /// The device has to use buffers in order.
    ordered: bool,
    queue: DeviceQueue,
    flights: Flights,
    /// The number of the chain that the device knows by each name.
    numbers: Vec<u64>,
    /// Where the next chain is taken from the guest.
    cursor: Cursor,
    memory: Arc<MemTable>,
    /// The region of the buffer that was looked at last.
    near: HostRange,
    pieces: Vec<Buffer>,
    /// A chain waits for room in the device's ring.
    full: bool,
    /// Notifications have been asked for.
    armed: bool,
    fault: Option<DeviceFault>,
}

impl Shadow {
    /// A shadow of a ring of this direction, which stands where nothing is under way. With `mergeable`, frames fill several receive
    /// buffers.
    pub(crate) fn new(direction: Direction, mergeable: bool, queue: DeviceQueue) -> Shadow {
        Shadow {
            direction,
            ordered: mergeable && direction == Direction::Write,
            numbers: vec![0; usize::from(queue.spec().size)],
            queue,
            flights: Flights::default(),
            cursor: Cursor::default(),
            memory: Arc::default(),
            near: HostRange::default(),
            pieces: Vec::with_capacity(MAX_SEGMENTS),
            full: false,
            armed: false,
            fault: None,
        }
    }

    /// The device's ring.
    pub(crate) fn queue(&self) -> &DeviceQueue {
        &self.queue
    }

    /// Chains of the guest that have not been given back.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Gives back what the device has used, and gives the device what the guest has made available, at most `budget` chains. With a
    /// budget of zero it gives back only. Buffers that the device wrote are noted in `written`.
    pub(crate) fn relay(
        &mut self,
        guest: &mut DeviceRing,
        written: Option<&mut PageLog>,
        budget: u16,
    ) -> Relayed {
        if std::mem::take(&mut self.armed) {
            guest.disarm();
            self.queue.disable_interrupts();
        }
        self.harvest(written);
        let size = guest.size();
        let returned = self.show(guest);
        let mut relayed = Relayed { returned, ..Relayed::default() };
        // Before anything is taken: the guest can go on meanwhile.
        relayed.interrupted = guest.publish() && guest.interrupt();
        if let Some(fault) = self.fault {
            return Relayed { fault: Some(fault.into()), ..relayed };
        }
        if !Arc::ptr_eq(&self.memory, guest.memory()) {
            self.memory = Arc::clone(guest.memory()); // tidy: once per memory table
            self.near = HostRange::default();
        }
        (relayed.taken, relayed.fault) = match guest {
            DeviceRing::Split(ring) => self.take(ring, size, budget),
            DeviceRing::Packed(ring) => self.take(ring, size, budget),
        };
        relayed.kick = self.queue.publish();
        relayed
    }

    /// Takes from the device what it has used. A fault is kept.
    fn harvest(&mut self, mut written: Option<&mut PageLog>) {
        while self.fault.is_none() {
            match self.harvest_one(&mut written) {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => self.fault = Some(fault),
            }
        }
        // Before the guest is shown any of it.
        if let Some(written) = written {
            written.flush();
        }
    }

    fn harvest_one(&mut self, written: &mut Option<&mut PageLog>) -> Result<bool, DeviceFault> {
        let Some((id, len)) = self.queue.poll_used()? else { return Ok(false) };
        // A name that the driver side lets pass is of a chain that was given to the device, so it has a number.
        let number = self.numbers.get(usize::from(id)).copied().unwrap_or(u64::MAX);
        let capacity = self.flights.capacity(number).unwrap_or(0);
        let len = match self.direction {
            // Some devices say here how much they sent (virtio 1.2, 2.7.8.1). Nothing was written.
            Direction::Read => 0,
            Direction::Write if len > capacity => return Err(DeviceFault::TooLong { len, capacity }),
            Direction::Write => len,
        };
        if self.ordered && !self.flights.in_turn(number) {
            return Err(DeviceFault::OutOfOrder);
        }
        if let Some(written) = written {
            note(&self.flights, number, len, written);
        }
        self.flights.done(number, len);
        Ok(true)
    }

    /// Completes what is done, in the guest's order, as far as nothing is missing. Returns how many chains.
    fn show(&mut self, guest: &mut DeviceRing) -> u16 {
        let Shadow { flights, cursor, .. } = self;
        match guest {
            DeviceRing::Split(ring) => show(flights, cursor, ring),
            DeviceRing::Packed(ring) => show(flights, cursor, ring),
        }
    }

    /// Gives the device what it has room for. Returns how many chains were taken, and why there were no more if that is a fault.
    fn take<R: Ring>(&mut self, guest: &mut R, size: u16, budget: u16) -> (u16, Option<ShadowFault>) {
        self.full = false;
        let mut taken = 0;
        // What found no room when it was taken comes first.
        while let Some(number) = self.flights.next_unissued(&mut self.pieces) {
            match self.issue(number) {
                Ok(true) => {}
                Ok(false) => return (0, None),
                Err(fault) => return (0, Some(fault.into())),
            }
        }
        while taken < budget {
            match self.take_one(guest, size) {
                Ok(None) => break,
                Ok(Some(number)) => {
                    taken += 1;
                    match self.issue(number) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(fault) => return (taken, Some(fault.into())),
                    }
                }
                Err(fault) => return (taken, Some(fault.into())),
            }
        }
        (taken, None)
    }

    /// Gives the device a chain, whose pieces have been collected. False when it has no room for it.
    fn issue(&mut self, number: u64) -> Result<bool, DeviceFault> {
        match self.queue.issue(&self.pieces) {
            Issued::As(id) => {
                if let Some(known) = self.numbers.get_mut(usize::from(id)) {
                    *known = number;
                }
                self.flights.issued(number);
                Ok(true)
            }
            Issued::NoRoom => {
                self.full = true;
                Ok(false)
            }
            Issued::Never => {
                let fault =
                    DeviceFault::ChainTooLong { pieces: self.pieces.len(), size: self.queue.spec().size };
                self.fault = Some(fault);
                Err(fault)
            }
        }
    }

    /// Takes the guest's next chain: checks it, and notes where its pieces are, also in `pieces`. Returns its number; none when there is no chain, or no room for it.
    fn take_one<R: Ring>(&mut self, guest: &mut R, size: u16) -> Result<Option<u64>, RingFault> {
        // What a device has in its ring and tables, and as much again that waits for what came before.
        let most = usize::from(self.queue.spec().size) + MAX_SEGMENTS;
        if self.flights.len() >= most || self.flights.pieces() >= 2 * most + 4 * MAX_SEGMENTS {
            self.full = true;
            return Ok(None);
        }
        let mut cursor = self.cursor;
        let Some(extent) = guest.peek(&mut cursor)? else { return Ok(None) };
        if self.flights.descriptors() + u32::from(extent.descriptors()) > u32::from(size) {
            // A packed ring that was filled a second time before the first came back.
            return Err(RingFault::AvailIndex);
        }
        guest.forget_segments();
        let capacity = guest.walk(extent, self.direction)?;
        let write = self.direction == Direction::Write;
        self.pieces.clear();
        for segment in guest.segments() {
            let addr = segment.start.addr();
            let gpa = match self.near.gpa(addr) {
                Some(gpa) => gpa,
                None => {
                    self.near = self.memory.by_host(addr).ok_or(RingFault::OutsideMemory)?;
                    self.near.gpa(addr).ok_or(RingFault::OutsideMemory)?
                }
            };
            self.pieces.push(Buffer { addr: gpa, len: segment.len, write });
        }
        self.cursor = cursor;
        // A chain has a header's bytes at least, so a piece.
        Ok(self.flights.push(extent, capacity, &self.pieces))
    }

    /// Asks both sides to tell of what comes next. True when something is there already: then [`Shadow::relay`] is to be called again.
    ///
    /// A guest of which nothing is taken any more is not asked, nor while the device has no room: it is the device that goes on then.
    pub(crate) fn arm(&mut self, guest: &mut DeviceRing, takes: bool) -> bool {
        self.armed = true;
        let used = self.queue.enable_interrupts();
        let available = takes && !self.full && guest.arm_at(&self.cursor);
        self.fault.is_none() && (used || available)
    }

    /// Ends the shadow. The device must have stopped: nothing reads or writes the guest's buffers any more. What it had used by then is
    /// given back; the ring then stands where all before is done and all after untouched, as every ring does between bursts.
    pub(crate) fn stop(mut self, guest: &mut DeviceRing, mut written: Option<&mut PageLog>) -> Settled {
        self.harvest(written.as_deref_mut());
        let mut settled = Settled { returned: self.show(guest).into(), ..Settled::default() };
        if let Some(written) = written {
            // The device may have been in the middle of any of them, those that go back empty too.
            for number in self.flights.undone() {
                note(&self.flights, number, u32::MAX, written);
            }
            written.flush();
        }
        let (behind, done) = self.flights.up_to_last_done();
        match self.direction {
            Direction::Read => settled.sent_again = done as u64,
            // Rather a few buffers without a frame than frames lost.
            Direction::Write => {
                settled.returned_empty = self.return_empty(guest, behind);
                settled.returned += done as u64;
            }
        }
        settled.rewound = self.flights.len() as u64;
        let _ = guest.publish() && guest.interrupt();
        self.flights.clear();
        settled
    }

    /// Gives back the first `chains` chains, done or not. Returns how many were not.
    fn return_empty(&mut self, guest: &mut DeviceRing, chains: usize) -> u64 {
        let Shadow { flights, cursor, .. } = self;
        let forced = std::iter::from_fn(|| flights.force()).take(chains);
        let empty = |(landed, done): (Landed, bool)| {
            match guest {
                DeviceRing::Split(ring) => complete(cursor, ring, &landed),
                DeviceRing::Packed(ring) => complete(cursor, ring, &landed),
            }
            u64::from(!done)
        };
        forced.map(empty).sum()
    }
}

/// As [`Shadow::show`].
fn show<R: Ring>(flights: &mut Flights, cursor: &mut Cursor, guest: &mut R) -> u16 {
    let mut shown = 0;
    while let Some(landed) = flights.land() {
        complete(cursor, guest, &landed);
        shown += 1;
    }
    shown
}

fn complete<R: Ring>(cursor: &mut Cursor, guest: &mut R, landed: &Landed) {
    guest.make_room(1);
    guest.complete(landed.extent, landed.len);
    cursor.completed_one();
}

/// Notes that the first `len` bytes of a chain were written.
fn note(flights: &Flights, number: u64, len: u32, written: &mut PageLog) {
    let mut left = len;
    for piece in flights.pieces_of(number).filter(|piece| piece.write) {
        let here = piece.len.min(left);
        if here == 0 {
            break;
        }
        written.wrote_at(piece.addr, here.into());
        left -= here;
    }
}
