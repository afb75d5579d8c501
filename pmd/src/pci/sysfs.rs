//! What the kernel says of PCI functions.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PciAddress, PcieLink};
use crate::port::PmdError;

/// The kernel's view, or a copy of it in a test.
#[derive(Clone, Debug)]
pub struct Sysfs {
    /// `/sys`.
    pub(super) sys: PathBuf,
    /// `/proc/net`, for routes.
    pub(super) proc_net: PathBuf,
}

/// What the kernel says of a function.
#[derive(Clone, Debug)]
pub struct PciInfo {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass and programming interface.
    pub class: u32,
    /// Name of the driver it is bound to, if any.
    pub driver: Option<String>,
    /// Number of its IOMMU group; without an IOMMU there is none.
    pub group: Option<u32>,
    /// NUMA node it is attached to, if the machine has several.
    pub numa_node: Option<u32>,
    /// The link as trained now.
    pub link: Option<PcieLink>,
    /// Network devices of the kernel on it.
    pub netdevs: Vec<String>,
    /// Virtual functions it has now, and could have.
    pub virtual_functions: Option<(u32, u32)>,
    /// Physical function it belongs to, if it is a virtual one.
    pub physical_function: Option<PciAddress>,
}

impl PciInfo {
    /// Whether it is an Ethernet controller.
    pub fn is_ethernet(&self) -> bool {
        self.class >> 8 == 0x0200
    }

    /// Whether it is a bridge, which may stay with the kernel when others of its group do not.
    pub(super) fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }
}

impl Default for Sysfs {
    fn default() -> Sysfs {
        Sysfs { sys: "/sys".into(), proc_net: "/proc/self/net".into() }
    }
}

impl Sysfs {
    /// Folder of a function.
    pub fn device(&self, address: PciAddress) -> PathBuf {
        self.devices().join(address.to_string())
    }

    fn devices(&self) -> PathBuf {
        self.sys.join("bus/pci/devices")
    }

    /// Every function, ordered by address. Empty on a machine without PCI.
    pub fn functions(&self) -> Vec<PciInfo> {
        let mut all: Vec<PciInfo> = names_in(&self.devices())
            .into_iter()
            .filter_map(|name| self.info(name.parse().ok()?).ok())
            .collect();
        all.sort_by_key(|info| info.address);
        all
    }

    /// One function.
    ///
    /// # Errors
    /// There is none at that address.
    pub fn info(&self, address: PciAddress) -> Result<PciInfo, PmdError> {
        let folder = self.device(address);
        let hex = |file: &str| {
            let text = read(&folder.join(file))?;
            u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        };
        let (Some(vendor), Some(device), Some(class)) = (hex("vendor"), hex("device"), hex("class")) else {
            return Err(PmdError::Config(format!(
                "there is no PCI device {address} on this machine: `vsctl nic list` shows those there are"
            )));
        };
        let number = |file: &str| read(&folder.join(file))?.parse().ok();
        let text = |file: &str| read(&folder.join(file)).unwrap_or_default();
        let mut netdevs = names_in(&folder.join("net"));
        // virtio-net's network device hangs below the virtio device.
        for child in names_in(&folder) {
            if child.starts_with("virtio") {
                netdevs.extend(names_in(&folder.join(child).join("net")));
            }
        }
        netdevs.sort();
        Ok(PciInfo {
            address,
            vendor: vendor as u16,
            device: device as u16,
            class,
            driver: link_name(&folder.join("driver")),
            group: link_name(&folder.join("iommu_group")).and_then(|name| name.parse().ok()),
            numa_node: number("numa_node"),
            link: PcieLink::from_texts(&text("current_link_speed"), &text("current_link_width")),
            netdevs,
            virtual_functions: number("sriov_numvfs").zip(number("sriov_totalvfs")),
            physical_function: link_name(&folder.join("physfn")).and_then(|name| name.parse().ok()),
        })
    }

    /// Which of the virtual functions of `physical` it is, counted from zero.
    pub fn virtual_function_number(&self, physical: PciAddress, address: PciAddress) -> Option<u16> {
        let folder = self.device(physical);
        names_in(&folder).iter().find_map(|name| {
            let number = name.strip_prefix("virtfn")?.parse().ok()?;
            (link_name(&folder.join(name))? == address.to_string()).then_some(number)
        })
    }

    /// The virtual functions that a physical one has now, in the order of their numbers.
    pub fn virtual_functions(&self, physical: PciAddress) -> Vec<PciAddress> {
        let folder = self.device(physical);
        let numbered = (0u32..).map(|number| link_name(&folder.join(format!("virtfn{number}"))));
        numbered.map_while(|name| name?.parse().ok()).collect()
    }

    /// How many virtual functions a physical one has now.
    pub fn virtual_function_count(&self, physical: PciAddress) -> u16 {
        read(&self.device(physical).join("sriov_numvfs")).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The kernel's number for a network device, by which rtnetlink knows it.
    pub fn interface_index(&self, netdev: &str) -> Option<u32> {
        read(&self.sys.join("class/net").join(netdev).join("ifindex"))?.parse().ok()
    }

    /// Every function of an IOMMU group.
    pub fn group(&self, group: u32) -> Vec<PciInfo> {
        let folder = self.sys.join("kernel/iommu_groups").join(group.to_string()).join("devices");
        names_in(&folder).into_iter().filter_map(|name| self.info(name.parse().ok()?).ok()).collect()
    }

    /// The network device on this function, or on top of it (bond, bridge, VLAN), that has the default route of this network namespace.
    pub fn default_route_over(&self, info: &PciInfo) -> Option<String> {
        let mut devices = info.netdevs.clone();
        let mut next = 0;
        while let Some(device) = devices.get(next).cloned() {
            next += 1;
            for upper in names_in(&self.sys.join("class/net").join(&device)) {
                if let Some(upper) = upper.strip_prefix("upper_").map(str::to_owned)
                    && !devices.contains(&upper)
                {
                    devices.push(upper);
                }
            }
        }
        let mut routed = self.default_routes().into_iter();
        routed.find(|device| devices.contains(device))
    }

    /// Devices with a default route, of IPv4 and IPv6.
    fn default_routes(&self) -> Vec<String> {
        let v4 = read(&self.proc_net.join("route")).unwrap_or_default();
        let v6 = read(&self.proc_net.join("ipv6_route")).unwrap_or_default();
        let v4 = v4.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"))
                .then(|| fields[0].to_owned())
        });
        let v6 = v6.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let default = fields.first().is_some_and(|net| net.bytes().all(|b| b == b'0'))
                && fields.get(1) == Some(&"00");
            fields.get(9).filter(|&&device| default && device != "lo").map(|&device| device.to_owned())
        });
        v4.chain(v6).collect()
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}
