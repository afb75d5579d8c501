//! A device's doorbells in the guest's hands (VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG).
//!
//! A device may have a page of registers per ring in which any write kicks that ring. The front-end maps it where the guest's driver kicks, and
//! then nobody stands between the two. Until it has, and if it never does, kicks come by eventfd and are passed on ([`crate::vdpa::KickRelay`]): both
//! ways work at any time.
//!
//! Taking a page back is only a message, which the front-end follows when it gets to it (it is not waited for: it may just be waiting for us). Until
//! then a guest kicks a device that has been stopped, and nobody hears it. So the workers of these rings are sent to look by themselves, some
//! times a second, for two seconds.

use std::os::fd::AsFd;
use std::time::Instant;

use vhost::vhost_user::message::VhostUserProtocolFeatures;

use super::backend_channel::{BackendRequest, SendError};
use super::machine::Session;
use crate::vdpa::{DoorbellPage, LOOK};

/// Bytes of the message (`VhostUserVringArea`).
const AREA: usize = 24;
/// The message takes a page back.
const NO_FD: u64 = 0x100;
/// Looks at a ring whose page was taken back: two seconds.
const NUDGES: u8 = 20;

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
        self.offload.nudges.retain(|(at, _)| !given.contains(at));
        self.offload.given = given;
    }

    /// Takes them back.
    pub(super) fn take_doorbells_back(&mut self) {
        for at in std::mem::take(&mut self.offload.given) {
            // If it cannot be told, it has the page as long as it has the connection.
            self.say_doorbell(at, None);
            self.offload.nudges.retain(|(ring, _)| *ring != at);
            self.offload.nudges.push((at, NUDGES));
            self.offload.nudge_at = Some(Instant::now() + LOOK);
        }
        self.shared.vdpa.status().doorbells = 0;
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
        for (at, left) in &mut self.offload.nudges {
            *left -= 1;
            if let Some(vring) = self.shared.rings.get(*at) {
                vring.wake();
            }
        }
        self.offload.nudges.retain(|(_, left)| *left > 0);
        self.offload.nudge_at = (!self.offload.nudges.is_empty()).then(|| Instant::now() + LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

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
