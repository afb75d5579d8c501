//! The driver of the 82576's physical function and that of its virtual functions, over two played functions with a mailbox between them.

use super::model::{MAC, Played, Shared};
use super::post::{SharedPost, post};
use super::suite::{Bench, config};
use crate::drivers::igb::model::Played82576;
use crate::drivers::igbvf::model::PlayedVf;
use crate::nic::test_cards::{frame, receive, restarts, send};
use crate::nic::{Filters, NicConfig};
use crate::pci::{FakeFn, PciFn as _};
use crate::port::LinkState;

/// Registers of the physical function: what is received by address, by VLAN and by pool, what pools send, and which are on.
const RAL: usize = 0x5400;
const VLVF: usize = 0x5d00;
const VMOLR: usize = 0x5ad0;
const VMVIR: usize = 0x3700;
const DTXSWC: usize = 0x3500;
const VFRE: usize = 0x0c8c;
const MRQC: usize = 0x5818;

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
/// The number of the virtual function that there is a driver for, of two.
const NUMBER: usize = 1;

fn physical(post: &SharedPost, settings: &str, more: NicConfig) -> Bench<Played82576> {
    let chip = Shared::<Played82576>::new();
    chip.lock().own.posts[NUMBER] = Some(post.clone());
    let function = FakeFn::new(chip.clone());
    function.set_virtual_functions(2);
    let functions =
        if settings.is_empty() { vec![] } else { vec![(NUMBER as u16, settings.parse().unwrap())] };
    let port = Played82576::open(NicConfig { functions, ..more }, function.clone()).unwrap();
    Bench { chip, function, port }
}

fn of_function(post: &SharedPost, more: NicConfig) -> Result<Bench<PlayedVf>, String> {
    let chip = Shared::<PlayedVf>::new();
    chip.lock().own.post = Some(post.clone());
    let function = FakeFn::new(chip.clone());
    let port = PlayedVf::open(more, function.clone()).map_err(|error| error.to_string())?;
    Ok(Bench { chip, function, port })
}

impl Bench<Played82576> {
    fn register(&self, at: usize) -> u32 {
        self.chip.lock().get(at)
    }

    /// Pools that receive what is for an address.
    fn pools_of(&self, mac: [u8; 6]) -> u32 {
        let chip = self.chip.lock();
        let [a, b, c, d, e, f] = mac;
        let entry = (0..16).find(|i| {
            let high = chip.get(RAL + 8 * i + 4);
            chip.get(RAL + 8 * i) == u32::from_le_bytes([a, b, c, d])
                && high & 0xffff == u32::from_le_bytes([e, f, 0, 0])
        });
        entry.map_or(0, |i| chip.get(RAL + 8 * i + 4) >> 18 & 0xff)
    }
}

#[test]
fn a_virtual_function_is_given_what_it_may_have() {
    let post = post();
    let pf = physical(&post, "mac=02:00:00:00:00:0a,trust=on,spoofchk=off", config());
    // The pools are there, and its own is the last; nobody else has introduced itself.
    assert_eq!((pf.register(MRQC), pf.register(VFRE), pf.register(DTXSWC)), (3, 0x80, 1 << 31 | 1));
    assert_eq!(pf.pools_of(MAC), 0x80);
    let states = pf.port.virtual_functions(pf.function.address());
    assert_eq!(
        (states.len(), states[NUMBER].settings.mac, states[0].settings.mac),
        (2, Some(A), Some([0; 6]))
    );
    assert!(pf.port.virtual_functions("0000:ff:1f.7".parse().unwrap()).is_empty(), "of another card");
    let filters = Filters { addresses: vec![[2, 0, 0, 0, 0, 0xb]], vlans: vec![7] };
    let vf = of_function(&post, NicConfig { filters, mtu: 9000, ..config() }).unwrap();
    assert_eq!(vf.port.info().mac, Some(A));
    assert_eq!((pf.pools_of(A), pf.pools_of([2, 0, 0, 0, 0, 0xb]), pf.register(VFRE)), (2, 2, 0x82));
    assert_eq!(pf.register(VLVF), 1 << 31 | 2 << 12 | 7);
    // Long frames of 9026 bytes, untagged ones, broadcast, groups, no check sequence.
    let receives = pf.register(VMOLR + 4 * NUMBER);
    assert_eq!(receives, 1 << 31 | 1 << 28 | 1 << 27 | 1 << 25 | 1 << 24 | 1 << 16 | 9026);

    // Frames of the physical function go by the ring behind those of the virtual ones.
    let (mut rx, mut tx) = (pf.port.rx_queue(0).unwrap(), pf.port.tx_queue(0).unwrap());
    assert!(pf.chip.lock().deliver(pf.function.dma_view(), 7, &frame(200, 1)));
    assert_eq!(receive(&mut *rx), [frame(200, 1)]);
    assert_eq!(send(&mut *tx, &[frame(99, 1)]), 1);
    assert_eq!(pf.chip.lock().sent.pop().unwrap().bytes, frame(99, 1));
    assert_eq!(pf.function.dma_view().faults(), 0);
    assert_eq!((restarts(&pf.port.info()), restarts(&vf.port.info())), (0, 0));
}

#[test]
fn a_vlan_of_the_operators_is_the_only_one() {
    let post = post();
    let pf = physical(&post, "vlan=9,priority=3", config());
    let wants = |vlan| NicConfig { filters: Filters { addresses: vec![], vlans: vec![vlan] }, ..config() };
    let refused = of_function(&post, wants(7)).err().unwrap();
    assert!(refused.contains("refuses VLAN 7"), "{refused}");
    let vf = of_function(&post, config()).unwrap();
    assert_eq!(pf.register(VLVF), 1 << 31 | 2 << 12 | 9);
    assert_eq!(pf.register(VMVIR + 4 * NUMBER), 1 << 30 | 3 << 13 | 9);
    // The tag is taken out, and what has none does not come in.
    assert_eq!(pf.register(VMOLR + 4 * NUMBER) >> 24 & 0x41, 0x40);
    // Sources and tags of what it sends are looked at, sources of the other's too.
    assert_eq!(pf.register(DTXSWC), 1 << 31 | 2 << 8 | 3);
    drop(vf);
}

#[test]
fn what_is_not_trusted_is_refused() {
    let post = post();
    let _pf = physical(&post, "", config());
    let filters = Filters { addresses: vec![[2, 0, 0, 0, 0, 0xb]], vlans: vec![] };
    let refused = of_function(&post, NicConfig { filters, ..config() }).err().unwrap();
    assert!(refused.contains("address 02:00:00:00:00:0b") && refused.contains("trust"), "{refused}");
}

#[test]
fn a_restart_of_the_card_is_survived() {
    let post = post();
    let pf = physical(&post, "mac=02:00:00:00:00:0a", config());
    let vf = of_function(&post, config()).unwrap();
    pf.port.set_mtu(9000).unwrap();
    let good = |info: &crate::port::PortInfo| {
        restarts(info) > 0 && info.error.is_none() && info.link == LinkState::Up
    };
    vf.until("introduced anew", good);
    assert_eq!((pf.pools_of(A), pf.register(VFRE)), (2, 0x82));
    // The virtual function is reset: what it had is gone, until it introduces itself again.
    vf.port.set_mtu(9000).unwrap();
    assert_eq!((pf.pools_of(A), pf.register(VMOLR + 4 * NUMBER) & 0x3fff), (2, 9026));
    // A change of the link is passed on, and nothing to be afraid of.
    pf.chip.lock().set_link(pf.function.dma_view(), false);
    pf.until("link down", |info| info.link == LinkState::Down);
    let count = restarts(&vf.port.info());
    vf.until("heard of it", |info| info.error.is_none() && !post.lock().unwrap().message);
    assert_eq!(restarts(&vf.port.info()), count);
}

#[test]
fn functions_come_and_go() {
    let post = post();
    let pf = physical(&post, "", config());
    pf.function.set_virtual_functions(0);
    pf.until("restart without functions", |info| restarts(info) == 1 && info.error.is_none());
    assert_eq!(pf.register(MRQC), 0);
    let mut rx = pf.port.rx_queue(0).unwrap();
    assert!(pf.chip.lock().deliver(pf.function.dma_view(), 0, &frame(200, 1)));
    assert_eq!(receive(&mut *rx), [frame(200, 1)]);
    pf.function.set_virtual_functions(7);
    pf.until("restart with functions", |info| restarts(info) == 2 && info.error.is_none());
    assert_eq!(pf.register(MRQC), 3);

    let many = FakeFn::new(Shared::<Played82576>::new());
    many.set_virtual_functions(1);
    let refused = Played82576::open(NicConfig { queues: 2, ..config() }, many).err().unwrap().to_string();
    assert!(refused.contains("one queue") && refused.contains("n_rxq=1"), "{refused}");
}

#[test]
fn a_notice_does_not_overwrite_what_was_not_read() {
    let post = post();
    let pf = physical(&post, "", config());
    {
        // Has read what it was told when the card came up, and introduces itself.
        let mut post = post.lock().unwrap();
        (post.pf_was_read, post.asked, post.words[0]) = (true, true, 1);
    }
    pf.until("answered", |_| post.lock().unwrap().words[0] == 1 | 1 << 30);
    for up in [false, true, false] {
        pf.chip.lock().set_link(pf.function.dma_view(), up);
        pf.until("link", |info| (info.link == LinkState::Up) == up);
    }
    assert_eq!(post.lock().unwrap().words[0], 1 | 1 << 30, "still there");
    post.lock().unwrap().pf_was_read = true;
    pf.until("told once it has read", |_| post.lock().unwrap().words[0] == 0x100 | 1 << 29);
}

/// It keeps the words for itself, or asks for nonsense without end: the card goes on for everybody else.
#[test]
fn one_that_misbehaves_disturbs_nobody() {
    let post = post();
    let pf = physical(&post, "", config());
    let mut rx = pf.port.rx_queue(0).unwrap();
    for (hogs, words) in [(true, [1; 16]), (false, [u32::MAX; 16]), (false, [1; 16])] {
        {
            let mut post = post.lock().unwrap();
            (post.vf_has, post.asked, post.words) = (hogs, true, words);
        }
        pf.until("heard", |_| !post.lock().unwrap().asked);
        assert!(pf.chip.lock().deliver(pf.function.dma_view(), 7, &frame(200, 1)));
        assert_eq!(receive(&mut *rx), [frame(200, 1)]);
    }
    let info = pf.port.info();
    assert_eq!((restarts(&info), info.error, info.link), (0, None, LinkState::Up));

    // Reset without end: heard by and by, and others go on.
    for _ in 0..200 {
        post.lock().unwrap().vf_reset = true;
        pf.chip.lock().set_link(pf.function.dma_view(), true);
        std::thread::yield_now();
    }
    assert!(pf.chip.lock().deliver(pf.function.dma_view(), 7, &frame(201, 1)));
    assert_eq!(receive(&mut *rx), [frame(201, 1)]);
    // When it stops, it is served like everybody.
    post.lock().unwrap().asked = false;
    let vf = of_function(&post, config()).unwrap();
    assert_eq!((vf.port.info().link, restarts(&pf.port.info())), (LinkState::Up, 0));
}
