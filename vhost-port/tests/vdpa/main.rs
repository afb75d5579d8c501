//! One port, two engines: a guest's rings on a device in software that fails when told to, and back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod bench;
mod descriptors;
mod faults;
#[path = "../guest/mod.rs"]
mod guest;
mod migration;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bench::{Bench, FITS, MAC, NAMES, frame};
use guest::{Guest, MODERN, wait_for};
use pmd::port::{DropReason, LinkState};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vhost_port::vdpa::DoorbellPage;
use vhost_port::vdpa::fake::{Fake, Faults, able_device, plain_function};

/// A frame each way by card `at`.
fn exchange_by_card(bench: &mut Bench, guest: &mut Guest, at: usize, number: u8) {
    guest.send(1, NetHeader::default(), &frame(number), &[]);
    guest.post(0, &[2000]);
    bench.cards[at].arrive(&frame(number + 1));
    bench.cards[at].work(usize::MAX);
    assert_eq!(bench.cards[at].sent(), [frame(number)]);
    assert_eq!(guest.receive(0).unwrap().1, frame(number + 1));
    assert_eq!(guest.reclaim(1), 1);
    assert!(bench.received().is_empty());
}

/// Waits, as a driver that sleeps does, until the ring has something for `take`.
fn await_used<T>(guest: &mut Guest, ring: usize, take: impl Fn(&mut Guest) -> Option<T>) -> T {
    loop {
        if let Some(taken) = take(guest) {
            return taken;
        }
        if !guest.rings[ring].driver.enable_interrupts() {
            guest.await_interrupt(ring);
        }
    }
}

/// A frame each way by card `at`, which works when kicked, behind a relay.
fn exchange_by_relay(bench: &mut Bench, guest: &mut Guest, at: usize, number: u8) {
    if guest.send(1, NetHeader::default(), &frame(number), &[]) {
        guest.rings[1].kick.write(1).unwrap();
    }
    await_used(guest, 1, |guest| (guest.reclaim(1) > 0).then_some(()));
    assert_eq!(bench.cards[at].sent(), [frame(number)]);
    guest.post(0, &[2000]);
    guest.rings[0].kick.write(1).unwrap();
    bench.cards[at].arrive(&frame(number + 1));
    let (_, received) = await_used(guest, 0, |guest| guest.receive(0));
    assert_eq!(received, frame(number + 1));
    assert!(bench.received().is_empty());
}

/// A frame each way by the switch.
fn exchange_by_switch(bench: &mut Bench, guest: &mut Guest, number: u8) {
    guest.send(1, NetHeader::default(), &frame(number), &[]);
    guest.post(0, &[2000]);
    assert_eq!(bench.received(), [frame(number)]);
    assert_eq!(bench.transmit(&frame(number + 1)), 1);
    assert_eq!(guest.receive(0).unwrap().1, frame(number + 1));
    assert_eq!(guest.reclaim(1), 1);
}

#[test]
fn rings_of_a_driver_that_starts_go_to_the_device_untouched() {
    let mut bench = Bench::new(plain_function);
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    assert_eq!(bench.say("vdpa-device").unwrap(), "/dev/vhost-vdpa-0 (fake)");
    assert_eq!(bench.say("vdpa-uplink").unwrap(), "vf 0 of 0000:03:00.0 (fake0)");
    assert_eq!(bench.port.info().link, LinkState::Up);
    assert_eq!(bench.port.info().error, None);
    let (features, pairs, mac) = bench.cards[0].started_with().unwrap();
    assert_eq!(
        features & (VIRTIO_F_ACCESS_PLATFORM | VHOST_USER_F_PROTOCOL_FEATURES),
        VIRTIO_F_ACCESS_PLATFORM
    );
    assert_eq!((pairs, mac), (1, Some(MAC)));
    assert_eq!(bench.cards[0].reaches(), [(0, guest::SPLIT), (guest::SPLIT, guest::SPLIT)]);
    exchange_by_card(&mut bench, &mut guest, 0, 10);
    // The switch has no way to the guest, and says so.
    assert_eq!(bench.transmit(&frame(9)), 0);
    assert_eq!(bench.txq.counters().drops.get(DropReason::TxOffloaded), 1);
    // The option goes, the guest stays.
    bench.want(&[]);
    bench.wait_for_engine("software");
    for number in 20..30 {
        exchange_by_switch(&mut bench, &mut guest, number);
    }
    assert!(!bench.cards[0].seen().2 && bench.cards[0].reaches().is_empty());
}

/// The device would carry on.
#[test]
fn port_that_the_operator_takes_down_has_its_rings_back() {
    let mut bench = Bench::new(plain_function);
    bench.cards.iter().for_each(Fake::work_when_kicked);
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    bench.port.set_admin(false);
    bench.wait_for_engine("software");
    assert!(!bench.cards[0].seen().2);
    // Named anew while it is down.
    bench.want(&NAMES[1..]);
    exchange_by_switch(&mut bench, &mut guest, 10);
    assert_eq!(bench.say("vdpa-engine").unwrap(), "software");
    bench.port.set_admin(true);
    bench.wait_for_device(NAMES[1]);
    exchange_by_relay(&mut bench, &mut guest, 1, 20);
}

#[test]
fn kicks_are_passed_on_to_a_device_that_cannot_hear_them() {
    let bench = Bench::new(plain_function);
    bench.cards[0].work_when_kicked();
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    guest.send(1, NetHeader::default(), &frame(1), &[]);
    guest.rings[1].kick.write(1).unwrap();
    // The card answers by an interrupt.
    let call = &guest.rings[1].call;
    let _ = call.read();
    while guest.reclaim(1) == 0 {
        guest.await_interrupt(1);
    }
    assert_eq!(bench.cards[0].sent(), [frame(1)]);
}

#[test]
fn counters_are_those_of_the_device_or_else_those_its_card_has_for_it() {
    let mut bench = Bench::new(plain_function);
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    exchange_by_card(&mut bench, &mut guest, 0, 1);
    // The device counts by itself, so nobody else is asked.
    assert_eq!(bench.port.counters_elsewhere(), []);
    bench.want(&[]);
    bench.wait_for_engine("software");
    assert!(bench.port.info().counters.contains(&("vdpa_rx_packets", 1)));
    bench.cards[0].count_nothing();
    bench.want(&NAMES[..1]);
    bench.wait_for_engine("shadow");
    // What the function has not counted is no zero, but not there.
    assert!(!bench.port.info().counters.iter().any(|(name, _)| *name == "vdpa_rx_packets"));
    let named = bench.port.counters_elsewhere();
    // Seen from the switch: the function sent two.
    for counter in
        [("vdpa_rx_packets", 2), ("vdpa_rx_bytes", 200), ("vdpa_tx_packets", 1), ("vdpa_tx_bytes", 100)]
    {
        assert!(named.contains(&counter), "{named:?}");
    }
    bench.want(&[]);
    bench.wait_for_engine("software");
    assert_eq!(bench.port.counters_elsewhere(), []);
}

#[test]
fn running_guest_is_relayed_until_its_driver_starts_anew() {
    for kind in [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER] {
        let mut bench = Bench::new(plain_function);
        bench.cards.iter().for_each(Fake::work_when_kicked);
        let mut guest = bench.guest(MODERN | kind, 2);
        wait_for(&bench.port, |info| info.link == LinkState::Up);
        for round in 0..20 {
            exchange_by_switch(&mut bench, &mut guest, 1 + round * 10);
            bench.want(&NAMES[..1]);
            bench.wait_for_device(NAMES[0]);
            assert_eq!(bench.say("vdpa-engine").unwrap(), "shadow");
            exchange_by_relay(&mut bench, &mut guest, 0, 3 + round * 10);
            bench.want(&NAMES[1..]);
            bench.wait_for_device(NAMES[1]);
            exchange_by_relay(&mut bench, &mut guest, 1, 5 + round * 10);
            bench.want(&[]);
            bench.wait_for_engine("software");
        }
        assert!(bench.cards[0].reaches().is_empty() && !bench.cards[1].seen().2);
        bench.want(&NAMES[..1]);
        bench.wait_for_engine("shadow");
        exchange_by_relay(&mut bench, &mut guest, 0, 5);
        // Its rings and the guest's memory.
        assert_eq!(bench.cards[0].reaches().len(), 3);
        assert_eq!(bench.port.info().error, None);
        guest.frontend.reset_device().unwrap();
        guest.restart(MODERN | kind & VIRTIO_F_EVENT_IDX);
        bench.wait_for_engine("direct");
        assert_eq!(bench.cards[0].reaches().len(), 2);
        assert_eq!(bench.port.info().error, None);
        guest.post(0, &[2000]);
        bench.cards[0].arrive(&frame(7));
        assert_eq!(guest.receive(0).unwrap().1, frame(7));
    }
}

#[test]
fn running_guest_moves_between_the_switch_and_devices_that_start_anywhere() {
    for kind in [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER] {
        let mut bench = Bench::new(able_device);
        let mut guest = bench.guest(MODERN | kind, 2);
        wait_for(&bench.port, |info| info.link == LinkState::Up);
        for round in 0..40 {
            exchange_by_switch(&mut bench, &mut guest, round * 6);
            bench.want(&NAMES[..1]);
            bench.wait_for_device(NAMES[0]);
            exchange_by_card(&mut bench, &mut guest, 0, round * 6 + 2);
            bench.want(&NAMES[1..]);
            bench.wait_for_device(NAMES[1]);
            exchange_by_card(&mut bench, &mut guest, 1, round * 6 + 4);
            bench.want(&[]);
            bench.wait_for_engine("software");
        }
        assert_eq!(bench.say("vdpa-switch-overs").unwrap(), "120");
        assert_eq!(bench.say("vdpa-lost-at-switch-over").unwrap(), "0");
    }
}

#[test]
fn device_that_does_not_start_leaves_the_guest_here() {
    let faults = [Faults { map: true, ..Faults::default() }, Faults { start: true, ..Faults::default() }];
    for faults in faults {
        let mut bench = Bench::new(plain_function);
        bench.cards[0].set_faults(faults);
        bench.want(&NAMES[..1]);
        let mut guest = bench.guest(FITS, 2);
        wait_for(&bench.port, |info| info.error.as_ref().is_some_and(|e| e.contains("told to fail")));
        exchange_by_switch(&mut bench, &mut guest, 1);
        assert!(bench.cards[0].reaches().is_empty());
        // The standby takes over at once.
        let mut bench = Bench::new(plain_function);
        bench.cards[0].set_faults(faults);
        bench.want(&NAMES);
        let mut guest = bench.guest(FITS, 2);
        bench.wait_for_device(NAMES[1]);
        assert!(bench.port.info().error.unwrap().contains("told to fail"));
        exchange_by_card(&mut bench, &mut guest, 1, 1);
    }
}

#[test]
fn device_that_fails_is_left_for_the_switch_or_the_standby() {
    let faults = [
        Faults { dies_after: Some(2), ..Faults::default() },
        Faults { removed: true, ..Faults::default() },
        Faults { dies_after: Some(2), reset: true, stop: true, ..Faults::default() },
    ];
    for faults in faults {
        let mut bench = Bench::new(plain_function);
        bench.want(&NAMES[..1]);
        let mut guest = bench.guest(FITS, 2);
        bench.wait_for_engine("direct");
        exchange_by_card(&mut bench, &mut guest, 0, 1);
        bench.cards[0].set_faults(faults);
        for number in 0..5 {
            guest.send(1, NetHeader::default(), &frame(10 + number), &[]);
        }
        bench.cards[0].work(usize::MAX);
        bench.wait_for_engine("software");
        assert!(bench.port.info().error.unwrap().contains("set options:vdpa again"));
        // What the device did not send, the switch does.
        let mut frames = bench.cards[0].sent();
        frames.extend(bench.received());
        assert_eq!(frames, (10..15).map(frame).collect::<Vec<_>>());
        assert_eq!(guest.reclaim(1), 5);
        exchange_by_switch(&mut bench, &mut guest, 20);
        // Set again, a new card is taken at the next start.
        bench.cards[0].replace();
        bench.want(&[]);
        guest.frontend.get_features().unwrap();
        bench.want(&NAMES[..1]);
        guest.frontend.reset_device().unwrap();
        guest.restart(FITS);
        bench.wait_for_engine("direct");
        exchange_by_card(&mut bench, &mut guest, 0, 30);
    }
}

#[test]
fn lost_interrupts_are_sent_for_the_device_and_then_it_is_left() {
    let bench = Bench::new(able_device);
    bench.want(&NAMES);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_device(NAMES[0]);
    bench.cards[0].set_faults(Faults { interrupts: true, ..Faults::default() });
    let _ = guest.rings[0].call.read();
    for number in 0.. {
        guest.post(0, &[2000]);
        assert!(!guest.rings[0].driver.enable_interrupts());
        if bench.say("vdpa-device").unwrap().starts_with(NAMES[1]) {
            break;
        }
        bench.cards[0].arrive(&frame(number));
        if bench.cards[0].work(usize::MAX) == 0 {
            // It has lost the rings meanwhile.
            bench.wait_for_device(NAMES[1]);
            break;
        }
        guest.await_interrupt(0);
        while guest.receive(0).is_some() {}
    }
    let counters = bench.port.info().counters;
    assert!(counters.iter().any(|&(name, n)| name == "vdpa_lost_interrupts" && n > 0), "{counters:?}");
    assert!(bench.port.info().error.unwrap().contains("/proc/interrupts"));
}

#[test]
fn guest_is_offered_what_the_device_has() {
    let bench = Bench::new(plain_function);
    bench.want(&NAMES[..1]);
    wait_for(&bench.port, |info| bench::say(info, "vdpa").is_some());
    let guest = bench.guest(FITS, 2);
    let offered = guest.frontend.get_features().unwrap();
    assert_eq!(offered & (VIRTIO_NET_F_HOST_USO | VIRTIO_F_RING_PACKED | VIRTIO_NET_F_GUEST_TSO6), 0);
    assert_eq!(offered & FITS, FITS);
    drop(guest);
    // A front-end whose guest has more hangs up on that, and is offered all when it is back.
    let path = bench.dir.path().join("p");
    wait_for(&bench.port, |info| {
        info.link == LinkState::Down && bench::say(info, "status").unwrap() == "disconnected"
    });
    let hasty = vhost::vhost_user::Frontend::connect(&path, 2).unwrap();
    assert_eq!(hasty.get_features().unwrap() & VIRTIO_NET_F_HOST_USO, 0);
    drop(hasty);
    let mut guest = bench.guest(MODERN | VIRTIO_NET_F_HOST_USO, 2);
    wait_for(&bench.port, |info| info.error.as_ref().is_some_and(|e| e.contains("VIRTIO_NET_F_HOST_USO")));
    let mut bench = bench;
    exchange_by_switch(&mut bench, &mut guest, 1);
}

#[test]
fn guest_behind_an_iommu_stays_here() {
    let bench = Bench::new(plain_function);
    bench.want(&NAMES[..1]);
    let _guest = bench.guest(MODERN | VIRTIO_F_ACCESS_PLATFORM, 2);
    wait_for(&bench.port, |info| info.error.as_ref().is_some_and(|e| e.contains("iommu_platform=off")));
    assert_eq!(bench.say("vdpa-engine").unwrap(), "software");
}

#[test]
fn device_follows_memory_that_comes_and_goes() {
    let mut bench = Bench::new(plain_function);
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    let file = rustix::fs::memfd_create("more", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 1 << 20).unwrap();
    let more = VhostUserMemoryRegionInfo {
        guest_phys_addr: 1 << 32,
        memory_size: 1 << 20,
        userspace_addr: 0x7200_0000_0000,
        mmap_offset: 0,
        mmap_handle: std::os::fd::AsRawFd::as_raw_fd(&file),
    };
    guest.frontend.add_mem_region(&more).unwrap();
    assert_eq!(bench.cards[0].reaches().len(), 3);
    exchange_by_card(&mut bench, &mut guest, 0, 1);
    // All of it again, as front-ends without slots do: nothing changes.
    let mut all = Guest::regions(&guest.file).to_vec();
    all.push(more);
    guest.frontend.set_mem_table(&all).unwrap();
    exchange_by_card(&mut bench, &mut guest, 0, 3);
    all.pop();
    guest.frontend.set_mem_table(&all).unwrap();
    assert_eq!(bench.cards[0].reaches().len(), 2);
    assert_eq!(bench.say("vdpa-switch-overs").unwrap(), "1");
    // Memory that it cannot map: the guest goes on without it.
    bench.cards[0].set_faults(Faults { map: true, ..Faults::default() });
    guest.frontend.add_mem_region(&more).unwrap();
    bench.wait_for_engine("software");
    exchange_by_switch(&mut bench, &mut guest, 5);
}

#[test]
fn pages_written_during_a_migration_are_in_the_log() {
    let mut bench = Bench::new(able_device);
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    exchange_by_card(&mut bench, &mut guest, 0, 1);
    let log = guest::log::Log::new(guest::MEMORY);
    log.give(&guest.frontend);
    guest.frontend.set_features(FITS | VHOST_F_LOG_ALL).unwrap();
    bench.wait_for_engine("shadow");
    bench.cards[0].work_when_kicked();
    let page = guest.post_page(0) / guest::log::PAGE;
    guest.rings[0].kick.write(1).unwrap();
    bench.cards[0].arrive(&frame(3));
    await_used(&mut guest, 0, |guest| guest.receive(0));
    assert!(log.take().contains(&page));
    // It was called off.
    guest.frontend.set_features(FITS).unwrap();
    bench.wait_for_engine("direct");
    exchange_by_card(&mut bench, &mut guest, 0, 5);
}

#[test]
fn queue_pairs_are_switched_at_the_device() {
    let bench = Bench::new(plain_function);
    bench.want(&NAMES[..1]);
    let mut guest = bench.guest(FITS | VIRTIO_NET_F_MQ, 6);
    bench.wait_for_engine("direct");
    assert_eq!(bench.cards[0].started_with().unwrap().1, 3);
    guest.enable(4, false);
    guest.enable(5, false);
    assert_eq!(bench.cards[0].pairs(), 2);
    guest.enable(4, true);
    assert_eq!(bench.cards[0].pairs(), 3);
    bench.cards[0].set_faults(Faults { set_queue_pairs: true, ..Faults::default() });
    guest.enable(4, false);
    bench.wait_for_engine("software");
}

#[test]
fn doorbells_are_handed_to_the_front_end_and_taken_back() {
    let mut bench = Bench::new(able_device);
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let page = DoorbellPage { fd: Arc::new(file.into()), offset: 0x3000, len: 0x1000 };
    bench.cards[0].offer_page(page);
    let mut guest = bench.guest(FITS, 2);
    wait_for(&bench.port, |info| info.link == LinkState::Up);
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.frontend.set_backend_request_fd(&theirs).unwrap();
    // The next message: what it says of which ring, and whether a descriptor came along.
    let next = || {
        let mut bytes = [0; 36];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&ours, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        assert_eq!(got, 36);
        let rights = ancillary.drain().any(|message| matches!(message, RecvAncillaryMessage::ScmRights(_)));
        assert_eq!(bytes[..12], [3, 0, 0, 0, 1, 0, 0, 0, 24, 0, 0, 0]);
        let words = bytes[12..].chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        (words.collect::<Vec<_>>(), rights)
    };
    bench.want(&NAMES[..1]);
    assert_eq!([next(), next()], [0, 1].map(|ring| (vec![ring, 0x1000, 0x3000], true)));
    bench.wait_for_engine("direct");
    assert_eq!(bench.say("vdpa-doorbells").unwrap(), "2");
    bench.want(&[]);
    assert_eq!([next(), next()], [0x100, 0x101].map(|ring| (vec![ring, 0, 0], false)));
    bench.wait_for_engine("software");
    exchange_by_switch(&mut bench, &mut guest, 1);
}

#[test]
fn front_end_that_goes_takes_its_memory_along() {
    let bench = Bench::new(plain_function);
    bench.want(&NAMES[..1]);
    let guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    drop(guest);
    wait_for(&bench.port, |info| info.link == LinkState::Down);
    assert_eq!(bench.cards[0].reaches(), []);
    let mut guest = bench.guest(FITS, 2);
    bench.wait_for_engine("direct");
    let mut bench = bench;
    exchange_by_card(&mut bench, &mut guest, 0, 1);
    assert_eq!(bench.cards[0].seen().1, 1, "opened once");
    // The bases are told as they are.
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 1);
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 1);
}

#[test]
fn name_that_cannot_be_is_refused_and_a_missing_device_is_told() {
    let bench = Bench::new(plain_function);
    let bad = bench.port.set_vdpa(&["eth0".to_owned()]).unwrap_err().to_string();
    assert!(bad.contains("PCI address"), "{bad}");
    bench.want(&["/dev/vhost-vdpa-7"]);
    wait_for(&bench.port, |info| info.error.as_ref().is_some_and(|e| e.contains("plug it in")));
    bench.want(&[]);
    wait_for(&bench.port, |info| info.error.is_none());
}
