//! Taking network cards from the kernel and giving them back, in a guest with an IOMMU.

use tests::guest::{Card, HostGuest};
use tests::lab::Lab;

const VIRTIO: &str = ",disable-legacy=on,iommu_platform=on,ats=on";

#[test]
fn cards_are_taken_from_the_kernel_and_given_back() {
    let lab = Lab::open().unwrap();
    let cards = [Card::new("virtio-net-pci", 1, VIRTIO), Card::new("e1000e", 2, "")];
    let mut host = HostGuest::boot(&lab, &cards).unwrap();

    let [virtio, e1000e] = [host.addresses[0].clone(), host.addresses[1].clone()];

    let listed = host.vsctl("--format=csv nic list").unwrap();
    assert!(listed.contains(&format!("{virtio},1af4:1041,virtio-pci,virtio-net,eth0")), "{listed}");
    assert!(listed.contains(&format!("{e1000e},8086:10d3,-,e1000e,-")), "{listed}");
    let shown = host.vsctl(&format!("nic show {e1000e}")).unwrap();
    assert!(shown.contains("GT/s") && shown.contains("mpps_64"), "{shown}");

    // The only way to the host stays, unless it is said twice.
    let route = "ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up; ip route add default via 10.9.0.2";
    host.guest.run(route).unwrap();
    let (status, text) = host.try_vsctl(&format!("nic bind {virtio}")).unwrap();
    assert!(status != 0 && text.contains("default route") && text.contains("eth0"), "{text}");
    host.vsctl(&format!("nic bind {virtio} --force")).unwrap();

    for _ in 0..3 {
        host.vsctl(&format!("nic unbind {virtio}")).unwrap();
        host.guest.run("[ -e /sys/class/net/eth0 ]").unwrap();
        host.vsctl(&format!("nic bind {virtio}")).unwrap();
        host.guest.run("[ ! -e /sys/class/net/eth0 ]").unwrap();
    }
    let listed = host.vsctl("--format=csv nic list").unwrap();
    assert!(listed.contains(&format!("{virtio},1af4:1041,vfio-pci,virtio-net,-")), "{listed}");

    let bad = [("0000:77:00.0", "nic list"), ("nonsense", "0000:05:00.0"), ("0000:00:00.0", "Ethernet")];
    for (address, word) in bad {
        let (status, text) = host.try_vsctl(&format!("nic bind {address}")).unwrap();
        assert!(status != 0 && text.contains(word), "{address}: {text}");
    }
}
