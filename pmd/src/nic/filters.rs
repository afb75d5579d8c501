//! What a card that cannot receive everything is asked to receive beside what is for its own address: `options:vf-filter`.

use std::str::FromStr;

/// Most addresses or VLANs: a card has 32 places for all its functions.
const MOST: usize = 32;

/// Addresses and VLANs.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Filters {
    /// Further addresses of stations.
    pub addresses: Vec<[u8; 6]>,
    /// VLANs whose tagged frames are wanted.
    pub vlans: Vec<u16>,
}

impl Filters {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.vlans.is_empty()
    }
}

impl FromStr for Filters {
    type Err = String;

    fn from_str(text: &str) -> Result<Filters, String> {
        let mut filters = Filters::default();
        let mut add = |term: &str| -> Option<()> {
            match term.split_once('=')? {
                ("mac", value) => {
                    let mac = mac_address(value)?;
                    filters.addresses.push(Some(mac).filter(|mac| is_station(*mac))?);
                }
                ("vlan", value) => {
                    filters.vlans.push(value.parse().ok().filter(|vlan| (1..4095).contains(vlan))?);
                }
                _ => return None,
            }
            Some(())
        };
        let good = text.split([',', ' ']).filter(|term| !term.is_empty()).all(|term| add(term).is_some());
        if good && !filters.is_empty() && filters.addresses.len().max(filters.vlans.len()) <= MOST {
            return Ok(filters);
        }
        Err(format!(
            "vf-filter={text}: use mac=XX:XX:XX:XX:XX:XX of a station and vlan=N from 1 to 4094, up to {MOST} of each, with commas between them"
        ))
    }
}

/// Whether it can be the address of a station: not of a group, and not nothing.
pub(crate) fn is_station(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// Reads an address as `02:00:00:00:00:0a`.
pub fn mac_address(text: &str) -> Option<[u8; 6]> {
    let byte = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
    };
    text.split(':').map(byte).collect::<Option<Vec<_>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_as_people_write_them() {
        let filters: Filters = "mac=02:00:00:00:00:0a, vlan=7,vlan=4094".parse().unwrap();
        assert_eq!(filters, Filters { addresses: vec![[2, 0, 0, 0, 0, 10]], vlans: vec![7, 4094] });
        for text in [
            "",
            "all",
            "mac=03:00:00:00:00:0a",
            "mac=00:00:00:00:00:00",
            "mac=2",
            "vlan=0",
            "vlan=4095",
            "vlan=-1",
        ] {
            assert!(text.parse::<Filters>().unwrap_err().contains("vf-filter="), "{text}");
        }
        assert!(vec!["vlan=7"; MOST + 1].join(",").parse::<Filters>().is_err());
    }

    #[test]
    fn addresses_have_six_bytes_of_two_digits() {
        assert_eq!(mac_address("02:00:00:00:00:0A"), Some([2, 0, 0, 0, 0, 10]));
        for text in ["", "02", "02:00:00:00:00:0a:0b", "2:0:0:0:0:a", "02:00:00:00:00:+a"] {
            assert_eq!(mac_address(text), None, "{text}");
        }
    }
}
