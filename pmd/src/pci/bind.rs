//! Giving a function to `vfio-pci`, and back to the kernel.
//!
//! ```text
//!   driver_override = vfio-pci     so that no other driver takes it, and no other device goes to vfio-pci
//!   driver/unbind                  the kernel's driver lets go; its network device vanishes
//!   drivers_probe                  vfio-pci takes it
//! ```
//!
//! Refused, because it cannot be undone from afar: a device whose network device, or one on top of it, has the default route.
//! Refused, because it would not work: no IOMMU, a group with other devices that the kernel still drives.

use std::fs;
use std::path::Path;

use super::{PciAddress, PciInfo, Sysfs};
use crate::port::PmdError;

/// The driver that hands functions to processes.
pub(super) const VFIO_PCI: &str = "vfio-pci";

/// Binds a function to `vfio-pci`. Does nothing when it is bound already. `force` binds it though the default route goes over it.
///
/// # Errors
/// See the module: each says what to do. The function is then where it was.
pub fn bind(sysfs: &Sysfs, address: PciAddress, force: bool) -> Result<(), PmdError> {
    let info = sysfs.info(address)?;
    if info.driver.as_deref() == Some(VFIO_PCI) {
        return Ok(());
    }
    may_bind(sysfs, &info, force)?;
    let device = sysfs.device(address);
    write(&device.join("driver_override"), VFIO_PCI, address)?;
    let bound = rebind(sysfs, &info, VFIO_PCI);
    if bound.is_err() {
        // Back where it was; what cannot be undone either is in the error already.
        let _ = write(&device.join("driver_override"), "\n", address);
        let _ = probe(sysfs, address);
    }
    bound
}

/// Gives a function back to the driver the kernel would choose. Does nothing when `vfio-pci` does not have it.
///
/// The caller makes sure that nobody has it open: the kernel would wait for that.
///
/// # Errors
/// There is no such function, or the kernel refuses.
pub fn unbind(sysfs: &Sysfs, address: PciAddress) -> Result<(), PmdError> {
    let info = sysfs.info(address)?;
    if info.driver.as_deref() != Some(VFIO_PCI) {
        return Ok(());
    }
    let device = sysfs.device(address);
    write(&device.join("driver_override"), "\n", address)?;
    write(&device.join("driver/unbind"), &address.to_string(), address)?;
    // No driver may be left that wants it, which is no error.
    probe(sysfs, address)
}

fn may_bind(sysfs: &Sysfs, info: &PciInfo, force: bool) -> Result<(), PmdError> {
    let address = info.address;
    if !sysfs.sys.join("bus/pci/drivers").join(VFIO_PCI).exists() {
        return Err(PmdError::Config(format!(
            "{address}: the kernel has no driver vfio-pci: `modprobe vfio-pci`"
        )));
    }
    let Some(group) = info.group else {
        return Err(PmdError::Config(format!(
            "{address} is behind no IOMMU, so its DMA could reach all memory: enable VT-d or AMD-Vi in the firmware, boot Linux with \
             intel_iommu=on, and look for /sys/kernel/iommu_groups"
        )));
    };
    for other in sysfs.group(group) {
        let harmless =
            matches!(other.driver.as_deref(), None | Some(VFIO_PCI | "pci-stub")) || other.is_bridge();
        if other.address != address && !harmless {
            return Err(PmdError::Config(format!(
                "{address} shares IOMMU group {group} with {}, which driver {} has: unbind that first, or put the card in another slot",
                other.address,
                other.driver.unwrap_or_default()
            )));
        }
    }
    if let Some(device) = sysfs.default_route_over(info).filter(|_| !force) {
        return Err(PmdError::Config(format!(
            "{address} carries the default route of this host through {device}, which would be cut off: \
             move the route, or use --force"
        )));
    }
    Ok(())
}

/// Takes a function from its driver and has it probed; it must then have `wanted`.
fn rebind(sysfs: &Sysfs, info: &PciInfo, wanted: &str) -> Result<(), PmdError> {
    let address = info.address;
    if info.driver.is_some() {
        write(&sysfs.device(address).join("driver/unbind"), &address.to_string(), address)?;
    }
    probe(sysfs, address)?;
    match sysfs.info(address)?.driver {
        Some(driver) if driver == wanted => Ok(()),
        other => Err(PmdError::Config(format!(
            "{address}: {wanted} did not take the device, {} has it: the kernel log says why (`dmesg`)",
            other.unwrap_or_else(|| "no driver".into())
        ))),
    }
}

fn probe(sysfs: &Sysfs, address: PciAddress) -> Result<(), PmdError> {
    write(&sysfs.sys.join("bus/pci/drivers_probe"), &address.to_string(), address)
}

pub(super) fn write(path: &Path, text: &str, address: PciAddress) -> Result<(), PmdError> {
    // Without making the file: what is not there is not the kernel's.
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes())).map_err(|error| {
        let remedy =
            if error.kind() == std::io::ErrorKind::PermissionDenied { "run vswitchd as root" } else { "" };
        PmdError::system(format!("{address}: writing {:?} to {}", text.trim(), path.display()), remedy, error)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    const NIC: &str = "0000:05:00.0";

    /// A copy of the kernel's folders: one NIC in group 7, driven by `igb` as `eth0`.
    pub(in crate::pci) fn machine() -> (TempDir, Sysfs) {
        let folder = TempDir::new().unwrap();
        let sysfs = Sysfs { sys: folder.path().join("sys"), proc_net: folder.path().join("net") };
        for driver in ["vfio-pci", "igb"] {
            fs::create_dir_all(sysfs.sys.join("bus/pci/drivers").join(driver)).unwrap();
        }
        fs::create_dir_all(&sysfs.proc_net).unwrap();
        fs::write(sysfs.sys.join("bus/pci/drivers_probe"), "").unwrap();
        add(&sysfs, NIC, 7, "0x020000", Some("igb"));
        fs::create_dir_all(sysfs.device(nic()).join("net/eth0")).unwrap();
        (folder, sysfs)
    }

    pub(in crate::pci) fn nic() -> PciAddress {
        NIC.parse().unwrap()
    }

    pub(in crate::pci) fn add(sysfs: &Sysfs, address: &str, group: u32, class: &str, driver: Option<&str>) {
        let device = sysfs.sys.join("bus/pci/devices").join(address);
        fs::create_dir_all(&device).unwrap();
        for (file, text) in
            [("vendor", "0x8086"), ("device", "0x10c9"), ("class", class), ("driver_override", "")]
        {
            fs::write(device.join(file), text).unwrap();
        }
        let groups = sysfs.sys.join("kernel/iommu_groups").join(group.to_string());
        fs::create_dir_all(groups.join("devices").join(address)).unwrap();
        symlink(&groups, device.join("iommu_group")).unwrap();
        if let Some(driver) = driver {
            let folder = sysfs.sys.join("bus/pci/drivers").join(driver);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("unbind"), "").unwrap();
            symlink(folder, device.join("driver")).unwrap();
        }
    }

    #[test]
    fn functions_are_listed_with_what_is_known() {
        let (_folder, sysfs) = machine();
        let all = sysfs.functions();
        let [info] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((info.vendor, info.device, info.group), (0x8086, 0x10c9, Some(7)));
        assert_eq!(info.driver.as_deref(), Some("igb"));
        assert_eq!(info.netdevs, ["eth0"]);
        assert!(info.is_ethernet());
        assert!(sysfs.info("0000:06:00.0".parse().unwrap()).unwrap_err().to_string().contains("nic list"));
    }

    #[test]
    fn a_device_with_the_default_route_stays() {
        let (_folder, sysfs) = machine();
        fs::write(
            sysfs.proc_net.join("route"),
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\nbr9 00000000 0100000A 3 0 0 0 00000000 0 0 0\n",
        )
        .unwrap();
        let info = sysfs.info(nic()).unwrap();
        assert_eq!(sysfs.default_route_over(&info), None);
        // A bridge over a bond over the NIC.
        fs::create_dir_all(sysfs.sys.join("class/net/eth0/upper_bond0")).unwrap();
        fs::create_dir_all(sysfs.sys.join("class/net/bond0/upper_br9")).unwrap();
        let refused = bind(&sysfs, nic(), false).unwrap_err().to_string();
        assert!(refused.contains("br9") && refused.contains("--force"), "{refused}");
        // With force it gets as far as the copy of the kernel lets it: asked, but not obeyed.
        assert!(bind(&sysfs, nic(), true).unwrap_err().to_string().contains("did not take"));
        assert_eq!(fs::read_to_string(sysfs.sys.join("bus/pci/drivers/igb/unbind")).unwrap(), NIC);
        // And it is let go again.
        assert!(fs::read_to_string(sysfs.device(nic()).join("driver_override")).unwrap().starts_with('\n'));
    }

    #[test]
    fn ipv6_routes_count_too() {
        let (_folder, sysfs) = machine();
        let zero = "0".repeat(32);
        let line = |device: &str| format!("{zero} 00 {zero} 00 {zero} 400 1 0 3 {device}\n");
        fs::write(sysfs.proc_net.join("ipv6_route"), line("lo") + &line("eth0")).unwrap();
        assert_eq!(sysfs.default_route_over(&sysfs.info(nic()).unwrap()).as_deref(), Some("eth0"));
    }

    #[test]
    fn a_group_is_given_whole_or_not() {
        let (_folder, sysfs) = machine();
        add(&sysfs, "0000:05:00.1", 7, "0x020000", Some("igb"));
        add(&sysfs, "0000:04:00.0", 7, "0x060400", Some("pcieport"));
        let refused = bind(&sysfs, nic(), false).unwrap_err().to_string();
        assert!(refused.contains("group 7 with 0000:05:00.1"), "{refused}");
        fs::remove_file(sysfs.device("0000:05:00.1".parse().unwrap()).join("driver")).unwrap();
        assert!(bind(&sysfs, nic(), false).unwrap_err().to_string().contains("did not take"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_folder, sysfs) = machine();
        fs::remove_file(sysfs.device(nic()).join("iommu_group")).unwrap();
        assert!(bind(&sysfs, nic(), false).unwrap_err().to_string().contains("intel_iommu=on"));
        fs::remove_dir(sysfs.sys.join("bus/pci/drivers/vfio-pci")).unwrap();
        assert!(bind(&sysfs, nic(), false).unwrap_err().to_string().contains("modprobe vfio-pci"));
    }
}
