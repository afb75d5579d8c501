//! Types of interfaces and their options.

use std::path::PathBuf;

use pmd::drivers::af_xdp::{Filter, Mode};
use pmd::drivers::most_functions;

use super::validate::{Options, flag, number};
use crate::switch::{GuestOptions, PortKind, RingOptions};

/// Types of interfaces there are, as published in `Open_vSwitch.iface_types`. Both names of each vhost-user
/// type, because orchestrators look for the DPDK ones.
pub(super) const TYPES: &[&str] = &[
    "afpacket",
    "afxdp",
    "dpdk",
    "dpdkvhostuser",
    "dpdkvhostuserclient",
    "internal",
    "null",
    "pcap",
    "pmd",
    "system",
    "tap",
    "vhost-user",
    "vhost-user-client",
    "virtio-user",
];

/// Driver and options of the interface `name` by its type.
pub(super) fn kind(
    name: &str,
    kind: &str,
    local: bool,
    mac: Option<&str>,
    options: &Options<'_>,
) -> Result<PortKind, String> {
    let path = |keys: [&str; 2]| keys.iter().find_map(|key| options.get(key)).map(PathBuf::from);
    match if local { "internal" } else { kind } {
        "internal" => tap(options, false),
        "tap" => tap(options, true),
        "" | "system" | "afpacket" => system(options),
        "afxdp" => afxdp(options),
        "vhost-user" | "dpdkvhostuser" => {
            Ok(PortKind::VhostUser { path: path(["path", "vhost-server-path"]), guest: guest(mac, options)? })
        }
        "vhost-user-client" | "dpdkvhostuserclient" => {
            let path = path(["path", "vhost-server-path"]).ok_or_else(|| {
                format!("type {kind} needs the socket QEMU listens on: set Interface {name} options:vhost-server-path=PATH")
            })?;
            Ok(PortKind::VhostUserClient { path, guest: guest(mac, options)? })
        }
        "virtio-user" => {
            let path = options.get("path").map(PathBuf::from).ok_or_else(|| {
                format!("type virtio-user needs the socket of the other switch's vhost-user port: set Interface {name} options:path=PATH")
            })?;
            Ok(PortKind::VirtioUser {
                path,
                server: flag(options, "server", false)?,
                pairs: queues(options, 64)?.unwrap_or(1),
                packed: flag(options, "packed", false)?,
            })
        }
        "pmd" => card(name, "pci", options),
        "dpdk" => card(name, "dpdk-devargs", options),
        "null" => Ok(PortKind::Null),
        "pcap" => {
            let file = |key: &str| options.get(key).map(PathBuf::from);
            let (replay, record) = (file("rx_pcap"), file("tx_pcap"));
            if replay.is_none() && record.is_none() {
                return Err(
                    "type pcap needs options:rx_pcap=FILE to replay, options:tx_pcap=FILE to record, or both"
                        .into(),
                );
            }
            Ok(PortKind::Pcap { replay, record })
        }
        "patch" => Err("type patch is not built yet: put the ports on one bridge".into()),
        other => Err(format!("type {other} is unknown: use one of {}", TYPES.join(", "))),
    }
}

/// A card. `key` is the option with its address: ours, or that of Open vSwitch.
fn card(name: &str, key: &str, options: &Options<'_>) -> Result<PortKind, String> {
    let Some(text) = options.get(key) else {
        return Err(format!(
            "this type needs the PCI address of a card: set Interface {name} options:{key}=0000:05:00.0 (`vsctl nic list` shows cards)"
        ));
    };
    let address = text.parse().map_err(|why| format!("options:{key}: {why}"))?;
    let size = |key, default: u16| -> Result<u16, String> {
        Ok(number(options, key, 64, 4096)?.and_then(|n| u16::try_from(n).ok()).unwrap_or(default))
    };
    let queues = queues(options, 256)?.unwrap_or(1);
    let rings = RingOptions {
        queues,
        rx_descriptors: size("n_rxq_desc", 512)?,
        tx_descriptors: size("n_txq_desc", 512)?,
    };
    let filters = options.get("vf-filter").map(|text| text.parse()).transpose()?.unwrap_or_default();
    let mut functions = Vec::new();
    for number in 0..most_functions() {
        let key = format!("vf{number}");
        if let Some(text) = options.get(key.as_str()) {
            let settings = text.parse().map_err(|why| format!("options:{key}: {why}"))?;
            functions.push((number, settings));
        }
    }
    Ok(PortKind::Card { address, rings, filters, functions })
}

fn queues(options: &Options<'_>, most: u64) -> Result<Option<u16>, String> {
    let queues = number(options, "n_rxq", 1, most)?;
    Ok(queues.and_then(|queues| u16::try_from(queues).ok()))
}

fn tap(options: &Options<'_>, bring_up: bool) -> Result<PortKind, String> {
    Ok(PortKind::Tap { queues: queues(options, 256)?.unwrap_or(1), bring_up })
}

fn system(options: &Options<'_>) -> Result<PortKind, String> {
    let bypass_qdisc = flag(options, "qdisc-bypass", false)?;
    Ok(PortKind::System { queues: queues(options, 64)?.unwrap_or(1), bypass_qdisc })
}

fn afxdp(options: &Options<'_>) -> Result<PortKind, String> {
    let mode = match options.get("xdp-mode") {
        None => Mode::default(),
        Some(name) => {
            let found = Mode::NAMES.iter().find(|(known, _)| known == name).map(|(_, mode)| *mode);
            found.ok_or_else(|| {
                let known = Mode::NAMES.map(|(name, _)| name).join(", ");
                format!("xdp-mode={name}: use one of {known}")
            })?
        }
    };
    let filter = options.get("xdp-filter").map(|text| text.parse::<Filter>()).transpose()?;
    Ok(PortKind::AfXdp { queues: queues(options, 64)?, mode, filter: filter.unwrap_or_default() })
}

fn guest(mac: Option<&str>, options: &Options<'_>) -> Result<GuestOptions, String> {
    let defaults = GuestOptions::default();
    let speed = number(options, "link-speed", 1, u64::from(u32::MAX >> 1))?;
    let pairs = number(options, "vhost-max-queue-pairs", 1, 128)?;
    Ok(GuestOptions {
        max_queue_pairs: pairs
            .and_then(|pairs| u16::try_from(pairs).ok())
            .unwrap_or(defaults.max_queue_pairs),
        mac: mac.map(guest_mac).transpose()?,
        link_speed: speed.and_then(|speed| u32::try_from(speed).ok()),
    })
}

/// `Interface.mac`: an address that one card can have.
fn guest_mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let read = mac.iter_mut().all(|byte| {
        let digits = |part: &&str| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let part = parts.next().filter(digits);
        part.and_then(|part| u8::from_str_radix(part, 16).ok()).map(|value| *byte = value).is_some()
    });
    let one_card = mac[0] & 1 == 0 && mac != [0; 6];
    if read && parts.next().is_none() && one_card {
        return Ok(mac);
    }
    Err(format!("mac={text} is no Ethernet address of one card: write it as in 52:54:00:00:00:0a"))
}

#[cfg(test)]
mod tests {
    use pmd::nic::Filters;

    use super::*;

    #[test]
    fn cards() {
        let set = Options::from([("pci", "05:00.0"), ("n_rxq", "4"), ("n_rxq_desc", "1024")]);
        let rings = RingOptions { queues: 4, rx_descriptors: 1024, tx_descriptors: 512 };
        let address = "0000:05:00.0".parse().unwrap();
        let filters = Filters::default();
        assert_eq!(
            kind("up0", "pmd", false, None, &set),
            Ok(PortKind::Card { address, rings, filters, functions: vec![] })
        );
        let set = Options::from([("pci", "05:00.0"), ("vf-filter", "vlan=7")]);
        let filtered = kind("up0", "pmd", false, None, &set);
        assert!(matches!(filtered, Ok(PortKind::Card { filters, .. }) if filters.vlans == [7]));
        let set = Options::from([("pci", "05:00.0"), ("vf1", "vlan=7,trust=on")]);
        let shared = kind("up0", "pmd", false, None, &set);
        assert!(
            matches!(shared, Ok(PortKind::Card { functions, .. }) if functions == [(1, "trust=on,vlan=7".parse().unwrap())])
        );
        let set = Options::from([("pci", "05:00.0"), ("vf6", "vlan=7")]);
        let last = kind("up0", "pmd", false, None, &set);
        assert!(matches!(last, Ok(PortKind::Card { functions, .. }) if functions[0].0 == 6));
        let set = Options::from([("pci", "05:00.0"), ("vf1", "vlan=4095")]);
        assert!(kind("up0", "pmd", false, None, &set).unwrap_err().contains("options:vf1: vlan=4095"));
        let set = Options::from([("dpdk-devargs", "0000:05:00.0")]);
        assert!(matches!(kind("up0", "dpdk", false, None, &set), Ok(PortKind::Card { .. })));
        for (key, value, word) in [
            ("n_rxq", "4", "nic list"),
            ("pci", "net_tap0", "no PCI address"),
            ("n_rxq_desc", "5", "nic list"),
        ] {
            let fault = kind("up0", "pmd", false, None, &Options::from([(key, value)])).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
    }

    #[test]
    fn kinds_on_devices_of_the_kernel() {
        let none = Options::new();
        let plain = PortKind::System { queues: 1, bypass_qdisc: false };
        for name in ["", "system", "afpacket"] {
            assert_eq!(kind("eth1", name, false, None, &none), Ok(plain.clone()));
        }
        let set = Options::from([("n_rxq", "4"), ("qdisc-bypass", "true")]);
        assert_eq!(
            kind("eth1", "", false, None, &set),
            Ok(PortKind::System { queues: 4, bypass_qdisc: true })
        );
        let all = PortKind::AfXdp { queues: None, mode: Mode::BestEffort, filter: Filter::All };
        assert_eq!(kind("eth1", "afxdp", false, None, &none), Ok(all));
        let set = Options::from([("n_rxq", "2"), ("xdp-mode", "generic"), ("xdp-filter", "vlan=7")]);
        let filter = "vlan=7".parse().unwrap();
        let some = PortKind::AfXdp { queues: Some(2), mode: Mode::Generic, filter };
        assert_eq!(kind("eth1", "afxdp", false, None, &set), Ok(some));
        for (key, value) in [("xdp-mode", "fast"), ("xdp-filter", "tcp=1"), ("n_rxq", "65")] {
            let error = kind("eth1", "afxdp", false, None, &Options::from([(key, value)])).unwrap_err();
            assert!(error.contains(&format!("{key}={value}: use")), "{error}");
        }
    }

    #[test]
    fn addresses_of_guests() {
        assert_eq!(guest_mac("52:54:00:00:00:0A"), Ok([0x52, 0x54, 0, 0, 0, 10]));
        for bad in [
            "",
            "52:54:00:00:00",
            "52:54:00:00:00:0a:0b",
            "53:54:00:00:00:0a",
            "0:0:0:0:0:0",
            "52:54:0:0:0:+a",
        ] {
            assert!(guest_mac(bad).unwrap_err().contains("52:54:00:00:00:0a"), "{bad}");
        }
    }
}
