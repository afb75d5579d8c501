//! A device's doorbells in the guest's hands (VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG).
//!
//! A device may have a page of registers per ring in which any write kicks that ring. The front-end maps it where the guest's driver kicks, and
//! then nobody stands between the two. Until it has, and if it never does, kicks come by eventfd and are passed on ([`crate::vdpa::KickRelay`]): both
//! ways work at any time.
//!
//! Taking a page back is only a message, which the front-end follows when it gets to it (it is not waited for: it may just be waiting for us). Until
//! then a guest kicks a device that has been stopped, and nobody hears it; with EVENT_IDX it does not kick again. So whoever has the ring now is sent
//! to look by himself: ten times a second at first, then once, for as long as a QEMU on a crowded host may take.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::VhostUserProtocolFeatures;

use super::backend_channel::{BackendRequest, SendError};
use super::machine::Session;
use crate::vdpa::{Between, DoorbellPage, LOOK, Running};

/// Bytes of the message (`VhostUserVringArea`).
const AREA: usize = 24;
/// The message takes a page back.
const NO_FD: u64 = 0x100;
/// A front-end that has something to do takes a page away so soon.
const SOON: Duration = Duration::from_secs(2);
/// And one that hardly gets to run by then.
const LATE: Duration = Duration::from_secs(120);

/// When to look at a ring next, whose page was taken back so long ago.
fn next_look(taken: Duration) -> Option<Duration> {
    match taken {
        taken if taken < SOON => Some(LOOK),
        taken if taken < LATE => Some(Duration::from_secs(1)),
        _ => None,
    }
}

/// The body of a message about ring `at`.
fn area(at: usize, page: Option<&DoorbellPage>) -> [u8; AREA] {
    let (ring, len, offset) = match page {
        Some(page) => (at as u64, page.len, page.offset),
        None => (at as u64 | NO_FD, 0, 0),
    };
    let mut body = [0; AREA];
    for (place, word) in body.chunks_mut(8).zip([ring, len, offset]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    body
}

impl Session {
    /// Gives the front-end the pages of the rings that a device runs, if it can use them.
    pub(super) fn hand_out_doorbells(&mut self) {
        let Some(running) = &self.offload.running else { return };
        let pages = running.rings.iter().enumerate();
        let pages = pages.filter_map(|(at, ring)| Some((at, ring.started.page.clone()?)));
        let given = pages.filter(|(at, page)| self.say_doorbell(*at, Some(page))).map(|(at, _)| at);
        let given: Vec<usize> = given.collect();
        self.shared.vdpa.status().doorbells = given.len() as u16;
        self.offload.given = given;
    }

    /// Takes them back.
    pub(super) fn take_doorbells_back(&mut self) {
        for at in std::mem::take(&mut self.offload.given) {
            // If it cannot be told, it has the page as long as it has the connection.
            self.say_doorbell(at, None);
            self.offload.nudges.retain(|(ring, _)| *ring != at);
            let now = Instant::now();
            self.offload.nudges.push((at, now));
            self.offload.nudge_at = Some(now + LOOK);
        }
        self.shared.vdpa.status().doorbells = 0;
    }

    /// Has whoever runs a ring look at it.
    fn nudge(&self, at: usize) {
        let Some(Running { rings, between, .. }) = &self.offload.running else {
            return self.shared.rings.get(at).into_iter().for_each(|vring| vring.wake());
        };
        match between {
            // Another device: told once too often, it finds nothing.
            Between::Direct { .. } => rings.get(at).into_iter().for_each(|ring| ring.started.doorbell.ring()),
            Between::Shadow { relay, .. } => relay.wake(),
        }
    }

    fn say_doorbell(&self, at: usize, page: Option<&DoorbellPage>) -> bool {
        let needed = VhostUserProtocolFeatures::HOST_NOTIFIER | VhostUserProtocolFeatures::BACKEND_SEND_FD;
        let agreed = self.protocol_features & needed.bits() == needed.bits();
        let Some(channel) = self.channel.as_ref().filter(|_| agreed) else { return false };
        let fd = page.map(|page| page.fd.as_fd());
        let sent = channel.send_with(BackendRequest::HostNotifier, &area(at, page), fd);
        if let Err(e @ SendError::Broken(_)) = &sent {
            log::warn!("{}: doorbell of ring {at} not handed over: {e}", self.shared.config.name);
        }
        sent.is_ok()
    }

    /// Has rings looked at whose kicks may get lost.
    pub(super) fn look_after_kicks(&mut self) {
        if self.offload.nudge_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        for &(at, _) in &self.offload.nudges {
            self.nudge(at);
        }
        let now = Instant::now();
        let wait = |(_, taken): &(usize, Instant)| next_look(now.duration_since(*taken));
        self.offload.nudges.retain(|nudge| wait(nudge).is_some());
        self.offload.nudge_at = self.offload.nudges.iter().filter_map(wait).min().map(|wait| now + wait);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// However slow the front-end is, the ring is looked at soon after it has followed, and at last left alone.
    #[test]
    fn rings_are_looked_at_long_after_their_pages_were_taken_back() {
        let (mut taken, mut looks) = (Duration::ZERO, Vec::new());
        while let Some(wait) = next_look(taken) {
            taken += wait;
            looks.push(taken);
        }
        let longest = looks.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(longest, Some(Duration::from_secs(1)));
        assert!(taken >= Duration::from_secs(120) && looks.len() < 200, "{taken:?}, {} looks", looks.len());
        assert!(looks.iter().filter(|look| **look <= SOON).count() >= 20);
    }

    #[test]
    fn message_is_what_the_specification_says() {
        let fd = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        let page = DoorbellPage { fd, offset: 0x3000, len: 0x1000 };
        let words = |body: [u8; AREA]| {
            let words = body.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            words.collect::<Vec<_>>()
        };
        assert_eq!(words(area(3, Some(&page))), [3, 0x1000, 0x3000]);
        assert_eq!(words(area(3, None)), [0x103, 0, 0]);
    }
}
