//! Where a PCI function is.

use core::fmt;
use core::str::FromStr;

/// Domain, bus, device and function. Its text is safe as a name in sysfs: digits, colons and one dot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = String;

    /// Reads `0000:05:00.0`, or `05:00.0` in domain 0.
    fn from_str(text: &str) -> Result<PciAddress, String> {
        parse(text).ok_or_else(|| {
            format!(
                "{text:?} is no PCI address: write DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, as 0000:05:00.0"
            )
        })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let mut parts = text.rsplitn(3, ':');
    let (device, function) = parts.next()?.split_once('.')?;
    let bus = parts.next()?;
    let domain = parts.next().unwrap_or("0000");
    let hex = |digits: &str, most: usize| {
        let plain =
            !digits.is_empty() && digits.len() <= most && digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    let device = u8::try_from(hex(device, 2)?).ok().filter(|&device| device < 32)?;
    let function = u8::try_from(hex(function, 1)?).ok().filter(|&function| function < 8)?;
    let bus = u8::try_from(hex(bus, 2)?).ok()?;
    Some(PciAddress { domain: hex(domain, 8)?, bus, device, function })
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_as_people_write_them() {
        for text in ["0000:05:00.0", "05:00.0", "0000:5:0.0"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), "0000:05:00.0");
        }
        assert_eq!("10000:ff:1f.7".parse::<PciAddress>().unwrap().to_string(), "10000:ff:1f.7");
        for text in [
            "",
            "5",
            "05:00",
            "0000:05:20.0",
            "0000:05:00.8",
            "../0000:05:00.0",
            "0000:05:00.0/",
            "0:+5:00.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_never_leaves_its_folder(text in ".*") {
            if let Ok(address) = text.parse::<PciAddress>() {
                let shown = address.to_string();
                prop_assert!(shown.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.'));
                prop_assert_eq!(shown.parse::<PciAddress>(), Ok(address));
            }
        }
    }
}
