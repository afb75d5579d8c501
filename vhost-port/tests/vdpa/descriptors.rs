//! A front-end that gives rings other descriptors while they run, and one whose guest still kicks where it did.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pmd::port::LinkState;
use pmd::virtio::NetHeader;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost_port::vdpa::DoorbellPage;
use vhost_port::vdpa::fake::{Fake, Faults, able_device, plain_function};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bench::{Bench, FITS, NAMES};
use crate::guest::{Guest, wait_for};
use crate::{await_used, exchange_by_card, exchange_by_relay, exchange_by_switch};

/// A front-end gives a ring that runs other descriptors: whoever runs it listens to the new one, and to the old one no more.
fn change_descriptors(guest: &mut Guest, ring: usize) -> [EventFd; 2] {
    let [kick, call] = [0; 2].map(|_| EventFd::new(EFD_NONBLOCK).unwrap());
    guest.frontend.set_vring_kick(ring, &kick).unwrap();
    guest.frontend.set_vring_call(ring, &call).unwrap();
    let ring = &mut guest.rings[ring];
    [std::mem::replace(&mut ring.kick, kick), std::mem::replace(&mut ring.call, call)]
}

#[test]
fn kicks_and_interrupts_go_by_the_descriptors_told_last() {
    for (first, engine) in [(true, "direct"), (false, "shadow")] {
        let mut bench = Bench::new(plain_function);
        bench.cards[0].work_when_kicked();
        if first {
            bench.want(&NAMES[..1]);
        }
        let mut guest = bench.guest(FITS, 2);
        wait_for(&bench.port, |info| info.link == LinkState::Up);
        if !first {
            exchange_by_switch(&mut bench, &mut guest, 1);
            bench.want(&NAMES[..1]);
        }
        bench.wait_for_engine(engine);
        exchange_by_relay(&mut bench, &mut guest, 0, 3);
        let mut old = Vec::new();
        for number in 1..10 {
            old.extend([0, 1].map(|ring| change_descriptors(&mut guest, ring)));
            exchange_by_relay(&mut bench, &mut guest, 0, number * 10);
        }
        for [kick, call] in &old {
            kick.write(1).unwrap();
            let _ = call.read();
        }
        exchange_by_relay(&mut bench, &mut guest, 0, 100);
        assert!(old.iter().all(|[_, call]| call.read().is_err()), "an old one was interrupted by");
        if first {
            // The thread for kicks takes what it hears.
            assert!(old.iter().all(|[kick, _]| kick.read().is_ok()), "an old one is listened to");
        }
        assert_eq!(bench.say("vdpa-engine").unwrap(), engine);
        assert_eq!(bench.say("vdpa-switch-overs").unwrap(), "1");
        assert_eq!(bench.port.info().error, None);
    }
}

#[test]
fn device_that_hears_kicks_is_told_of_another_descriptor() {
    let mut bench = Bench::new(plain_function);
    bench.cards[0].watch_kicks();
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    let heard = |bench: &Bench, kick: &EventFd| {
        let watched = bench.cards[0].watched(1).unwrap();
        kick.write(1).unwrap();
        rustix::io::read(&*watched, &mut [0; 8]).is_ok()
    };
    assert!(heard(&bench, &guest.rings[1].kick));
    let [old, _] = change_descriptors(&mut guest, 1);
    assert!(heard(&bench, &guest.rings[1].kick) && !heard(&bench, &old));
    exchange_by_card(&mut bench, &mut guest, 0, 1);
    assert_eq!(bench.say("vdpa-switch-overs").unwrap(), "1");
    // One that does not take it is left.
    bench.cards[0].set_faults(Faults { set_kick: true, ..Faults::default() });
    change_descriptors(&mut guest, 1);
    bench.wait_for_engine("software");
    exchange_by_switch(&mut bench, &mut guest, 3);
}

/// A guest that has a page of the first device kicks there until its front-end has taken it away: nobody hears that, and the guest does not kick
/// again. The second device finds the frame all the same.
#[test]
fn kick_that_goes_to_a_page_of_the_device_before_is_not_missed() {
    let bench = Bench::new(able_device);
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let page = DoorbellPage { fd: Arc::new(file.into()), offset: 0x3000, len: 0x1000 };
    bench.cards.iter().for_each(|card| card.offer_page(page.clone()));
    bench.cards.iter().for_each(Fake::work_when_kicked);
    let mut guest = bench.guest(FITS, 2);
    wait_for(&bench.port, |info| info.link == LinkState::Up);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    guest.frontend.set_backend_request_fd(&theirs).unwrap();
    for to in [0, 1, 0] {
        bench.want(&NAMES[to..=to]);
        bench.wait_for_device(NAMES[to]);
    }
    assert!(guest.send(1, NetHeader::default(), &[7; 60], &[]), "it would kick");
    await_used(&mut guest, 1, |guest| (guest.reclaim(1) > 0).then_some(()));
    assert_eq!(bench.cards[0].sent(), [[7; 60]]);
}
