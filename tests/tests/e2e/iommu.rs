//! Guests whose network card is behind an IOMMU: the switch sees I/O addresses, asks QEMU what they mean, and is told when they do
//! not mean it any more, while traffic runs.

use pmd::virtio::features::VIRTIO_F_ACCESS_PLATFORM;
use tests::guest::{GuestConfig, Nic, Socket};

use crate::stage::{PATIENCE, Stage};

/// Every packet is mapped before, and unmapped after, so each costs an update and an invalidation.
#[test]
fn traffic_while_every_packet_is_mapped_anew() {
    traffic("iommu.strict=1", "");
}

/// Unmapped pages are taken back a batch at a time, and with them all that the card knew, its rings too, which lie in pieces.
#[test]
fn traffic_while_everything_is_taken_back_again_and_again_packed() {
    traffic("iommu.strict=0", "packed=on,rx_queue_size=1024,tx_queue_size=1024");
}

fn traffic(kernel: &str, properties: &str) {
    let stage = Stage::open();
    let card =
        Nic { properties: properties.to_owned(), ..stage.vhost_port("vma", Socket::SwitchListens, 0xa) };
    let first = GuestConfig::new("guest-iommu", card).with_iommu(kernel);
    let second = GuestConfig::new("guest-plain", stage.vhost_port("vmb", Socket::SwitchListens, 0xb));
    let [mut a, mut b] = stage.guests_of([(first, "10.1.0.1"), (second, "10.1.0.2")]);
    let status = |key: &str| stage.switch.vsctl(&format!("get Interface vma status:{key}")).unwrap();
    let features = status("features");
    let features = u64::from_str_radix(features.trim().trim_matches('"').trim_start_matches("0x"), 16);
    assert!(features.unwrap() & VIRTIO_F_ACCESS_PLATFORM != 0);

    a.reaches("10.1.0.2", PATIENCE).unwrap();
    assert_eq!(a.ping("10.1.0.2", 20).unwrap(), 20);
    assert_eq!(b.ping("10.1.0.1", 20).unwrap(), 20);
    b.fetches_intact(&mut a, "10.1.0.1", 4).unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 4).unwrap();
    // Nothing was lost for want of a translation, and there were some.
    let statistics = stage.switch.vsctl("get Interface vma statistics").unwrap();
    assert!(!statistics.contains("drop_tx_untranslated"), "{statistics}");
    let count = |key: &str| status(key).trim().trim_matches('"').parse::<u64>().unwrap();
    println!("{kernel}: {} misses, {} invalidations", count("iotlb_misses"), count("iotlb_invalidations"));
    assert!(count("iotlb_misses") > 0 && count("iotlb_invalidations") > 0);
}
