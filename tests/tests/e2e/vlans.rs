//! VLAN modes of ports, changed while both guests run: access, trunk, native-untagged.

use tests::guest::Socket;

use crate::stage::{PATIENCE, Stage};

#[test]
fn vlans_separate_and_join_guests() {
    let stage = Stage::open();
    let switch = &stage.switch;
    let cards = [
        (stage.vhost_port_on("br0", "vma", Socket::SwitchListens, 0xa, "tag=10"), "10.1.0.1"),
        (stage.vhost_port_on("br0", "vmb", Socket::SwitchListens, 0xb, "tag=10"), "10.1.0.2"),
    ];
    let [mut a, mut b] = stage.guests(cards);

    // Two access ports of one VLAN.
    a.reaches("10.1.0.2", PATIENCE).unwrap();

    // Of two VLANs: nothing passes, not even between neighbours that know each other already.
    switch.vsctl("set Port vmb tag=20").unwrap();
    assert!(a.is_cut_off("10.1.0.2", 5).unwrap(), "VLAN 10 leaks into VLAN 20");
    assert!(b.is_cut_off("10.1.0.1", 5).unwrap(), "VLAN 20 leaks into VLAN 10");

    // A trunk: the guest tags its own frames and sees those of the other side tagged.
    switch.vsctl("clear Port vmb tag -- set Port vmb vlan_mode=trunk trunks=10,30").unwrap();
    assert!(a.is_cut_off("10.1.0.2", 5).unwrap(), "an untagged frame entered VLAN 10 through a trunk");
    b.run("ip addr flush dev eth0").unwrap();
    for vlan in [10, 20] {
        b.run(&format!(
            "ip link add link eth0 name eth0.{vlan} type vlan id {vlan} && ip link set eth0.{vlan} up"
        ))
        .unwrap();
    }
    b.run("ip addr add 10.1.0.2/24 dev eth0.10").unwrap();
    b.reaches("10.1.0.1", PATIENCE).unwrap();
    b.fetches_intact(&mut a, "10.1.0.1", 4).unwrap();

    // A VLAN the trunk does not carry is not let in, even where an access port for it exists.
    switch.vsctl("set Port vma tag=20").unwrap();
    b.run("ip addr flush dev eth0.10; ip addr add 10.1.0.2/24 dev eth0.20").unwrap();
    assert!(b.is_cut_off("10.1.0.1", 5).unwrap(), "the trunk carries VLAN 20, which it does not list");

    // Native-untagged: untagged frames belong to the port's tag, the other VLANs stay tagged.
    switch.vsctl("set Port vmb vlan_mode=native-untagged tag=20 trunks=10,20").unwrap();
    b.run("ip addr flush dev eth0.20; ip addr add 10.1.0.2/24 dev eth0").unwrap();
    b.reaches("10.1.0.1", PATIENCE).unwrap();

    // Back to no VLAN at all.
    switch.vsctl("clear Port vmb tag vlan_mode trunks -- clear Port vma tag").unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
}
