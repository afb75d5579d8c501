//! Virtual functions of a card, in a guest with an IOMMU: the physical function is the kernel's, and then the switch's.

use tests::guest::{Card, HostConfig, HostGuest, Wire};
use tests::lab::Lab;

use crate::nic_ports::{JUMBO, add_port, add_port_at, carry, frame, statistic};
use crate::stage::PATIENCE;

/// A frame with a tag.
fn tagged(len: usize, from: u8, to: u8, vlan: u8) -> Vec<u8> {
    let mut frame = frame(len, from, to, 0);
    frame.splice(12..12, [0x81, 0, 0, vlan]);
    frame
}

fn next_tagged(wire: &Wire) -> Vec<u8> {
    loop {
        let frame = wire.receive().unwrap();
        if frame.get(12..14) == Some(&[0x81, 0][..]) {
            return frame;
        }
    }
}

/// The physical function's network device is up, with a link, as it must be before there are virtual functions.
fn physical_function_up(host: &mut HostGuest, card: usize) -> String {
    host.load_igb().unwrap();
    let address = &host.addresses[card];
    let device = host.guest.run(&format!("ls /sys/bus/pci/devices/{address}/net")).unwrap().trim().to_owned();
    link_up(host, &device);
    device
}

fn link_up(host: &mut HostGuest, device: &str) {
    let wait = format!(
        "for i in $(seq 300); do [ $(cat /sys/class/net/{device}/carrier) = 1 ] && exit 0; sleep 0.1; done; exit 1"
    );
    host.guest.run(&format!("ip link set {device} mtu 9000 up; ({wait})")).unwrap();
}

/// Frames of these lengths, from each wire to the other.
fn both(host: &HostGuest, lengths: &[usize]) {
    for (from, to) in [(0, 1), (1, 0)] {
        carry((&host.wires[from], from as u8), (&host.wires[to], to as u8), lengths.iter().copied());
    }
}

/// Makes two virtual functions and returns the address of the second, set up by the physical function's driver.
fn function_one(host: &mut HostGuest, card: &str) -> String {
    let refused = host.vsctl(&format!("nic vfs {card} 100")).unwrap_err().to_string();
    assert!(refused.contains("it can have 7"), "{refused}");
    let made = host.vsctl(&format!("--format=csv nic vfs {card} 2")).unwrap();
    let columns: Vec<&str> = made.lines().last().unwrap().split(',').collect();
    // Nobody drives it yet.
    let ["1", function, "-", "-", ..] = columns[..] else { panic!("{made}") };
    let refused = host.vsctl(&format!("nic set-vf {function} link=down")).unwrap_err().to_string();
    assert!(
        refused.contains("setting link of virtual function 1") && refused.contains("cannot do that"),
        "{refused}"
    );
    // An address that the host has given lets the function ask for further ones only if it is trusted.
    let wanted = "mac=52:54:00:00:07:01 trust=on spoofchk=off";
    host.vsctl(&format!("nic set-vf {function} {wanted}")).unwrap();
    let known = host.vsctl(&format!("--format=csv nic vfs {card}")).unwrap();
    let columns: Vec<&str> = known.lines().last().unwrap().split(',').collect();
    assert_eq!(
        (columns[1], &columns[6..10]),
        (function, &["52:54:00:00:07:01", "0", "yes", "no"][..]),
        "{known}"
    );
    function.to_owned()
}

#[test]
fn a_virtual_function_is_a_port() {
    let lab = Lab::open().unwrap();
    let cards = vec![Card::new("igb", 1, ""), Card::new("e1000e", 2, "")];
    let config = HostConfig { cards, kernel_with_cards: true, ..HostConfig::default() };
    let mut host = HostGuest::boot_with(&lab, &config).unwrap();
    let device = physical_function_up(&mut host, 0);
    let card = host.addresses[0].clone();
    let function = function_one(&mut host, &card);

    host.vsctl("add-br br0").unwrap();
    add_port(&mut host, "br0", 1, JUMBO);
    // What goes to the other wire is for 52:54:00:aa:00:01.
    let filter = format!("{JUMBO} 'options:vf-filter=\"mac=52:54:00:aa:00:01,vlan=7\"'");
    add_port_at(&mut host, "br0", 0, &function, &filter);
    let refused = host.vsctl(&format!("nic vfs {card} 0")).unwrap_err().to_string();
    assert!(refused.contains(&format!("{function} would vanish")), "{refused}");
    let every: Vec<usize> =
        (60..=1518).chain([64; 400]).chain([2047, 2048, 2049, 4095, 4096, 4097, 8999, 9000, 9032]).collect();
    both(&host, &every);

    // Of tagged frames it gets those of the VLANs it asked for.
    for vlan in [8, 7] {
        host.wires[0].send(&tagged(100, 0, 1, vlan)).unwrap();
    }
    assert_eq!(next_tagged(&host.wires[1]), tagged(100, 0, 1, 7));

    // The worker sleeps, and an interrupt of the virtual function wakes it.
    host.vsctl_until("--format=csv pmd", PATIENCE, |text| text.contains("sleeping")).unwrap();
    both(&host, &[60]);
    host.vsctl_until("get Interface up0 statistics:rx_good_packets", PATIENCE, |n| {
        n.trim().parse().is_ok_and(|n: usize| n > every.len())
    })
    .unwrap();
    assert!(statistic(&mut host, 0, "tx_good_packets") > every.len() as u64);
    // The kernel says zeros for it, as this driver counts nothing for its functions: not told, then.
    let counted = host.vsctl(&format!("--format=csv nic vfs {card}")).unwrap();
    assert!(counted.lines().last().unwrap().ends_with(",-,-"), "{counted}");

    // The physical function goes down and comes back: the virtual one is introduced to it again.
    host.guest.run(&format!("ip link set {device} down")).unwrap();
    host.vsctl_until("get Interface up0 link_state error", PATIENCE, |text| {
        text.starts_with("down") && text.contains("ip link set")
    })
    .unwrap();
    link_up(&mut host, &device);
    host.vsctl_until("get Interface up0 link_state error", PATIENCE, |text| text.trim() == "up\n[]").unwrap();
    both(&host, &[60, 1518, 9000]);

    // It is taken away while it is a port.
    host.guest.run(&format!("echo 0 > /sys/bus/pci/devices/{card}/sriov_numvfs")).unwrap();
    host.vsctl_until("get Interface up0 error", PATIENCE, |text| {
        text.contains("no PCI device") || text.contains("removed")
    })
    .unwrap();
    host.vsctl("del-port br0 up0").unwrap();
    by_the_switch_itself(&mut host, &card, &filter);
}

/// The switch drives the physical function too, and answers its virtual ones.
fn by_the_switch_itself(host: &mut HostGuest, card: &str, filter: &str) {
    host.vsctl("add-br br1").unwrap();
    let settings = "'options:vf1=\"mac=52:54:00:00:07:01,trust=on,spoofchk=off\"'";
    add_port_at(host, "br1", 2, card, &format!("{JUMBO} {settings}"));
    let refused = host.vsctl(&format!("nic vfs {card} 2")).unwrap_err().to_string();
    assert!(refused.contains("echo 1 > /sys/module/vfio_pci/parameters/enable_sriov"), "{refused}");
    host.guest.run("echo 1 > /sys/module/vfio_pci/parameters/enable_sriov").unwrap();
    let made = host.vsctl(&format!("--format=csv nic vfs {card} 2")).unwrap();
    let columns: Vec<&str> = made.lines().last().unwrap().split(',').collect();
    let ["1", function, "vfio-pci", ..] = columns[..] else { panic!("{made}") };
    // The port of the card sees within a second that it has them now.
    host.vsctl_until("get Interface up2 status:restarts link_state error", PATIENCE, |text| {
        text.ends_with("\"1\"\nup\n[]")
    })
    .unwrap();
    add_port_at(host, "br0", 0, function, filter);
    assert_eq!(host.vsctl("get Interface up0 mac_in_use").unwrap().trim(), "\"52:54:00:00:07:01\"");
    let known = host.vsctl(&format!("--format=csv nic vfs {card}")).unwrap();
    let said: Vec<&str> = known.lines().last().unwrap().split(',').collect();
    // In use; address, VLAN, trust, spoof check; the card cannot set the link.
    assert_eq!(said[5..11], ["yes", "52:54:00:00:07:01", "0", "yes", "no", "-"], "{known}");
    both(host, &[60, 1518, 2048, 9000, 9032]);
    both(host, &[64; 100]);
    for vlan in [8, 7] {
        host.wires[0].send(&tagged(100, 0, 1, vlan)).unwrap();
    }
    assert_eq!(next_tagged(&host.wires[1]), tagged(100, 0, 1, 7));
    // What is for nobody is the physical function's.
    let before = statistic(host, 2, "rx_packets");
    host.wires[0].send(&frame(60, 0, 9, 0)).unwrap();
    host.vsctl_until("get Interface up2 statistics:rx_packets", PATIENCE, |n| {
        n.trim().parse().is_ok_and(|n: u64| n > before)
    })
    .unwrap();
    let refused = host.vsctl(&format!("nic set-vf {function} trust=off")).unwrap_err().to_string();
    assert!(refused.contains("options:vf1="), "{refused}");
    // The card is reset under both, and both come back.
    host.guest.run(&format!("echo 1 > /sys/bus/pci/devices/{card}/reset")).unwrap();
    for (port, before) in [("up2", "\"1\""), ("up0", "\"0\"")] {
        let state = format!("get Interface {port} status:restarts link_state error");
        let is_back = |text: &str| !text.starts_with(before) && text.ends_with("up\n[]");
        host.vsctl_until(&state, PATIENCE, is_back).unwrap();
    }
    both(host, &[60, 1518]);
}
