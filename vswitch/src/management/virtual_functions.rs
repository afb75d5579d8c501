//! `vs.nic.vfs`, `vs.nic.make_vfs`, `vs.nic.set_vf`: virtual functions of the machine's cards.

use pmd::drivers::shares_with_functions;
use pmd::pci::{self, Drivers, PciAddress, PciInfo, Sysfs, VfLink, VfSettings, VfState};
use pmd::vfio;
use serde_json::{Map, Value, json};

use super::nic::address;
use super::params::mac_text;
use crate::switch::Switch;

/// The virtual functions of a card: who drives each, and what the physical function's driver says of it.
pub(super) fn list(switch: &Switch, params: &Value) -> Result<Value, String> {
    let sysfs = Sysfs::default();
    let physical = sysfs.info(address(params)?).map_err(|error| error.to_string())?;
    let states = match interface(&sysfs, &physical) {
        Ok(index) => pci::virtual_function_states(index).map_err(|error| error.to_string())?,
        // Its driver has no network device of it: it is this switch, or there is nothing to be told.
        Err(_) => switch.virtual_functions(physical.address),
    };
    Ok(json!({ "vfs": describe_all(&sysfs, physical.address, &states) }))
}

/// Makes virtual functions, or removes them.
pub(super) fn make(params: &Value) -> Result<Value, String> {
    let physical = address(params)?;
    let count = params.get(1).and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
    let count = count.ok_or("parameter count must be how many virtual functions there shall be")?;
    let drivers = match params.get(2) {
        None | Some(Value::Null | Value::Bool(false)) => Drivers::None,
        Some(Value::Bool(true)) => Drivers::Kernel,
        Some(other) => return Err(format!("parameter kernel must be true or false, not {other}")),
    };
    let sysfs = Sysfs::default();
    let info = sysfs.info(physical).map_err(|error| error.to_string())?;
    let shared = shares_with_functions(info.vendor, info.device);
    let user = |function| user(&sysfs, function);
    let made = pci::set_virtual_functions(&sysfs, physical, count, drivers, shared, user)
        .map_err(|error| error.to_string())?;
    log::info!("nic {physical}: {} virtual functions", made.len());
    Ok(json!({ "vfs": describe_all(&sysfs, physical, &[]) }))
}

/// Sets what the driver of the physical function decides for a virtual one.
pub(super) fn set(params: &Value) -> Result<Value, String> {
    let function = address(params)?;
    let wanted = settings(params.get(1).unwrap_or(&Value::Null))?;
    let sysfs = Sysfs::default();
    let info = sysfs.info(function).map_err(|error| error.to_string())?;
    let physical = info.physical_function.ok_or_else(|| {
        format!("{function} is no virtual function: `vsctl nic vfs` makes them, and lists those of a card")
    })?;
    let number = sysfs.virtual_function_number(physical, function);
    let number = number.ok_or_else(|| format!("{physical} does not know {function}"))?;
    let physical = sysfs.info(physical).map_err(|error| error.to_string())?;
    if physical.driver.as_deref() == Some("vfio-pci") {
        return Err(format!(
            "{function}: its physical function {} is a port of this switch, and settings are options of that: \
             `vsctl set Interface PORT 'options:vf{number}=\"mac=52:54:00:00:00:01,vlan=7,trust=on\"'`",
            physical.address
        ));
    }
    let index = interface(&sysfs, &physical)?;
    pci::set_virtual_function(index, number, &wanted).map_err(|error| format!("{function}: {error}"))?;
    Ok(json!({}))
}

/// The kernel's number of the network device by which settings are made.
fn interface(sysfs: &Sysfs, physical: &PciInfo) -> Result<u32, String> {
    let named = physical.netdevs.first().and_then(|netdev| sysfs.interface_index(netdev));
    named.ok_or_else(|| {
        format!(
            "{}: settings of virtual functions are made by the kernel's network device of the physical one, and there is none: \
             its driver is {}",
            physical.address,
            physical.driver.as_deref().unwrap_or("none")
        )
    })
}

/// Who uses a function in a way that must not end by surprise.
fn user(sysfs: &Sysfs, function: PciAddress) -> Option<String> {
    if vfio::is_open(function) {
        return Some("it is a port of this switch, or a guest's rings run on it".into());
    }
    let route = sysfs.info(function).ok().and_then(|info| sysfs.default_route_over(&info));
    route.map(|device| format!("it carries the default route of this host through {device}"))
}

fn describe_all(sysfs: &Sysfs, physical: PciAddress, states: &[VfState]) -> Vec<Value> {
    let functions = sysfs.virtual_functions(physical);
    let described = functions.into_iter().enumerate().map(|(number, function)| {
        let mut fields = Map::new();
        let mut say = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        say("number", json!(number));
        say("address", json!(function.to_string()));
        if let Ok(info) = sysfs.info(function) {
            say("driver", json!(info.driver));
            say("netdevs", json!(info.netdevs));
            say("group", json!(info.group));
        }
        say("in_use", json!(vfio::is_open(function)));
        if let Some(state) = states.iter().find(|state| usize::from(state.number) == number) {
            describe(state, &mut say);
        }
        Value::Object(fields)
    });
    described.collect()
}

fn describe(state: &VfState, say: &mut impl FnMut(&str, Value)) {
    let VfSettings { mac, vlan, trust, spoof_check, link } = &state.settings;
    say("mac", json!(mac.map(mac_text)));
    say("vlan", json!(vlan.map(|(vlan, _)| vlan)));
    say("priority", json!(vlan.map(|(_, priority)| priority)));
    say("trust", json!(trust));
    say("spoofchk", json!(spoof_check));
    let link = link.map(|link| match link {
        VfLink::Auto => "auto",
        VfLink::Up => "up",
        VfLink::Down => "down",
    });
    say("link", json!(link));
    if let Some(counters) = state.counters {
        say("rx_packets", json!(counters.rx_packets));
        say("rx_bytes", json!(counters.rx_bytes));
        say("rx_dropped", json!(counters.rx_dropped));
        say("tx_packets", json!(counters.tx_packets));
        say("tx_bytes", json!(counters.tx_bytes));
        say("tx_dropped", json!(counters.tx_dropped));
    }
}

/// Settings from words: all are checked before any is made.
fn settings(wanted: &Value) -> Result<VfSettings, String> {
    let words = wanted.as_object().into_iter().flatten();
    VfSettings::from_words(words.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::SwitchConfig;

    #[test]
    fn settings_as_people_write_them() {
        let all = json!({"mac": "52:54:00:00:00:01", "vlan": "100", "priority": "3", "trust": "on", "spoofchk": "off", "link": "down"});
        let wanted = VfSettings {
            mac: Some([0x52, 0x54, 0, 0, 0, 1]),
            vlan: Some((100, 3)),
            trust: Some(true),
            spoof_check: Some(false),
            link: Some(VfLink::Down),
        };
        assert_eq!(settings(&all).unwrap(), wanted);
        let one = settings(&json!({"vlan": "0"})).unwrap();
        assert_eq!(one, VfSettings { vlan: Some((0, 0)), ..VfSettings::default() });
    }

    #[test]
    fn what_is_no_setting_is_named() {
        for (wanted, word) in [
            (json!({}), "nothing to set"),
            (json!(null), "nothing to set"),
            (json!({"mac": "03:00:00:00:00:01"}), "mac must be"),
            (json!({"vlan": "4095"}), "0 (none) to 4094"),
            (json!({"vlan": 7}), "0 (none) to 4094"),
            (json!({"priority": "3"}), "give both"),
            (json!({"trust": "yes"}), "on or off"),
            (json!({"link": "on"}), "auto, up or down"),
            (json!({"rate": "5"}), "no setting"),
        ] {
            let refused = settings(&wanted).unwrap_err();
            assert!(refused.contains(word), "{wanted}: {refused}");
        }
    }

    #[test]
    fn what_is_no_card_gets_nowhere() {
        let rundir = tempfile::tempdir().unwrap();
        let switch = Switch::start(SwitchConfig { rundir: rundir.path().to_owned() }).unwrap();
        for bad in [json!([]), json!(["../.."]), json!(["ffff:ff:1f.7", 2])] {
            assert!(list(&switch, &bad).is_err() && make(&bad).is_err() && set(&bad).is_err(), "{bad}");
        }
        assert!(make(&json!(["05:00.0", "2"])).unwrap_err().contains("count"));
        assert!(make(&json!(["05:00.0", 2, "yes"])).unwrap_err().contains("kernel"));
    }
}
