//! A switch that goes away, by whatever death, and comes back: traffic goes on, and every buffer is accounted for.

use std::collections::HashSet;
use std::time::Duration;

use pmd::sys::clock::cycles;
use pmd::virtio::burst_driver::EitherRing;

use crate::error::{During as _, Error};
use crate::guest::BURST;
use crate::pair::Pair;
use crate::report::nanoseconds;

/// Time between two looks at a connection.
const LOOK: Duration = Duration::from_millis(1);
/// How long it may take until frames pass again, or all buffers are back.
const PATIENCE: Duration = Duration::from_secs(15);

const NAMES: [&str; 2] = ["A", "B"];

impl Pair {
    /// Sends and receives while the switch goes away and comes back so many times. Returns, for each, the ticks between noticing and
    /// frames passing again.
    pub(crate) fn outlive(&mut self, times: u32) -> Result<Vec<u64>, Error> {
        if times > 0 {
            eprintln!("vsgen: ready for the switch to be restarted");
        }
        let outages = (0..times).map(|_| self.outlive_one()).collect::<Result<_, _>>()?;
        if times > 0 {
            self.settle_down()?;
        }
        Ok(outages)
    }

    fn outlive_one(&mut self) -> Result<u64, Error> {
        let mut noticed = None;
        // A switch that dies lets go of both, one after the other.
        for index in 0..2 {
            while self.guests[index].session().is_alive() {
                self.exchange(LOOK)?;
            }
            noticed.get_or_insert_with(cycles);
            self.guests[index].reattach()?;
        }
        let back = cycles();
        let noticed = noticed.unwrap_or(back);
        let mut before = [0; 2];
        for (way, before) in self.ways.iter_mut().zip(&mut before) {
            *before = way.receiver.received;
            // What was on its way is lost, or comes late.
            way.sender.write_off(*before);
        }
        let patience = self.ticks(PATIENCE);
        let moves = |pair: &Pair| {
            pair.ways.iter().zip(before).all(|(way, before)| !way.active || way.receiver.received > before)
        };
        while !moves(self) {
            if cycles().wrapping_sub(back) > patience {
                return Err(Error::Failed("no frame gets through since the switch is back".into()));
            }
            self.exchange(LOOK)?;
        }
        let outage = cycles().wrapping_sub(noticed);
        eprintln!("vsgen: frames pass again after {:.1} ms", nanoseconds(outage) as f64 / 1e6);
        Ok(outage)
    }

    /// Has the switch give back all buffers, and looks whether each is there once.
    pub(crate) fn count_buffers(&mut self) -> Result<(), Error> {
        for (index, name) in NAMES.iter().enumerate() {
            self.use_up(index).during(format_args!("port {name}"))?;
        }
        let (start, patience) = (cycles(), self.ticks(PATIENCE));
        for (guest, name) in self.guests.iter_mut().zip(NAMES) {
            while guest.tx.outstanding() > 0 {
                guest.make_room(u16::MAX)?;
                if cycles().wrapping_sub(start) > patience {
                    let left = guest.tx.outstanding();
                    return Err(Error::Failed(format!(
                        "port {name}: {left} transmit buffers do not come back"
                    )));
                }
            }
        }
        for (guest, name) in self.guests.iter_mut().zip(NAMES) {
            for (ring, kind) in [(&mut guest.rx, "receive"), (&mut guest.tx, "transmit")] {
                each_once(ring).during(format_args!("port {name}, {kind} ring"))?;
            }
        }
        Ok(())
    }

    /// Sends to a guest that posts no buffers any more, until it has none left.
    fn use_up(&mut self, receiver: usize) -> Result<(), Error> {
        let (start, patience) = (cycles(), self.ticks(PATIENCE));
        while self.guests[receiver].rx.outstanding() > 0 {
            let now = cycles();
            if now.wrapping_sub(start) > patience {
                let left = self.guests[receiver].rx.outstanding();
                return Err(Error::Failed(format!("{left} receive buffers do not come back")));
            }
            let way = &mut self.ways[1 - receiver];
            for _ in 0..BURST {
                way.sender.send_one(&mut self.guests[1 - receiver], now)?;
            }
            way.receiver.collect(&mut self.guests[receiver], cycles)?;
        }
        Ok(())
    }
}

/// Looks at the buffers of a ring of which the device has none.
fn each_once(ring: &mut EitherRing) -> Result<(), Error> {
    let free = ring.free();
    let mut seen = HashSet::new();
    ring.stage(free, |buffer| {
        seen.insert(buffer.addr());
    });
    let (given, different) = (usize::from(free), seen.len());
    if different == given {
        return Ok(());
    }
    Err(Error::Failed(format!("of {given} buffers {different} came back, some of them twice")))
}
