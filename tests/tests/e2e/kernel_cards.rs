//! Cards that the host guest's kernel keeps, as AF_XDP ports: frames go straight between the card's driver and the switch's memory.
//!
//! Needs a kernel whose drivers of emulated cards do zero-copy, which the one of the other scenarios does not.

use tests::guest::{Card, HostConfig, HostGuest};
use tests::lab::Lab;

use crate::nic_ports::{VIRTIO, both_ways, carry};
use crate::stage::PATIENCE;

/// The name of the network device of a card, once the kernel has made it; up, and receiving all addresses.
fn device(host: &mut HostGuest, card: usize) -> String {
    let address = host.addresses[card].clone();
    let find = format!(
        "for i in $(seq 100); do ls -d /sys/bus/pci/devices/{address}/net/* /sys/bus/pci/devices/{address}/virtio*/net/* 2>/dev/null | grep . && exit 0; \
         sleep 0.1; done; exit 1"
    );
    let path = host.guest.run(&find).unwrap();
    let name = path.trim().rsplit('/').next().unwrap().to_owned();
    host.guest.run(&format!("ip link set {name} up && ip link set {name} promisc on")).unwrap();
    name
}

fn add_port(host: &mut HostGuest, bridge: &str, device: &str, options: &str) {
    host.vsctl(&format!("add-port {bridge} {device} -- set Interface {device} type=afxdp {options}"))
        .unwrap();
    host.vsctl_until(&format!("get Interface {device} link_state"), PATIENCE, |text| text == "up").unwrap();
}

fn mode_in_use(host: &mut HostGuest, device: &str) -> String {
    host.vsctl(&format!("get Interface {device} status:xdp-mode-in-use")).unwrap().trim().to_owned()
}

/// Opens the ports of a pair in a mode, and says which came of it.
fn open_pair(host: &mut HostGuest, pair: usize, devices: &[String; 2], mode: &str) -> String {
    let bridge = format!("br{pair}");
    host.vsctl(&format!("--may-exist add-br {bridge}")).unwrap();
    for device in devices {
        host.vsctl(&format!("--if-exists del-port {device}")).unwrap();
        add_port(host, &bridge, device, &format!("options:xdp-mode={mode}"));
    }
    mode_in_use(host, &devices[1])
}

#[test]
fn the_kernels_cards_are_ports_without_a_copy() {
    let lab = Lab::open().unwrap();
    let cards =
        [(1, "igb", ""), (2, "igb", ""), (3, "virtio-net-pci", VIRTIO), (4, "virtio-net-pci", VIRTIO)];
    let cards = cards.map(|(number, model, properties)| Card::new(model, number, properties));
    let config = HostConfig { cards: cards.to_vec(), kernel_with_cards: true, ..HostConfig::default() };
    let mut host = HostGuest::boot_with(&lab, &config).unwrap();
    host.load_igb().unwrap();
    let [igb, virtio] = [0, 1].map(|pair| [2 * pair, 2 * pair + 1].map(|card| device(&mut host, card)));
    for (pair, devices) in [&igb, &virtio].into_iter().enumerate() {
        assert_eq!(open_pair(&mut host, pair, devices, "best-effort"), "native-with-zerocopy");
        both_ways(&host, 2 * pair, 2 * pair + 1, 1518);
        // Nothing to do: the worker sleeps, and the next frame wakes it, and the kernel where that wants to be woken.
        host.vsctl_until("--format=csv pmd", PATIENCE, |text| text.contains("sleeping")).unwrap();
        carry((&host.wires[2 * pair], 0), (&host.wires[2 * pair + 1], 1), [60]);
    }

    // Frames of several chunks these drivers bring only by way of a copy.
    host.vsctl(&format!("set Interface {} mtu_request=9000", virtio[0])).unwrap();
    let error = format!("get Interface {} error", virtio[0]);
    host.vsctl_until(&error, PATIENCE, |text| text.contains("xdp-mode=native")).unwrap();
    host.vsctl(&format!("clear Interface {} mtu_request", virtio[0])).unwrap();
    for device in &virtio {
        host.vsctl(&format!("del-port {device}")).unwrap();
        host.guest.run(&format!("ip link set {device} mtu 9000")).unwrap();
    }
    assert_eq!(open_pair(&mut host, 1, &virtio, "best-effort"), "native");
    let why = host.vsctl(&format!("get Interface {} status:xdp-fallback", virtio[0])).unwrap();
    assert!(why.contains("zero-copy"), "{why}");
    both_ways(&host, 2, 3, 9014);
    for mode in ["native", "generic"] {
        assert_eq!(open_pair(&mut host, 1, &virtio, mode), mode);
        carry((&host.wires[2], 2), (&host.wires[3], 3), [60, 1518, 4096, 9014]);
    }
}
