//! A guest's rings on a function that is played.

use pmd::memory::Arena;
use pmd::pci::FakeFn;
use pmd::virtio::driver_ring::DriverRing;
use pmd::virtio::pci::VirtioNetModel;

use super::*;
use crate::vdpa::played_guest::*;

struct Bench {
    model: VirtioNetModel,
    function: Arc<FakeFn>,
    device: VirtioFn,
    memory: Arc<Arena>,
}

fn open(model: VirtioNetModel) -> (Arc<FakeFn>, Result<VirtioFn, VdpaError>) {
    let function = FakeFn::new(model);
    let pci: Arc<dyn PciFn> = function.clone();
    let device = VirtioFn::new(&pci, function.clone(), Uplink::default());
    (function, device)
}

fn bench(model: VirtioNetModel) -> Bench {
    let (function, device) = open(model.clone());
    Bench { model, function, device: device.unwrap(), memory: Arc::new(Arena::create("guest", 1).unwrap()) }
}

fn usual() -> VirtioNetModel {
    VirtioNetModel::new(VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_CSUM)
}

impl Bench {
    fn mapping(&self) -> DmaMapping {
        mapping(&self.memory)
    }

    /// Two rings of a pair, and what the guest's driver holds of them.
    fn rings(&self, pairs: u16) -> (Vec<RingStart>, Vec<DriverRing>) {
        (0..2 * pairs).map(|ring| self.ring(usize::from(ring) * PER_RING)).unzip()
    }

    fn ring(&self, at: usize) -> (RingStart, DriverRing) {
        ring(&self.memory, at)
    }

    fn begin(&mut self, rings: &[RingStart], mac: Option<[u8; 6]>) -> Result<Vec<StartedRing>, VdpaError> {
        let features = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF;
        self.device.start(Start { features, rings, queue_pairs: rings.len() as u16 / 2, mac })
    }

    fn deliver(&self, pair: usize, frame: &[u8]) -> bool {
        self.model.lock().deliver(self.function.dma_view(), pair, frame)
    }

    /// Sends a frame by the guest's transmit ring of the first pair.
    fn send(&self, ring: &mut DriverRing, doorbell: &dyn Doorbell, frame: &[u8]) {
        self.memory.copy_in(PER_RING + BUFFER, &[&[0; 12], frame].concat());
        ring.add(&[buffer(PER_RING, 12 + frame.len() as u32, false)]).unwrap();
        if ring.publish() {
            doorbell.ring();
        }
    }
}

#[test]
fn a_guests_rings_run_on_the_function() {
    let mut bench = bench(usual());
    let capabilities = bench.device.capabilities().clone();
    assert_eq!((capabilities.max_queue_pairs, capabilities.max_ring_size), (2, 256));
    assert_eq!(capabilities.mac, Some([0x52, 0x53, 0x54, 0x55, 0x56, 0x57]));
    assert_eq!(capabilities.features & VIRTIO_F_ACCESS_PLATFORM, 0, "not the guest's business");
    bench.device.map(bench.mapping()).unwrap();
    let (rings, mut drivers) = bench.rings(1);
    drivers[0].add(&[buffer(0, 2048, true)]).unwrap();
    drivers[0].publish();
    // Waits in the ring before it is started: found without a kick.
    bench.memory.copy_in(PER_RING + BUFFER, &[&[0u8; 12][..], b"early"].concat());
    drivers[1].add(&[buffer(PER_RING, 17, false)]).unwrap();
    drivers[1].publish();
    let started = bench.begin(&rings, None).unwrap();
    let call = |ring: usize| rings[ring].call.clone().unwrap();
    assert_eq!(bench.model.lock().sent.pop().unwrap(), b"early");
    assert!(fired(&call(1)), "the interrupt goes to the guest");
    assert_eq!(drivers[1].poll_used(), Ok(Some((0, 0))));

    assert!(bench.deliver(0, b"a frame from outside"));
    assert!(fired(&call(0)) && !fired(&call(1)));
    assert_eq!(drivers[0].poll_used(), Ok(Some((0, 12 + 20))));
    let mut got = [0; 20];
    bench.memory.copy_out(BUFFER + 12, &mut got);
    assert_eq!(&got, b"a frame from outside");

    bench.send(&mut drivers[1], &*started[1].doorbell, b"out");
    assert_eq!(bench.model.lock().sent.pop().unwrap(), b"out");
    let model = bench.model.lock();
    assert_ne!(model.accepted & VIRTIO_F_ACCESS_PLATFORM, 0);
    assert_eq!(model.accepted & VIRTIO_NET_F_CSUM, 0, "what the guest did not take is not taken");
    assert_eq!(model.commands, [[4, 0, 1], [0, 0, 1], [0, 1, 1]], "one pair, promiscuous, all multicast");
    assert_eq!((bench.function.dma_view().faults(), &model.complaints[..]), (0, &[][..]));
}

#[test]
fn calls_are_changed_while_it_runs() {
    let mut bench = bench(usual());
    bench.device.map(bench.mapping()).unwrap();
    let (rings, mut drivers) = bench.rings(2);
    bench.begin(&rings, None).unwrap();
    assert_eq!(bench.model.lock().commands[0], [4, 0, 2]);
    let other = event();
    bench.device.set_call(2, Some(other.clone())).unwrap();
    let mut deliver = |pair: usize| {
        let at = 2 * pair * PER_RING;
        drivers[2 * pair].add(&[buffer(at, 100, true)]).unwrap();
        drivers[2 * pair].publish();
        assert!(bench.deliver(pair, b"x"));
    };
    deliver(1);
    assert!(fired(&other) && !fired(rings[2].call.as_ref().unwrap()));
    deliver(0);
    assert!(fired(rings[0].call.as_ref().unwrap()) && !fired(&other));
    bench.device.set_call(2, None).unwrap();
    assert!(bench.device.set_call(4, None).is_err());
    bench.device.set_queue_pairs(1).unwrap();
    assert_eq!(bench.model.lock().commands.last(), Some(&[4, 0, 1]));
    assert!(bench.device.set_queue_pairs(3).is_err());
}

#[test]
fn a_stopped_function_touches_nothing() {
    let mut bench = bench(usual());
    bench.device.map(bench.mapping()).unwrap();
    for round in 0..3 {
        let (rings, mut drivers) = bench.rings(1);
        // The guest's driver has begun anew each time.
        for at in [0, PER_RING] {
            bench.memory.copy_in(at, &[0; BUFFER]);
        }
        let started = bench.begin(&rings, None).unwrap();
        bench.send(&mut drivers[1], &*started[1].doorbell, &[round; 60]);
        assert_eq!(bench.model.lock().sent.pop().unwrap(), [round; 60]);
        assert_eq!(bench.device.stop().unwrap(), [StoppedRing::Unknown; 2]);
        let before = bench.function.writes();
        bench.send(&mut drivers[1], &*started[1].doorbell, b"too late");
        assert_eq!(bench.function.writes(), before, "the doorbell is silent");
        assert!(!bench.deliver(0, b"nobody") && bench.model.lock().sent.is_empty());
        assert!(bench.device.stop().is_err(), "not twice");
    }
    bench.device.unmap(GUEST).unwrap();
    assert!(!bench.function.dma_view().read(GUEST, &mut [0]), "the memory is out of its reach");
    assert!(bench.device.unmap(GUEST).is_err());
}

#[test]
fn a_dropped_function_reaches_nothing() {
    let mut bench = bench(usual());
    bench.device.map(bench.mapping()).unwrap();
    let (rings, _) = bench.rings(1);
    let started = bench.begin(&rings, None).unwrap();
    drop(bench.device);
    assert!(!bench.function.dma_view().read(GUEST, &mut [0]));
    let before = bench.function.writes();
    started[0].doorbell.ring();
    assert_eq!(bench.function.writes(), before);
    drop(started);
    assert_eq!(Arc::strong_count(&bench.function), 1, "nobody keeps it open");
    assert_eq!(Arc::strong_count(&bench.memory), 1, "nobody keeps the memory");
}

#[test]
fn what_it_cannot_do_is_refused_with_the_reason() {
    let mut bench = bench(usual());
    bench.device.map(bench.mapping()).unwrap();
    let (rings, _) = bench.rings(1);
    let features = VIRTIO_F_VERSION_1;
    let mut refused = |features: u64, rings: &[RingStart]| {
        let start = Start { features, rings, queue_pairs: 1, mac: None };
        let error = bench.device.start(start).err().unwrap();
        assert_eq!(error.problem(), VdpaProblem::Unfit, "{error}");
        error.to_string()
    };
    assert!(refused(features | VIRTIO_NET_F_HOST_TSO4, &rings).contains("VIRTIO_NET_F_HOST_TSO4"));
    assert!(refused(0, &rings).contains("disable-legacy=on"));
    assert!(refused(features, &rings[..1]).contains("1 rings"));
    let changed = |change: fn(&mut RingStart)| {
        let mut rings = rings.clone();
        change(&mut rings[1]);
        rings
    };
    assert!(refused(features, &changed(|ring| ring.size = 512)).contains("rx_queue_size"));
    assert!(refused(features, &changed(|ring| ring.size = 48)).contains("48 descriptors"));
    assert!(refused(features, &changed(|ring| ring.index = 7)).contains("begin at 0x0 only"));
    assert_eq!(bench.model.lock().commands.len(), 0, "nothing was started");

    let mut far = bench.mapping();
    far.iova = 0x80_0000_0000;
    let error = bench.device.map(far).unwrap_err();
    assert!(
        error.problem() == VdpaProblem::Memory && error.to_string().contains("does not reach"),
        "{error}"
    );
    let mut msi = bench.mapping();
    msi.iova = 0xfee0_0000;
    assert!(bench.device.map(msi).is_err(), "where interrupts are");
    let end = *bench.device.capabilities().iova.last().unwrap().end();
    assert!(end < 0x7f_ffff_ffff, "room for our own memory");
}

#[test]
fn a_card_that_does_not_trust_the_function_gives_it_the_guests_address() {
    let promiscuous = [0, 0];
    for (mac, works) in [(Some([2, 0, 0, 0, 0, 9]), true), (None, false)] {
        let model = VirtioNetModel::new(VIRTIO_NET_F_CTRL_MAC_ADDR | VIRTIO_NET_F_MRG_RXBUF);
        model.lock().refused.push(promiscuous);
        let mut bench = bench(model);
        bench.device.map(bench.mapping()).unwrap();
        let (rings, _) = bench.rings(1);
        match bench.begin(&rings, mac) {
            Ok(_) => assert!(works && bench.model.lock().commands.contains(&[1, 1, 2])),
            Err(error) => assert!(!works && error.to_string().contains("trust on"), "{error}"),
        }
    }
}

#[test]
fn failures_and_removal_are_seen() {
    let mut bench = bench(usual());
    let ready = |bench: &Bench| {
        use rustix::event::{PollFd, PollFlags, poll};
        let fd = bench.device.event_fd().unwrap();
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).unwrap() == 1
    };
    bench.device.map(bench.mapping()).unwrap();
    assert_eq!((bench.device.poll(), ready(&bench)), (DeviceEvents::default(), false));
    let (rings, _) = bench.rings(1);
    bench.begin(&rings, None).unwrap();
    assert!(bench.function.dma_view().interrupt(0) && ready(&bench));
    assert_eq!(bench.device.poll(), DeviceEvents { config_changed: true, ..DeviceEvents::default() });
    assert!(!ready(&bench));

    bench.model.lock().needs_reset = true;
    assert!(bench.device.poll().failed);
    bench.device.reset().unwrap();
    assert!(bench.device.poll().usable(), "a reset helps");
    bench.begin(&rings, None).unwrap();

    bench.function.ask_back();
    assert!(ready(&bench) && bench.device.poll().removed && bench.device.poll().removed);
    assert!(!ready(&bench), "said once, known for good");
}

#[test]
fn a_function_that_is_pulled_is_gone() {
    let mut bench = bench(usual());
    bench.device.map(bench.mapping()).unwrap();
    let (rings, _) = bench.rings(1);
    bench.begin(&rings, None).unwrap();
    bench.function.pull();
    assert!(bench.device.poll().removed);
    assert_eq!(bench.device.read_config(0, &mut [0; 6]).unwrap_err().problem(), VdpaProblem::Gone);
    // It does not answer, and cannot write.
    assert!(bench.device.stop().is_err());
    drop(bench.device);
    assert!(!bench.function.dma_view().read(GUEST, &mut [0]));
}

#[test]
fn a_function_that_does_not_come_out_of_reset_is_made_silent() {
    let model = usual();
    let mut bench = bench(model.clone());
    bench.device.map(bench.mapping()).unwrap();
    let (rings, _) = bench.rings(1);
    bench.begin(&rings, None).unwrap();
    assert_ne!(bench.function.config_u16(4) & 4, 0);
    model.lock().dead = true;
    assert!(bench.device.stop().unwrap_err().to_string().contains("out of reset"));
    assert_eq!(bench.function.config_u16(4) & 4, 0, "it may not write any more");
}

#[test]
fn the_configuration_is_read() {
    let mut bench = bench(usual());
    let mut bytes = [0xee; 80];
    bench.device.read_config(0, &mut bytes).unwrap();
    assert_eq!(bytes[..10], [0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 1, 0, 2, 0]);
    assert_eq!(bytes[64..], [0; 16], "beyond its end");
}

#[test]
fn a_doorbell_with_a_page_of_its_own_can_be_handed_out() {
    for stride in [4, 4096] {
        let model = usual();
        model.lock().doorbell_stride = stride;
        let mut bench = bench(model);
        bench.device.map(bench.mapping()).unwrap();
        let (rings, mut drivers) = bench.rings(1);
        let started = bench.begin(&rings, None).unwrap();
        assert_eq!(started[0].page.is_some(), stride == 4096);
        if let (Some(first), Some(second)) = (&started[0].page, &started[1].page) {
            assert_eq!((second.offset - first.offset, first.len), (4096, 4096));
        }
        bench.send(&mut drivers[1], &*started[1].doorbell, b"rung");
        assert_eq!(bench.model.lock().sent.pop().unwrap(), b"rung");
    }
}
