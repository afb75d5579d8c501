//! Settings of a virtual function as people write them.

use std::str::FromStr;

use super::{VfLink, VfSettings};
use crate::nic::mac_address;

impl VfSettings {
    /// Settings from names and values: `mac`, `vlan`, `priority`, `trust`, `spoofchk`, `link`.
    ///
    /// # Errors
    /// There is none, one is no setting, or cannot be so.
    pub fn from_words<'a>(words: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<VfSettings, String> {
        let mut settings = VfSettings::default();
        let mut priority = None;
        let mut count = 0;
        for (name, text) in words {
            count += 1;
            let bad = |should: &str| format!("{name}={text}: {name} must be {should}");
            let switch = match text {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            };
            match name {
                "mac" => {
                    let mac = mac_address(text).filter(|mac| mac[0] & 1 == 0);
                    settings.mac =
                        Some(mac.ok_or_else(|| bad("the address of a station, as 52:54:00:00:00:01"))?);
                }
                "vlan" => {
                    let vlan = text.parse().ok().filter(|vlan| *vlan < 4095);
                    settings.vlan = Some((vlan.ok_or_else(|| bad("0 (none) to 4094"))?, 0));
                }
                "priority" => {
                    let given = text.parse().ok().filter(|priority| *priority < 8);
                    priority = Some(given.ok_or_else(|| bad("0 to 7"))?);
                }
                "trust" => settings.trust = Some(switch.ok_or_else(|| bad("on or off"))?),
                "spoofchk" => settings.spoof_check = Some(switch.ok_or_else(|| bad("on or off"))?),
                "link" => {
                    settings.link = Some(match text {
                        "auto" => VfLink::Auto,
                        "up" => VfLink::Up,
                        "down" => VfLink::Down,
                        _ => return Err(bad("auto, up or down")),
                    });
                }
                _ => {
                    return Err(format!(
                        "{name} is no setting of a virtual function: mac, vlan, priority, trust, spoofchk, link"
                    ));
                }
            }
        }
        if count == 0 {
            return Err("nothing to set: mac, vlan, priority, trust, spoofchk, link".into());
        }
        match (&mut settings.vlan, priority) {
            (_, None) => {}
            (Some((_, of_vlan)), Some(priority)) => *of_vlan = priority,
            (None, Some(_)) => return Err("priority is that of a vlan: give both".into()),
        }
        Ok(settings)
    }
}

impl FromStr for VfSettings {
    type Err = String;

    /// Reads `mac=52:54:00:00:00:01,trust=on`.
    fn from_str(text: &str) -> Result<VfSettings, String> {
        let terms = text.split([',', ' ']).filter(|term| !term.is_empty());
        VfSettings::from_words(terms.map(|term| term.split_once('=').unwrap_or((term, ""))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_with_commas_or_spaces() {
        let wanted = VfSettings { vlan: Some((7, 2)), trust: Some(true), ..VfSettings::default() };
        for text in ["vlan=7,priority=2,trust=on", "trust=on vlan=7, priority=2"] {
            assert_eq!(text.parse::<VfSettings>().unwrap(), wanted);
        }
        for (text, word) in [("", "nothing to set"), ("trust", "on or off"), ("rate=5", "no setting")] {
            assert!(text.parse::<VfSettings>().unwrap_err().contains(word), "{text}");
        }
    }
}
