//! A guest's rings on a device of a kernel that is played.

use pmd::memory::Arena;
use pmd::virtio::driver_ring::DriverRing;

use super::played::Played;
use super::*;
use crate::vdpa::fake::able_device;
use crate::vdpa::played_guest::*;

struct Bench {
    kernel: Played,
    device: KernelDevice,
    memory: Arc<Arena>,
    rings: Vec<RingStart>,
    drivers: Vec<DriverRing>,
    /// Keeps the file that stands for the device's name.
    name: tempfile::NamedTempFile,
}

fn open_played(kernel: &Played) -> (tempfile::NamedTempFile, io::Result<KernelDevice>) {
    let name = tempfile::NamedTempFile::new().unwrap();
    let device = KernelDevice::new(name.path(), Box::new(kernel.clone()), Uplink::default());
    (name, device)
}

fn bench(kernel: Played) -> Bench {
    let (name, device) = open_played(&kernel);
    let memory = Arc::new(Arena::create("guest", 1).unwrap());
    let (mut rings, drivers): (Vec<_>, Vec<_>) =
        [0, PER_RING].map(|at| ring(&memory, at)).into_iter().unzip();
    rings.iter_mut().for_each(|ring| ring.kick = Some(event()));
    let mut device = device.unwrap();
    device.map(mapping(&memory)).unwrap();
    Bench { kernel, device, memory, rings, drivers, name }
}

fn usual() -> Played {
    Played::new(&able_device("played"))
}

impl Bench {
    fn start(&mut self) -> Vec<StartedRing> {
        let features = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF;
        self.device.start(Start { features, rings: &self.rings, queue_pairs: 1, mac: None }).unwrap()
    }

    /// A frame each way: the guest kicks, and is interrupted.
    fn exchange(&mut self, number: u8) {
        let frame = [number; 60];
        self.memory.copy_in(PER_RING + BUFFER, &[&[0; 12][..], &frame].concat());
        self.drivers[1].add(&[buffer(PER_RING, 72, false)]).unwrap();
        self.drivers[0].add(&[buffer(0, 2048, true)]).unwrap();
        self.drivers.iter_mut().for_each(|driver| _ = driver.publish());
        for (at, ring) in self.rings.iter().enumerate() {
            rustix::io::write(ring.kick.as_ref().unwrap(), &1u64.to_ne_bytes()).unwrap();
            assert!(self.kernel.kicked(at), "the kernel watches the guest's descriptor");
        }
        self.kernel.card.arrive(&frame);
        self.kernel.card.work(usize::MAX);
        assert_eq!(self.kernel.card.sent(), [frame]);
        assert!(matches!(self.drivers[1].poll_used(), Ok(Some((_, 0)))));
        assert!(matches!(self.drivers[0].poll_used(), Ok(Some((_, 72)))));
        assert!(self.rings.iter().all(|ring| fired(ring.call.as_ref().unwrap())), "both are told");
    }
}

#[test]
fn what_is_no_device_is_said_with_what_to_do() {
    let why = |path: &str| open(Path::new(path)).err().map(|error| (error.problem(), error.to_string()));
    let (problem, text) = why("/dev/vhost-vdpa-999999").unwrap();
    assert!(problem == VdpaProblem::Name && text.contains("modprobe vhost_vdpa"), "{text}");
    let (problem, text) = why("/dev/null").unwrap();
    assert!(problem == VdpaProblem::NotOurs && text.contains("/dev/null"), "{text}");
}

#[test]
fn a_guests_rings_go_on_where_they_were_suspended() {
    let mut bench = bench(usual());
    let caps = bench.device.capabilities().clone();
    assert_eq!((caps.start_index, caps.reports_index, caps.max_queue_pairs), (StartIndex::Any, true, 1));
    assert_eq!(caps.features & (VIRTIO_F_ACCESS_PLATFORM | VIRTIO_NET_F_MQ), 0, "not the guest's business");
    for round in 0..5 {
        let started = bench.start();
        assert!(started.iter().all(|ring| ring.watches_kick && ring.page.is_none()));
        // What waits is looked at without a kick of the guest.
        assert!(bench.kernel.kicked(0) && bench.kernel.kicked(1));
        let number = 3 * round as u8;
        (0..3).for_each(|more| bench.exchange(number + more));
        let stood = bench.device.stop().unwrap();
        assert_eq!(stood, [StoppedRing::At(u16::from(number) + 3); 2]);
        bench.rings.iter_mut().for_each(|ring| ring.index = u16::from(number) + 3);
        assert!(!bench.kernel.card.seen().2);
        started[1].doorbell.ring();
        assert!(!fired(bench.rings[1].kick.as_ref().unwrap()), "the doorbell is silent");
    }
    assert_eq!(bench.kernel.card.reaches().len(), 1);
    bench.device.unmap(GUEST).unwrap();
    assert!(bench.kernel.card.reaches().is_empty() && bench.device.unmap(GUEST).is_err());
}

#[test]
fn descriptors_are_changed_while_it_runs() {
    let mut bench = bench(usual());
    let started = bench.start();
    bench.exchange(1);
    let old: Vec<_> = bench.rings.iter().map(|ring| ring.kick.clone().unwrap()).collect();
    for at in 0..2 {
        (bench.rings[at].kick, bench.rings[at].call) = (Some(event()), Some(event()));
        bench.device.set_kick(at as u16, bench.rings[at].kick.clone()).unwrap();
        bench.device.set_call(at as u16, bench.rings[at].call.clone()).unwrap();
    }
    bench.exchange(2);
    // The doorbell rings at the new one.
    started[0].doorbell.ring();
    assert!(bench.kernel.kicked(0) && !fired(&old[0]));
    // Without one of the guest's, by one of ours.
    bench.device.set_kick(1, None).unwrap();
    started[1].doorbell.ring();
    assert!(bench.kernel.kicked(1) && !fired(bench.rings[1].kick.as_ref().unwrap()));
    assert!(bench.device.set_kick(2, None).is_err() && bench.device.set_call(2, None).is_err());
}

#[test]
fn a_kernel_that_knows_less_is_used_for_what_it_can() {
    // It cannot suspend, forgets mappings at a reset, and begins rings at zero.
    let kernel = usual();
    {
        let mut state = kernel.state();
        state.backend = backend::IOTLB_MSG_V2;
        state.begins_anywhere = false;
    }
    let mut bench = bench(kernel);
    let caps = bench.device.capabilities().clone();
    assert_eq!((caps.start_index, caps.reports_index), (StartIndex::Zero, false));
    bench.start();
    bench.exchange(1);
    assert_eq!(bench.device.stop().unwrap(), [StoppedRing::Unknown; 2]);
    assert_eq!(bench.kernel.card.reaches(), [(GUEST, MEMORY)], "shown again after each reset");
    // The guest's driver has used the rings, so they do not suit it any more.
    bench.rings.iter_mut().for_each(|ring| ring.index = 1);
    let features = VIRTIO_F_VERSION_1;
    let refused = bench.device.start(Start { features, rings: &bench.rings, queue_pairs: 1, mac: None });
    assert_eq!(refused.err().map(|error| error.problem()), Some(VdpaProblem::Unfit));

    let old = usual();
    old.state().backend = 0;
    assert!(open_played(&old).1.err().unwrap().to_string().contains("second version"));
}

#[test]
fn what_the_kernel_refuses_is_said() {
    let kernel = usual();
    kernel.state().accepts = false;
    let error = open_played(&kernel).1.err().unwrap().to_string();
    assert!(error.contains("does not accept its own features"), "{error}");

    let mut bench = bench(usual());
    bench.device.unmap(GUEST).unwrap();
    bench.kernel.state().most = 1 << 20;
    let error = bench.device.map(mapping(&bench.memory)).unwrap_err();
    assert_eq!(error.problem(), VdpaProblem::Memory);
    assert!(error.to_string().contains("ulimit -l"), "{error}");
    // A ring that is not where memory is: the device says so, and is reset.
    let features = VIRTIO_F_VERSION_1;
    let refused = bench.device.start(Start { features, rings: &bench.rings, queue_pairs: 1, mac: None });
    assert!(refused.err().unwrap().to_string().contains("does not take the guest's rings"));
    assert_eq!(bench.kernel.state().status, 0);
}

#[test]
fn a_device_that_fails_or_goes_is_noticed() {
    let mut bench = bench(usual());
    bench.start();
    assert_eq!(bench.device.poll(), DeviceEvents::default());
    bench.kernel.state().status |= status::NEEDS_RESET;
    assert!(bench.device.poll().failed);
    bench.device.reset().unwrap();
    assert_eq!(bench.device.poll(), DeviceEvents::default());
    let event = bench.device.event_fd().unwrap();
    bench.name.close().unwrap();
    let fds = &mut [rustix::event::PollFd::new(&*event, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(fds, None), Ok(1), "its name's going is told");
    assert!(bench.device.poll().removed);
}
