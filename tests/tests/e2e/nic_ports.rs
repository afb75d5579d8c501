//! Network cards as ports, in a guest with an IOMMU: what goes into one card's wire comes out of another's, byte for byte.

use serde_json::json;
use tests::guest::{Card, HostConfig, HostGuest, Wire};
use tests::lab::Lab;

use crate::nic_errors;
use crate::stage::PATIENCE;

pub(crate) const VIRTIO: &str = ",disable-legacy=on,iommu_platform=on,ats=on";

/// Frames on the wire that have not come out yet. A wire's socket takes about ten.
const WINDOW: usize = 8;

/// An experimental Ethernet type (IEEE 802), so that frames of the guest's kernel are told apart.
pub(crate) const TYPE: [u8; 2] = [0x88, 0xb5];

pub(crate) fn frame(len: usize, from: u8, to: u8, number: usize) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0xaa, 0, to, 0x52, 0x54, 0, 0xaa, 0, from, TYPE[0], TYPE[1]];
    frame.extend((frame.len()..len).map(|i| (i * 31 + number * 7) as u8));
    frame
}

/// Sends frames of these lengths in one wire and expects each, whole, out of the other.
pub(crate) fn carry(from: (&Wire, u8), to: (&Wire, u8), lengths: impl IntoIterator<Item = usize>) {
    let frames: Vec<_> =
        lengths.into_iter().enumerate().map(|(i, len)| frame(len, from.1, to.1, i)).collect();
    let next = || loop {
        let frame = to.0.receive().unwrap();
        if frame.get(12..14) == Some(&TYPE[..]) {
            return frame;
        }
    };
    for window in frames.chunks(WINDOW) {
        window.iter().for_each(|frame| from.0.send(frame).unwrap());
        for sent in window {
            let got = next();
            assert!(got == *sent, "{} bytes went in, {} came out otherwise", sent.len(), got.len());
        }
    }
}

/// All that every pair of cards must do, on a bridge of their own.
pub(crate) fn both_ways(host: &HostGuest, a: usize, b: usize, longest: usize) {
    let ends = |i: usize| (&host.wires[i], i as u8);
    for (from, to) in [(a, b), (b, a)] {
        carry(ends(from), ends(to), 60..=1518);
        carry(ends(from), ends(to), std::iter::repeat_n(64, 400));
        if longest > 1518 {
            carry(ends(from), ends(to), 1519..=longest);
        }
    }
}

pub(crate) fn add_port(host: &mut HostGuest, bridge: &str, card: usize, more: &str) {
    let address = host.addresses[card].clone();
    add_port_at(host, bridge, card, &address, more);
}

/// Makes the function at an address the port `up{card}` and waits for its link.
pub(crate) fn add_port_at(host: &mut HostGuest, bridge: &str, card: usize, address: &str, more: &str) {
    host.vsctl(&format!("nic bind {address}")).unwrap();
    let line =
        format!("add-port {bridge} up{card} -- set Interface up{card} type=pmd options:pci={address} {more}");
    host.vsctl(&line).unwrap();
    host.vsctl_until(&format!("get Interface up{card} link_state error"), PATIENCE, |text| text == "up\n[]")
        .unwrap();
}

fn flap(host: &mut HostGuest, card: usize) {
    for (up, word) in [(false, "down"), (true, "up")] {
        host.guest.monitor("set_link", &json!({"name": format!("card{card}"), "up": up})).unwrap();
        host.vsctl_until(&format!("get Interface up{card} link_state"), PATIENCE, |text| text == word)
            .unwrap();
    }
}

pub(crate) fn statistic(host: &mut HostGuest, card: usize, counter: &str) -> u64 {
    let text = host.vsctl(&format!("get Interface up{card} statistics:{counter}")).unwrap();
    text.trim().parse().unwrap()
}

pub(crate) const JUMBO: &str = "mtu_request=9018";
/// The longest that vmxnet3 knows.
const JUMBO_9000: &str = "mtu_request=9000";

/// Frames that `both_ways` sends from one card to the other, at least.
const CARRIED: u64 = 1459 + 400;

/// Boots with these cards and makes ports of them with these settings, each two on a bridge; carries frames of all sizes through each pair.
fn ports(lab: &Lab, cards: &[Card], settings: &[&str]) -> HostGuest {
    let programs = vec!["/usr/bin/setpriv".into()];
    let config = HostConfig { cards: cards.to_vec(), programs, ..HostConfig::default() };
    let mut host = HostGuest::boot_with(lab, &config).unwrap();
    for (card, more) in settings.iter().enumerate() {
        host.vsctl(&format!("--may-exist add-br br{}", card / 2)).unwrap();
        add_port(&mut host, &format!("br{}", card / 2), card, more);
    }
    for (pair, more) in settings.chunks(2).enumerate() {
        let longest = match more[0] {
            jumbo if jumbo.contains(JUMBO) => 9032,
            jumbo if jumbo.contains(JUMBO_9000) => 9014,
            _ => 1518,
        };
        both_ways(&host, 2 * pair, 2 * pair + 1, longest);
        (0..3).for_each(|_| flap(&mut host, 2 * pair + 1));
        // Nothing to do: the worker sleeps, and the next frame wakes it.
        host.vsctl_until("--format=csv pmd", PATIENCE, |text| text.contains("sleeping")).unwrap();
        let end = |card: usize| (&host.wires[card], card as u8);
        carry(end(2 * pair), end(2 * pair + 1), [60]);
    }
    let name = "get Interface up0 statistics:rx_packets";
    host.vsctl_until(name, PATIENCE, |n| n.parse().is_ok_and(|n: u64| n >= CARRIED)).unwrap();
    assert!(statistic(&mut host, 1, "tx_packets") >= CARRIED);
    host
}

#[test]
fn intel_and_vmware_cards_are_ports() {
    let lab = Lab::open().unwrap();
    let cards = [(1, "e1000e"), (2, "e1000e"), (3, "igb"), (4, "igb"), (5, "vmxnet3"), (6, "vmxnet3")];
    let cards = cards.map(|(number, model)| Card::new(model, number, ""));
    let spread = format!("{JUMBO} options:n_rxq=2");
    let spread_9000 = format!("{JUMBO_9000} options:n_rxq=2");
    let mut host = ports(&lab, &cards, &[JUMBO, &spread, JUMBO, &spread, JUMBO_9000, &spread_9000]);
    // What the card counts itself agrees with what the switch counts.
    for (card, counter) in [(1, "tx_good_packets"), (3, "tx_good_packets"), (5, "tx_unicast_packets")] {
        let own = statistic(&mut host, card, counter);
        let ours = statistic(&mut host, card, "tx_packets");
        assert!(own >= CARRIED && ours >= CARRIED, "{own} and {ours} of {CARRIED}");
    }
    // The others are reset by power state alone in QEMU, which changes nothing.
    is_reset_from_outside(&mut host, 3);
    for (pair, longest) in [(0, 9032), (2, 9032), (4, 9014)] {
        another_mtu(&mut host, pair + 1);
        let end = |card: usize| (&host.wires[card], card as u8);
        carry(end(pair), end(pair + 1), [60, 1518, 5000, longest]);
    }
    // Pulled in the middle of traffic: each port says so, and those that are left go on.
    for card in [1, 3] {
        noise(&host.wires[card]);
        pull(&mut host, card);
    }
    let end = |card: usize| (&host.wires[card], card as u8);
    carry(end(4), end(5), [60, 1518]);
}

/// The function is reset behind the driver's back, which loses all that its registers held.
fn is_reset_from_outside(host: &mut HostGuest, card: usize) {
    let restarts = format!("get Interface up{card} status:restarts link_state error");
    host.vsctl_until(&restarts, PATIENCE, |text| text == "\"0\"\nup\n[]").unwrap();
    let address = host.addresses[card].clone();
    host.guest.run(&format!("echo 1 > /sys/bus/pci/devices/{address}/reset")).unwrap();
    host.vsctl_until(&restarts, PATIENCE, |text| text != "\"0\"\nup\n[]" && text.ends_with("up\n[]"))
        .unwrap();
}

/// Frames that nobody waits for.
fn noise(wire: &Wire) {
    let mut frame = frame(1000, 0xfe, 0xff, 0);
    frame[13] = 0xb6;
    (0..WINDOW).for_each(|_| wire.send(&frame).unwrap());
}

/// The MTU changes while frames come; most of them are lost, and none does harm.
fn another_mtu(host: &mut HostGuest, card: usize) {
    let was = host.vsctl(&format!("get Interface up{card} mtu_request")).unwrap();
    for mtu in ["1500", was.trim()] {
        noise(&host.wires[card]);
        host.vsctl(&format!("set Interface up{card} mtu_request={mtu}")).unwrap();
        host.vsctl_until(&format!("get Interface up{card} mtu link_state"), PATIENCE, |text| {
            text == format!("{mtu}\nup")
        })
        .unwrap();
    }
}

/// The card is taken out while its port is in use.
fn pull(host: &mut HostGuest, card: usize) {
    host.guest.monitor("device_del", &json!({"id": format!("card{card}")})).unwrap();
    host.vsctl_until(&format!("get Interface up{card} error"), PATIENCE, |text| {
        text.contains("no PCI device") || text.contains("removed")
    })
    .unwrap();
}

#[test]
fn virtio_cards_are_ports() {
    let lab = Lab::open().unwrap();
    let packed = format!("{VIRTIO},packed=on");
    let cards = [(1, VIRTIO), (2, VIRTIO), (3, &packed), (4, &packed)];
    let cards = cards.map(|(number, properties)| Card::new("virtio-net-pci", number, properties));
    let mut host = ports(&lab, &cards, &["", "", JUMBO, JUMBO]);
    let first = host.addresses[0].clone();

    // In use, it is not given away; else back and forth as often as one likes.
    let (status, text) = host.try_vsctl(&format!("nic unbind {first}")).unwrap();
    assert!(status != 0 && text.contains("remove that port"), "{text}");
    for _ in 0..3 {
        host.vsctl("del-port br0 up0").unwrap();
        host.vsctl(&format!("nic unbind {first}")).unwrap();
        // Not bound: the error says what to do.
        let line = format!("add-port br0 up0 -- set Interface up0 type=dpdk options:dpdk-devargs={first}");
        let (_, error) = host.try_vsctl(&line).unwrap();
        assert!(error.contains(&format!("vsctl nic bind {first}")), "{error}");
        host.vsctl("del-port br0 up0").unwrap();
        add_port(&mut host, "br0", 0, "");
        carry((&host.wires[0], 0), (&host.wires[1], 1), [60, 1000, 1518]);
    }

    // Pulled while in use: the port says so, the others go on.
    pull(&mut host, 3);
    carry((&host.wires[0], 0), (&host.wires[1], 1), [60, 1518]);

    host.vsctl("del-port br1 up2").unwrap();
    nic_errors::settings_that_cannot_be(&mut host, 2, 1);
    nic_errors::too_little_memory_may_be_locked(&mut host, 2);
    carry((&host.wires[0], 0), (&host.wires[1], 1), [60, 1518]);
}
