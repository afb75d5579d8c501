//! Which device the operator means.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use pmd::pci::PciAddress;

use super::device::VdpaDev;
use super::error::VdpaError;
use super::{kernel, virtio_pci};

/// Where the kernel's vDPA devices are.
const KERNEL_DEVICES: &str = "/dev/vhost-vdpa-";

/// A device as `options:vdpa` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceName {
    /// A PCI function, bound to `vfio-pci`: `0000:03:10.0`.
    Pci(PciAddress),
    /// A device of the kernel's vDPA bus: `/dev/vhost-vdpa-0`.
    Kernel(PathBuf),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceName, String> {
        if let Some(number) = text.strip_prefix(KERNEL_DEVICES) {
            let digits =
                !number.is_empty() && number.len() <= 6 && number.bytes().all(|b| b.is_ascii_digit());
            return if digits {
                Ok(DeviceName::Kernel(text.into()))
            } else {
                Err(format!("{text:?} is no vDPA device: write {KERNEL_DEVICES}NUMBER"))
            };
        }
        text.parse().map(DeviceName::Pci).map_err(|_| {
            format!(
                "{text:?} is no vDPA device: write a PCI address, as 0000:03:10.0, or a device of the kernel, as {KERNEL_DEVICES}0"
            )
        })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Pci(address) => address.fmt(f),
            DeviceName::Kernel(path) => path.display().fmt(f),
        }
    }
}

/// Opens a device for one guest. It belongs to the caller until it is dropped. May take some hundred milliseconds.
pub fn open(name: &DeviceName) -> Result<Box<dyn VdpaDev>, VdpaError> {
    match name {
        DeviceName::Pci(address) => virtio_pci::open(*address),
        DeviceName::Kernel(path) => kernel::open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_come_back() {
        for text in ["0000:03:10.0", "/dev/vhost-vdpa-0", "/dev/vhost-vdpa-17"] {
            let name: DeviceName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(matches!(name, DeviceName::Kernel(_)), text.starts_with('/'));
        }
        for bad in ["", "eth0", "/dev/vhost-vdpa-", "/dev/vhost-vdpa-0/../null", "/dev/vhost-vdpa-1234567"] {
            let error = bad.parse::<DeviceName>().unwrap_err();
            assert!(error.contains("write"), "{error}");
        }
    }
}
