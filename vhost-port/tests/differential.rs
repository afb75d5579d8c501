//! The same front-end session with two back-ends: ours, and rust-vmm's `vhost-user-backend`. What the front-end is told must be the
//! same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guest::{Guest, MODERN, burst};
use pmd::port::{Port, RxQueue};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Listener, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_port::{Mode, VhostConfig, VhostPort};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A device that gives every buffer back.
struct Sink {
    memory: Memory,
    exit: (EventConsumer, EventNotifier),
}

impl VhostUserBackendMut for Sink {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }
    fn max_queue_size(&self) -> usize {
        1024
    }
    fn features(&self) -> u64 {
        MODERN | VIRTIO_F_EVENT_IDX
    }
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIG
    }
    fn get_config(&self, _offset: u32, size: u32) -> Vec<u8> {
        vec![0; size as usize]
    }
    fn set_config(&mut self, _offset: u32, _bytes: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
    fn set_event_idx(&mut self, _enabled: bool) {}
    fn update_memory(&mut self, memory: Memory) -> std::io::Result<()> {
        self.memory = memory;
        Ok(())
    }
    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        Some((self.exit.0.try_clone().unwrap(), self.exit.1.try_clone().unwrap()))
    }
    fn handle_event(
        &mut self,
        ring: u16,
        _events: EventSet,
        rings: &[VringRwLock],
        _thread: usize,
    ) -> std::io::Result<()> {
        if ring != 1 {
            return Ok(());
        }
        let mut state = rings[1].get_mut();
        let memory = self.memory.memory();
        let heads: Vec<u16> =
            state.get_queue_mut().iter(&*memory).unwrap().map(|chain| chain.head_index()).collect();
        for head in heads {
            state.add_used(head, 0).unwrap();
        }
        state.signal_used_queue()
    }
}

/// A back-end under test.
enum BackEnd {
    Ours { _port: Arc<dyn Port>, queue: Box<dyn RxQueue> },
    Theirs(Option<JoinHandle<()>>),
}

impl BackEnd {
    fn ours(path: &Path) -> BackEnd {
        let port = VhostPort::open(VhostConfig::new("p", Mode::Listen(path.to_owned()))).unwrap();
        let queue = port.rx_queue(0).unwrap();
        BackEnd::Ours { _port: port, queue }
    }

    fn theirs(path: &Path) -> BackEnd {
        let mut listener = Listener::new(path, true).unwrap();
        let thread = std::thread::spawn(move || {
            let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
            let exit = new_event_consumer_and_notifier(EventFlag::NONBLOCK).unwrap();
            let stop = exit.1.try_clone().unwrap();
            let sink = Arc::new(RwLock::new(Sink { memory: memory.clone(), exit }));
            let mut daemon = VhostUserDaemon::new("sink".into(), sink, memory).unwrap();
            daemon.start(&mut listener).unwrap();
            // An error is what a refused message ends in.
            let _ = daemon.wait();
            stop.notify().unwrap();
        });
        BackEnd::Theirs(Some(thread))
    }

    /// Sends frames and waits until the back-end has given all of them back.
    fn exchange(&mut self, guest: &mut Guest, frames: usize) {
        for i in 0..frames {
            guest.send(1, NetHeader::default(), &[i as u8; 60], &[]);
        }
        guest.rings[1].kick.write(1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut back = 0;
        while back < frames {
            if let BackEnd::Ours { queue, .. } = self {
                burst(&mut **queue);
            }
            back += guest.reclaim(1);
            assert!(Instant::now() < deadline, "{back} of {frames} came back");
            std::thread::yield_now();
        }
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        if let BackEnd::Theirs(thread) = self {
            thread.take().unwrap().join().unwrap();
        }
    }
}

/// Plays a session with both and gives what each told.
fn both<T>(session: impl Fn(&mut BackEnd, &mut Guest) -> T) -> [T; 2] {
    [BackEnd::ours as fn(&Path) -> BackEnd, BackEnd::theirs].map(|open| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut back_end = open(&path);
        let mut guest = Guest::connect(&path, MODERN, 2);
        let told = session(&mut back_end, &mut guest);
        // Hanging up ends the other back-end's thread, which its drop waits for.
        drop(guest);
        told
    })
}

#[test]
fn rings_memory_and_features_change_alike() {
    let [ours, theirs] = both(|back_end, guest| {
        let mut told = Vec::new();
        let mut tell = |what: &str, value: u64| told.push((what.to_owned(), value));
        tell("features", guest.frontend.get_features().unwrap() & MODERN);
        tell("slots", guest.frontend.get_max_mem_slots().unwrap());
        back_end.exchange(guest, 3);
        tell("base after 3", guest.frontend.get_vring_base(1).unwrap().into());
        tell("base of an unused ring", guest.frontend.get_vring_base(0).unwrap().into());
        guest.start_ring(0, 0);
        guest.start_ring(1, 3);
        back_end.exchange(guest, 40);
        guest.enable(1, false);
        tell("base while disabled", guest.frontend.get_vring_base(1).unwrap().into());
        guest.start_ring(1, 43);
        guest.enable(1, true);
        back_end.exchange(guest, 40);

        // Memory that holds no ring and no buffer of now comes and goes while the rings run.
        let [_, second] = Guest::regions(&guest.file);
        tell("remove", guest.frontend.remove_mem_region(&second).is_ok().into());
        tell("add", guest.frontend.add_mem_region(&second).is_ok().into());
        back_end.exchange(guest, 5);
        tell("again", guest.frontend.get_vring_base(1).unwrap().into());
        told
    });
    assert_eq!(ours, theirs);
}

/// A guest that restarts, and what its driver reads and writes in between.
#[test]
fn device_is_reset_and_configured_alike() {
    let [ours, theirs] = both(|back_end, guest| {
        let mut told = Vec::new();
        back_end.exchange(guest, 3);
        told.push(("reset", u64::from(guest.frontend.reset_device().is_ok())));
        told.push(("reset again", guest.frontend.reset_device().is_ok().into()));
        guest.restart(MODERN);
        back_end.exchange(guest, 40);
        told.push(("base", guest.frontend.get_vring_base(1).unwrap().into()));
        let flags = VhostUserConfigFlags::empty();
        let read = |guest: &mut Guest, offset: u32, size: u32| {
            guest.frontend.get_config(offset, size, flags, &vec![0; size as usize]).map(|(_, bytes)| bytes)
        };
        told.push(("bytes", read(guest, 0, 24).unwrap().len() as u64));
        told.push(("bytes past the fields", read(guest, 200, 56).unwrap().len() as u64));
        told.push(("none", read(guest, 0, 0).is_ok().into()));
        told.push(("write", guest.frontend.set_config(0, flags, &[2, 0, 0, 0, 0, 1]).is_ok().into()));
        told
    });
    assert_eq!(ours, theirs);
}

#[test]
fn the_same_messages_are_refused() {
    type Message = fn(&mut Guest) -> bool;
    let messages: [(&str, Message); 8] = [
        ("size zero", |g| g.frontend.set_vring_num(0, 0).is_ok()),
        ("addresses outside memory", |g| {
            let far = VringConfigData { desc_table_addr: 0x10, ..Guest::ring_config(0) };
            g.frontend.set_vring_addr(0, &far).is_ok()
        }),
        ("features not offered", |g| g.frontend.set_features(MODERN | 1 << 50).is_ok()),
        ("memory that is there already", |g| {
            let [first, _] = Guest::regions(&g.file);
            g.frontend.add_mem_region(&first).is_ok()
        }),
        ("memory that is not there", |g| {
            let [_, second] = Guest::regions(&g.file);
            let other = VhostUserMemoryRegionInfo { guest_phys_addr: 64 << 20, ..second };
            g.frontend.remove_mem_region(&other).is_ok()
        }),
        ("a size that fits", |g| g.frontend.set_vring_num(0, 32).is_ok()),
        ("enable twice", |g| {
            g.enable(0, true);
            g.frontend.set_vring_enable(0, true).is_ok()
        }),
        ("a base when stopped", |g| {
            g.frontend.get_vring_base(0).unwrap();
            g.frontend.set_vring_base(0, 7).is_ok()
        }),
    ];
    for (what, message) in messages {
        let [ours, theirs] = both(|_, guest| message(guest));
        assert_eq!(ours, theirs, "{what}");
    }
    // The other says yes to a size that cannot be and stays with what it had; we say no.
    assert_eq!(both(|_, guest| guest.frontend.set_vring_num(0, 48).is_ok()), [false, true]);
}
