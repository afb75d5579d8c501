//! A switch with very many ports, whose guests come and go at random for as long as one likes.
//!
//! Two pairs of bystanders exchange numbered frames all the time, never more than their rings hold, so every frame that is missing was
//! lost by the switch. On all other ports guests connect, send, and leave: in good order, in the middle of traffic, in the middle of a message, or
//! with their memory cut off. When all have gone the process must have as many descriptors, threads and mappings as before, and
//! hardly more memory.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{During as _, Failure, Result};
use crate::lab::Lab;
use crate::scripted_guest::{RING_SIZE, ScriptedGuest};
use crate::switch::Vswitchd;

/// Longest wait for one frame, and for a port to notice that its guest has gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bystanders' ports come first, two to a pair.
const BYSTANDERS: usize = 4;
/// Frames under way between two bystanders.
const WINDOW: usize = RING_SIZE as usize / 2;
/// Descriptors and threads more than before that are no leak: one event descriptor is there or is not, whenever one looks, and so is the
/// session of a management client that has just left. A leak is counted by visits: hundreds in the shortest run.
const UNDER_WAY: usize = 4;
/// What resident memory may grow by: pages of stacks and heaps that were touched for the first time, not what was lost.
const GROWTH_KIB: u64 = 24 * 1024;

/// How often to look when counting, and how long to wait between.
const LOOKS: usize = 15;
const PAUSE: Duration = Duration::from_millis(100);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Vhost-user ports, an even number.
    pub ports: usize,
    /// How long guests come and go.
    pub time: Duration,
    /// Guests there at a time, at most.
    pub guests: usize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Guests that connected, and left.
    pub visits: usize,
    /// Frames between bystanders, all of which arrived.
    pub frames: u64,
    /// What the process held before and after.
    pub held: [Held; 2],
}

/// What a process holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Mapped files of guests.
    pub guest_maps: usize,
    /// Resident KiB.
    pub resident: u64,
}

impl Held {
    /// Counts, of several looks the least: a client of the management socket that has just gone is a thread for a moment longer.
    ///
    /// # Errors
    /// The switch is not running.
    pub fn by(switch: &Vswitchd) -> Result<Held> {
        let mut least = Held::now(switch)?;
        for _ in 0..LOOKS {
            std::thread::sleep(PAUSE);
            let now = Held::now(switch)?;
            least = Held {
                descriptors: least.descriptors.min(now.descriptors),
                threads: least.threads.min(now.threads),
                guest_maps: least.guest_maps.min(now.guest_maps),
                resident: least.resident.min(now.resident),
            };
        }
        Ok(least)
    }

    fn now(switch: &Vswitchd) -> Result<Held> {
        let maps = switch.proc_file("maps")?;
        Ok(Held {
            descriptors: switch.proc_entries("fd")?,
            threads: switch.proc_entries("task")?,
            guest_maps: maps.matches("scripted guest").count(),
            resident: switch.resident()?,
        })
    }

    /// Whether no more is held than `before`, but for what happens to be under way and for memory that was touched for the first time.
    #[must_use]
    pub fn no_more_than(&self, before: &Held) -> bool {
        self.descriptors <= before.descriptors + UNDER_WAY
            && self.threads <= before.threads + UNDER_WAY
            && self.guest_maps <= before.guest_maps
            && self.resident <= before.resident + GROWTH_KIB
    }
}

/// Runs a plan.
///
/// # Errors
/// A frame between bystanders is lost, a port does not take its next guest, or the process holds more at the end than it may.
pub fn run(lab: &Lab, plan: Plan) -> Result<Outcome> {
    let switch = Vswitchd::start(lab)?;
    let sockets = add_ports(&switch, plan.ports)?;
    let (quiet, churned) = sockets.split_at(BYSTANDERS);
    let mut bystanders =
        [Pair::open([&quiet[0], &quiet[1]], false)?, Pair::open([&quiet[2], &quiet[3]], true)?];
    let mut crowd = Crowd::new(churned);
    // Everybody once, so that what is made on first use is there before it is counted.
    for port in 0..churned.len() {
        crowd.come(port)?;
        bystanders.iter_mut().try_for_each(Pair::round)?;
        crowd.go(port)?;
    }
    crowd.settle(&switch)?;
    bystanders.iter_mut().try_for_each(Pair::round)?;
    let before = Held::by(&switch)?;
    let end = Instant::now() + plan.time;
    while Instant::now() < end {
        crowd.step(plan.guests)?;
        bystanders.iter_mut().try_for_each(Pair::round)?;
    }
    crowd.empty()?;
    crowd.settle(&switch)?;
    bystanders.iter_mut().try_for_each(Pair::round)?;
    let after = Held::by(&switch)?;
    if !after.no_more_than(&before) {
        let kinds = kinds(&switch)?;
        return Err(Failure::new(format!(
            "the switch held {before:?} before and {after:?} after, when its descriptors were {kinds:?}"
        )));
    }
    Ok(Outcome {
        visits: crowd.visits,
        frames: bystanders.iter().map(|pair| pair.arrived).sum(),
        held: [before, after],
    })
}

/// How many descriptors of each kind there are, for whoever looks for a leak.
fn kinds(switch: &Vswitchd) -> Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for target in switch.descriptor_targets()? {
        let kind = target.split('[').next().unwrap_or_default().to_owned();
        let kind = if kind == "anon_inode:" { target } else { kind };
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(kinds)
}

/// Ports `p0` and so on, two to a VLAN of their own; bystanders are joined by rules, so that nothing depends on what is learned.
fn add_ports(switch: &Vswitchd, count: usize) -> Result<Vec<PathBuf>> {
    let mut line = vec!["add-br br0".to_owned()];
    line.extend((0..count).map(|n| {
        let vlan = n / 2 + 1;
        format!("add-port br0 p{n} tag={vlan} -- set Interface p{n} type=dpdkvhostuser")
    }));
    switch.vsctl(&line.join(" -- "))?;
    for n in 0..BYSTANDERS {
        let rule = format!("in_port=p{n},actions=output:p{}", n ^ 1);
        switch.vsctl_with(&["add-flow", "br0", &rule])?;
    }
    Ok((0..count).map(|n| switch.rundir().join(format!("p{n}"))).collect())
}

/// Two guests that nobody harms.
pub struct Pair {
    guests: [ScriptedGuest; 2],
    next: u64,
    /// Frames that have arrived, in both directions.
    pub arrived: u64,
}

impl Pair {
    /// Connects both.
    ///
    /// # Errors
    /// As [`ScriptedGuest::connect`].
    pub fn open(sockets: [&Path; 2], packed: bool) -> Result<Pair> {
        let [a, b] = sockets.map(|socket| ScriptedGuest::connect(socket, packed));
        Ok(Pair { guests: [a?, b?], next: 0, arrived: 0 })
    }

    /// A window of frames each way, all of which must arrive.
    ///
    /// # Errors
    /// One does not, or comes twice.
    pub fn round(&mut self) -> Result<()> {
        for to in [1, 0] {
            let numbers: Vec<u64> = (self.next..).take(WINDOW).collect();
            self.next += WINDOW as u64;
            let sent = self.guests[1 - to].send(&numbers)?;
            let mut missing: HashSet<u64> = numbers.into_iter().take(sent).collect();
            let deadline = Instant::now() + PATIENCE;
            while !missing.is_empty() {
                for number in self.guests[to].receive()? {
                    if !missing.remove(&number) {
                        return Err(Failure::new(format!("frame {number} came twice, or unasked")));
                    }
                    self.arrived += 1;
                }
                if Instant::now() > deadline {
                    return Err(Failure::new(format!("frames {missing:?} of bystanders are lost")));
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

/// Guests that come and go.
struct Crowd<'a> {
    sockets: &'a [PathBuf],
    guests: Vec<Option<ScriptedGuest>>,
    present: usize,
    visits: usize,
    random: u64,
}

impl<'a> Crowd<'a> {
    fn new(sockets: &'a [PathBuf]) -> Crowd<'a> {
        Crowd { sockets, guests: sockets.iter().map(|_| None).collect(), present: 0, visits: 0, random: 1 }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) as usize % below
    }

    /// Somebody comes, sends or goes.
    fn step(&mut self, most: usize) -> Result<()> {
        let port = self.random(self.sockets.len());
        if self.guests[port].is_none() {
            if self.present < most { self.come(port) } else { Ok(()) }
        } else if self.random(2) == 0 {
            self.chat(port)
        } else {
            self.go(port)
        }
    }

    fn come(&mut self, port: usize) -> Result<()> {
        let packed = self.random(2) == 0;
        let guest = ScriptedGuest::connect(&self.sockets[port], packed)?;
        self.guests[port] = Some(guest);
        self.present += 1;
        self.visits += 1;
        self.chat(port)
    }

    fn chat(&mut self, port: usize) -> Result<()> {
        let count = self.random(usize::from(RING_SIZE));
        let numbers: Vec<u64> = (0..count as u64).collect();
        if let Some(guest) = &mut self.guests[port] {
            guest.send(&numbers)?;
            guest.receive()?;
        }
        Ok(())
    }

    fn go(&mut self, port: usize) -> Result<()> {
        self.chat(port)?;
        let how = self.random(4);
        let Some(guest) = self.guests[port].take() else { return Ok(()) };
        self.present -= 1;
        match how {
            0 => guest.stop()?,
            1 => {
                // The first bytes of a message, and no more.
                let begun = rustix::io::write(guest_socket(&guest), &[1, 0, 0, 0, 1]);
                begun.during("half a message")?;
            }
            2 => rustix::fs::ftruncate(guest.memory().as_fd(), 0).during("truncating guest memory")?,
            _ => {}
        }
        Ok(())
    }

    fn empty(&mut self) -> Result<()> {
        (0..self.sockets.len()).try_for_each(|port| self.go(port))
    }

    /// Waits until the switch has seen all of them go.
    fn settle(&self, switch: &Vswitchd) -> Result<()> {
        let line = "--bare --columns=status find Interface type=dpdkvhostuser";
        let bystanders = |text: &str| text.matches("status=connected").count();
        switch.vsctl_until(line, PATIENCE, |text| bystanders(text) == BYSTANDERS)?;
        // A port says that it is disconnected while it lets go of the connection.
        let maps = || switch.proc_file("maps").map(|maps| maps.matches("scripted guest").count());
        let deadline = Instant::now() + PATIENCE;
        while maps()? > BYSTANDERS {
            if Instant::now() > deadline {
                return Err(Failure::new("memory of guests that left is still mapped"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the front-end gives its descriptor as a number only")]
fn guest_socket(guest: &ScriptedGuest) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the front-end owns the descriptor and outlives this borrow.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(guest.frontend.as_raw_fd()) }
}
