//! `vs.nic.*`: the PCI network devices of this machine, and giving them to the switch and back.

use pmd::pci::{self, PciAddress, PciInfo, Sysfs};
use pmd::vfio;
use serde_json::{Value, json};

use super::params;

/// Every Ethernet device.
pub(super) fn list() -> Result<Value, String> {
    let all = Sysfs::default().functions();
    let nics: Vec<Value> = all.iter().filter(|info| info.is_ethernet()).map(describe).collect();
    Ok(json!({ "nics": nics }))
}

/// One device, and what else is in its IOMMU group.
pub(super) fn show(params: &Value) -> Result<Value, String> {
    let sysfs = Sysfs::default();
    let info = sysfs.info(address(params)?).map_err(|error| error.to_string())?;
    let mut nic = describe(&info);
    let group = info.group.map(|group| sysfs.group(group)).unwrap_or_default();
    let others = group.iter().filter(|other| other.address != info.address);
    let others: Vec<String> = others.map(|other| other.address.to_string()).collect();
    if let Some(fields) = nic.as_object_mut() {
        fields.insert("group_with".into(), json!(others));
    }
    Ok(nic)
}

/// Gives a device to `vfio-pci`.
pub(super) fn bind(params: &Value) -> Result<Value, String> {
    let force = match params.get(1) {
        None | Some(Value::Null) => false,
        Some(Value::Bool(force)) => *force,
        Some(other) => return Err(format!("parameter force must be true or false, not {other}")),
    };
    let address = address(params)?;
    let sysfs = Sysfs::default();
    let info = sysfs.info(address).map_err(|error| error.to_string())?;
    if !info.is_ethernet() {
        return Err(format!(
            "{address} is no Ethernet controller (class {:06x}): nothing was changed",
            info.class
        ));
    }
    pci::bind(&sysfs, address, force).map_err(|error| error.to_string())?;
    log::info!("nic {address}: bound to vfio-pci");
    Ok(json!({}))
}

/// Gives a device back to the kernel.
pub(super) fn unbind(params: &Value) -> Result<Value, String> {
    let address = address(params)?;
    if vfio::is_open(address) {
        return Err(format!("{address} is a port of this switch: remove that port first"));
    }
    pci::unbind(&Sysfs::default(), address).map_err(|error| error.to_string())?;
    log::info!("nic {address}: given back to the kernel");
    Ok(json!({}))
}

pub(super) fn address(params: &Value) -> Result<PciAddress, String> {
    params::required(params, 0, "address")?.parse()
}

fn describe(info: &PciInfo) -> Value {
    let mut nic = json!({
        "address": info.address.to_string(),
        "id": format!("{:04x}:{:04x}", info.vendor, info.device),
        "driver": info.driver,
        "pmd": pmd::drivers::driver_of(info.vendor, info.device),
        "netdevs": info.netdevs,
        "group": info.group,
        "numa": info.numa_node,
        "in_use": vfio::is_open(info.address),
    });
    let Some(fields) = nic.as_object_mut() else { return nic };
    if let Some(link) = info.link {
        fields.insert("link".into(), json!(format!("{} GT/s x{}", link.gigatransfers, link.lanes)));
        fields.insert("link_gbps".into(), json!(link.bytes_per_second() * 8.0 / 1e9));
        fields.insert("mpps_64".into(), json!(link.forwarded_per_second(64.0) / 1e6));
        fields.insert("mpps_1518".into(), json!(link.forwarded_per_second(1518.0) / 1e6));
    }
    if let Some((now, most)) = info.virtual_functions {
        fields.insert("vfs".into(), json!(now));
        fields.insert("vfs_max".into(), json!(most));
    }
    if let Some(parent) = info.physical_function {
        fields.insert("vf_of".into(), json!(parent.to_string()));
        let number = Sysfs::default().virtual_function_number(parent, info.address);
        fields.insert("vf_number".into(), json!(number));
    }
    nic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_gets_nowhere() {
        for bad in [json!([]), json!([5]), json!(["../../etc"]), json!(["05:00.9"])] {
            assert!(show(&bad).is_err() && bind(&bad).is_err() && unbind(&bad).is_err(), "{bad}");
        }
        assert!(bind(&json!(["05:00.0", "yes"])).unwrap_err().contains("force"));
        assert!(show(&json!(["ffff:ff:1f.7"])).unwrap_err().contains("nic list"));
    }
}
