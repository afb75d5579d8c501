//! Making and removing the virtual functions of a card (PCI Express SR-IOV, by the kernel's `sriov_*` files).
//!
//! It is the driver of the physical function that makes them: the kernel's, or `vfio-pci` for a card whose virtual functions a driver of ours looks
//! after. The kernel gives new functions to
//! the drivers it has for them, unless it is told before not to: a function that is to be a port, or a guest's, would only have to be
//! taken away from there again.
//!
//! A number other than zero can only be changed to another by way of zero: all functions vanish and come anew. So that is refused
//! while one of them is in use.

use super::bind::{VFIO_PCI, write};
use super::{PciAddress, Sysfs};
use crate::port::PmdError;

/// Whether `vfio-pci` makes virtual functions.
const ENABLE_SRIOV: &str = "module/vfio_pci/parameters/enable_sriov";

/// Who drives new virtual functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drivers {
    /// Nobody, until they are bound.
    None,
    /// Those the kernel has for them.
    Kernel,
}

/// Sees to it that a physical function has `count` virtual ones, and returns their addresses by number. Does nothing if it has as many.
///
/// `shared` says whether a driver here shares the card with its virtual functions, while `vfio-pci` has the physical one; `user` who uses a function,
/// for the text of the refusal.
///
/// # Errors
/// It is no such function, has not so many, is not driven by the kernel, one that would vanish is in use, or the driver refuses. What was there
/// is still there then, unless it was the driver that refused to make the new ones.
pub fn set_virtual_functions(
    sysfs: &Sysfs,
    physical: PciAddress,
    count: u32,
    drivers: Drivers,
    shared: bool,
    user: impl Fn(PciAddress) -> Option<String>,
) -> Result<Vec<PciAddress>, PmdError> {
    let refuse = |text: String| Err(PmdError::Config(format!("{physical}: {text}")));
    let info = sysfs.info(physical)?;
    if let Some(parent) = info.physical_function {
        return refuse(format!("is a virtual function itself, of {parent}: give that address"));
    }
    let Some((now, most)) = info.virtual_functions else {
        return refuse("cannot have virtual functions, or the firmware has SR-IOV switched off".into());
    };
    if count > most {
        return refuse(format!("{count} virtual functions asked for, it can have {most}"));
    }
    if now == count {
        return Ok(sysfs.virtual_functions(physical));
    }
    match info.driver.as_deref() {
        None => return refuse("has no driver, and it is the driver that makes virtual functions".into()),
        Some(VFIO_PCI) => {
            if !shared {
                return refuse(format!(
                    "is bound to {VFIO_PCI}, and no driver here knows its virtual functions: `vsctl nic unbind {physical}`"
                ));
            }
            if drivers == Drivers::Kernel {
                return refuse(format!(
                    "{VFIO_PCI} has it, so its virtual functions go there too: without --kernel"
                ));
            }
            let parameter = sysfs.sys.join(ENABLE_SRIOV);
            if std::fs::read_to_string(&parameter).is_ok_and(|text| text.trim() == "N") {
                return refuse(format!(
                    "{VFIO_PCI} makes virtual functions only when told to: `echo 1 > {}`",
                    parameter.display()
                ));
            }
        }
        Some(_) => {}
    }
    for function in sysfs.virtual_functions(physical) {
        if let Some(user) = user(function) {
            return refuse(format!("its virtual function {function} would vanish, and is in use: {user}"));
        }
    }
    let device = sysfs.device(physical);
    if now != 0 {
        write(&device.join("sriov_numvfs"), "0", physical)?;
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let probe = if drivers == Drivers::Kernel { "1" } else { "0" };
    write(&device.join("sriov_drivers_autoprobe"), probe, physical)?;
    write(&device.join("sriov_numvfs"), &count.to_string(), physical)?;
    let made = sysfs.virtual_functions(physical);
    if made.len() == count as usize {
        Ok(made)
    } else {
        refuse(format!(
            "{count} virtual functions asked for, {} made: the kernel log says why (`dmesg`)",
            made.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::bind::tests::{add, machine, nic};
    use super::*;

    /// Gives the card of [`machine`] two virtual functions out of seven.
    fn with_functions(sysfs: &Sysfs) {
        let device = sysfs.device(nic());
        for (file, text) in [("sriov_numvfs", "2"), ("sriov_totalvfs", "7"), ("sriov_drivers_autoprobe", "1")]
        {
            fs::write(device.join(file), text).unwrap();
        }
        for (number, address) in ["0000:05:10.0", "0000:05:10.2"].into_iter().enumerate() {
            add(sysfs, address, 20 + number as u32, "0x020000", None);
            let function = sysfs.device(address.parse().unwrap());
            symlink(&function, device.join(format!("virtfn{number}"))).unwrap();
            symlink(&device, function.join("physfn")).unwrap();
        }
    }

    fn set(sysfs: &Sysfs, count: u32, user: Option<&str>) -> Result<Vec<String>, String> {
        set_shared(sysfs, count, false, user)
    }

    fn set_shared(
        sysfs: &Sysfs,
        count: u32,
        shared: bool,
        user: Option<&str>,
    ) -> Result<Vec<String>, String> {
        let user =
            |function: PciAddress| user.filter(|_| function.to_string() == "0000:05:10.2").map(str::to_owned);
        let made = set_virtual_functions(sysfs, nic(), count, Drivers::None, shared, user);
        made.map(|made| made.iter().map(ToString::to_string).collect()).map_err(|error| error.to_string())
    }

    fn written(sysfs: &Sysfs, file: &str) -> String {
        fs::read_to_string(sysfs.device(nic()).join(file)).unwrap()
    }

    #[test]
    fn functions_are_made_by_way_of_none() {
        let (_folder, sysfs) = machine();
        with_functions(&sysfs);
        assert_eq!(
            set(&sysfs, 2, Some("a port")).unwrap(),
            ["0000:05:10.0", "0000:05:10.2"],
            "nothing to do"
        );
        // The copy of the kernel obeys nobody: what was written is seen.
        let failed = set(&sysfs, 3, None).unwrap_err();
        assert!(failed.contains("3 virtual functions asked for, 2 made"), "{failed}");
        // Written over the 0 before it.
        assert_eq!(written(&sysfs, "sriov_numvfs"), "3");
        assert_eq!(written(&sysfs, "sriov_drivers_autoprobe"), "0");
        assert_eq!(set(&sysfs, 0, None).unwrap(), [""; 0]);
        assert_eq!(written(&sysfs, "sriov_numvfs"), "0");
    }

    #[test]
    fn what_would_break_something_is_refused() {
        let (_folder, sysfs) = machine();
        assert!(set(&sysfs, 1, None).unwrap_err().contains("cannot have virtual functions"));
        with_functions(&sysfs);
        assert!(set(&sysfs, 8, None).unwrap_err().contains("it can have 7"));
        let used = set(&sysfs, 0, Some("it is a port")).unwrap_err();
        assert!(used.contains("0000:05:10.2 would vanish") && used.contains("it is a port"), "{used}");
        let virtual_one = "0000:05:10.0".parse().unwrap();
        let refused =
            set_virtual_functions(&sysfs, virtual_one, 1, Drivers::None, false, |_| None).unwrap_err();
        assert!(refused.to_string().contains("of 0000:05:00.0: give that"), "{refused}");
        let driver = sysfs.device(nic()).join("driver");
        fs::remove_file(&driver).unwrap();
        assert!(set(&sysfs, 3, None).unwrap_err().contains("has no driver"));
        symlink("/drivers/vfio-pci", &driver).unwrap();
        fs::create_dir_all(sysfs.sys.join("module/vfio_pci/parameters")).unwrap();
        fs::write(sysfs.sys.join(ENABLE_SRIOV), "N\n").unwrap();
        assert!(set(&sysfs, 3, None).unwrap_err().contains("nic unbind 0000:05:00.0"));
        // One that a driver here shares.
        assert!(set_shared(&sysfs, 3, true, None).unwrap_err().contains("parameters/enable_sriov"));
        assert_eq!(written(&sysfs, "sriov_numvfs"), "2");
        fs::write(sysfs.sys.join(ENABLE_SRIOV), "Y\n").unwrap();
        let kernel = set_virtual_functions(&sysfs, nic(), 3, Drivers::Kernel, true, |_| None);
        assert!(kernel.unwrap_err().to_string().contains("without --kernel"));
        assert!(
            set_shared(&sysfs, 3, true, None).unwrap_err().contains("3 virtual functions asked for, 2 made")
        );
        assert_eq!(written(&sysfs, "sriov_numvfs"), "3");
    }
}
