//! The driver over a function that is played.

use super::mailbox::{
    ADD_ADDRESS, ADD_VLAN, ALL_MULTICAST, CLEAR_ADDRESSES, SET_ADDRESS, SET_LONGEST, SET_MULTICAST,
    SET_PROMISCUOUS, SET_VLAN,
};
use super::model::PlayedVf;
use super::registers::*;
use super::*;
use crate::nic::Filters;
use crate::nic::intel::Context;
use crate::nic::intel::model::{MAC, Shared};
use crate::nic::intel::suite::{Bench, bench, config, intel_suite};
use crate::nic::test_cards::{frame, receive, restarts, send};
use crate::pci::FakeFn;
use crate::port::LinkState;

intel_suite!(PlayedVf);

/// Opens a port over a physical function that is as `set` makes it.
fn over(config: NicConfig, set: impl FnOnce(&mut PlayedVf)) -> Result<Bench<PlayedVf>, String> {
    let chip = Shared::<PlayedVf>::new();
    set(&mut chip.lock().own);
    let function = FakeFn::new(chip.clone());
    let port = open(config, function.clone()).map_err(|error| error.to_string())?;
    Ok(Bench { chip, function, port })
}

fn firsts(bench: &Bench<PlayedVf>) -> Vec<u32> {
    bench.chip.lock().own.asked.iter().map(|[first, ..]| *first).collect()
}

#[test]
fn the_card_is_told_where_a_checksum_goes() {
    let bench = bench::<PlayedVf>(config());
    for (start, offset) in [(34, 16), (54, 6)] {
        assert_eq!(bench.sum(300, start, offset).checksum, Some(Context::Sum { start, offset }));
    }
}

#[test]
fn the_physical_function_is_asked_for_what_is_its_own() {
    let filters = Filters { addresses: vec![[2, 0, 0, 0, 0, 9]], vlans: vec![7, 8] };
    // It also has things to say of its own meanwhile.
    let bench = over(NicConfig { filters, mtu: 9000, ..config() }, |own| own.talks = true).unwrap();
    assert_eq!(bench.port.info().mac, Some(MAC));
    let asked = bench.chip.lock().own.asked.clone();
    assert_eq!(asked[1][..2], [SET_LONGEST, 9026]);
    let wanted = [
        mailbox::RESET,
        SET_LONGEST,
        SET_ADDRESS | CLEAR_ADDRESSES,
        SET_ADDRESS | ADD_ADDRESS,
        SET_VLAN | ADD_VLAN,
        SET_VLAN | ADD_VLAN,
        SET_PROMISCUOUS | ALL_MULTICAST,
    ];
    assert_eq!(firsts(&bench), wanted);
    assert_eq!(bench.chip.lock().own.addresses(), [MAC, [2, 0, 0, 0, 0, 9]]);
    assert_eq!((asked[4][1], asked[5][1]), (7, 8));
}

#[test]
fn without_an_address_it_chooses_one_and_keeps_it() {
    let bench = over(config(), |own| own.no_address = true).unwrap();
    let mac = bench.port.info().mac.unwrap();
    assert_eq!((mac[0] & 3, bench.chip.lock().own.addresses()), (2, vec![mac]));
    bench.chip.lock().own.forget();
    bench.until("restart", |info| restarts(info) == 1 && info.error.is_none());
    assert_eq!(bench.port.info().mac, Some(mac));
}

#[test]
fn groups_are_named_where_not_all_are_given() {
    let bench = over(config(), |own| own.refuses.push(SET_PROMISCUOUS | ALL_MULTICAST)).unwrap();
    let last = *bench.chip.lock().own.asked.last().unwrap();
    // Bits 36 to 47 of 33:33:00:00:00:01, :02, and 01:00:5e:00:00:01.
    assert_eq!(last, [SET_MULTICAST | 3 << 16, 0x0020_0010, 0x0010]);
}

#[test]
fn what_is_refused_says_what_to_do() {
    let error = |set: fn(&mut PlayedVf)| over(config(), set).err().unwrap();
    let text = error(|own| own.refuses.push(SET_LONGEST));
    assert!(text.contains("frames of 1526 bytes") && text.contains("mtu_request"), "{text}");
    let text = error(|own| (own.no_address, own.refuses) = (true, vec![SET_ADDRESS]));
    assert!(text.contains("nic set-vf"), "{text}");
    let text = error(PlayedVf::go_down);
    assert!(text.contains("is down") && text.contains("ip link set"), "{text}");
    let text = error(|own| own.silent = true);
    assert!(text.contains("does not answer"), "{text}");
    let two = over(NicConfig { queues: 2, ..config() }, |_| ()).err().unwrap();
    assert!(two.contains("1 to 1 queues"), "{two}");
}

/// The card is reset under its driver: everything was forgotten, so everything is asked for again.
#[test]
fn a_reset_of_the_physical_function_is_survived() {
    let bench = bench::<PlayedVf>(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    bench.chip.lock().own.go_down();
    let info = bench.until("down", |info| info.error.is_some());
    assert_eq!(info.link, LinkState::Down);
    assert!(info.error.unwrap().contains("ip link set"));
    assert_eq!(send(&mut *tx, &[frame(60, 0)]), 0);
    bench.chip.lock().own.come_back();
    bench.until("up", |info| info.error.is_none() && info.link == LinkState::Up);
    assert_eq!(firsts(&bench)[..2], [mailbox::RESET, SET_LONGEST]);
    assert!(bench.deliver(&frame(60, 3)));
    assert_eq!(receive(&mut *rx), [frame(60, 3)]);
    assert_eq!(send(&mut *tx, &[frame(61, 0)]), 1);
    assert_eq!(bench.chip.lock().sent.pop().unwrap().bytes, frame(61, 0));
}

/// The card was reset and is back before anybody looked; or the function was reset from outside.
#[test]
fn what_has_happened_meanwhile_is_noticed() {
    let bench = bench::<PlayedVf>(config());
    let what: [fn(&Bench<PlayedVf>); 3] = [
        |bench| bench.chip.lock().own.come_back(),
        |bench| bench.chip.lock().own.forget(),
        |bench| {
            bench.chip.lock().registers.clear();
        },
    ];
    for (count, happens) in (1..).zip(what) {
        happens(&bench);
        bench.until("restart", |info| restarts(info) == count && info.error.is_none());
        assert_eq!(firsts(&bench)[..2], [mailbox::RESET, SET_LONGEST]);
    }
}

#[test]
fn a_tag_that_was_taken_out_is_put_back() {
    let bench = bench::<PlayedVf>(NicConfig { mtu: 9000, ..config() });
    let mut rx = bench.port.rx_queue(0).unwrap();
    for len in [60, 200, 1514, 5000] {
        let mut wanted = frame(len, len);
        let dma = bench.function.dma_view();
        assert!(bench.chip.lock().deliver_with(dma, 0, &wanted, Some(0x2007)));
        wanted.splice(12..12, [0x81, 0, 0x20, 7]);
        assert!(receive(&mut *rx) == [wanted], "{len}");
    }
}

#[test]
fn counters_go_round() {
    let bench = bench::<PlayedVf>(config());
    let count = |register: usize, value: u32| {
        bench.chip.lock().registers.insert(register, value);
        bench.port.info().counters
    };
    // A reset clears registers here; what was counted before it stays.
    count(GOOD_SENT, u32::MAX - 9);
    let counters = count(GOOD_SENT, 5);
    assert!(counters.contains(&("tx_good_packets", u64::from(u32::MAX) + 6)), "{counters:?}");
}
