//! Which frames the switch takes: `options:xdp-filter`.

use std::fmt;
use std::str::FromStr;

/// Most terms of a filter: a longer program would cost every frame of the device more.
const MOST_TERMS: usize = 128;

/// What the switch takes; everything else stays with the kernel.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Filter {
    /// Every frame.
    #[default]
    All,
    /// Frames that match at least one term.
    Any(Vec<Term>),
}

/// One reason to take a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Term {
    /// It is for this address.
    Mac([u8; 6]),
    /// It is for a group of addresses, broadcast included.
    Multicast,
    /// Its outer tag names this VLAN.
    Vlan(u16),
    /// It is UDP for this port, over IPv4 (not a later fragment) or IPv6 without extension headers, with at most one tag.
    Udp(u16),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let text = text.trim();
        if text == "all" {
            return Ok(Filter::All);
        }
        let terms = text.split([',', ' ']).filter(|term| !term.is_empty()).map(term);
        let terms = terms.collect::<Option<Vec<_>>>().filter(|terms| (1..=MOST_TERMS).contains(&terms.len()));
        terms.map(Filter::Any).ok_or_else(|| {
            format!(
                "xdp-filter={text}: use all, or up to {MOST_TERMS} of mac=XX:XX:XX:XX:XX:XX, vlan=N, udp=PORT and multicast with \
                 commas between them"
            )
        })
    }
}

fn term(text: &str) -> Option<Term> {
    if text == "multicast" {
        return Some(Term::Multicast);
    }
    let (kind, value) = text.split_once('=')?;
    match kind {
        "mac" => crate::nic::mac_address(value).map(Term::Mac),
        "vlan" => value.parse().ok().filter(|vlan| *vlan < 4096).map(Term::Vlan),
        "udp" => value.parse().ok().map(Term::Udp),
        _ => None,
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filter::Any(terms) = self else { return f.write_str("all") };
        for (index, term) in terms.iter().enumerate() {
            if index != 0 {
                f.write_str(",")?;
            }
            match term {
                Term::Mac(mac) => write!(f, "mac={}", mac.map(|byte| format!("{byte:02x}")).join(":"))?,
                Term::Multicast => f.write_str("multicast")?,
                Term::Vlan(vlan) => write!(f, "vlan={vlan}")?,
                Term::Udp(port) => write!(f, "udp={port}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_they_are_shown() {
        for text in
            ["all", "mac=02:00:00:00:00:0a", "vlan=7,udp=4789,multicast", "udp=0,udp=65535,vlan=0,vlan=4095"]
        {
            assert_eq!(text.parse::<Filter>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "none",
            "mac=2",
            "mac=02:00:00:00:00:0a:0b",
            "mac=2:0:0:0:0:a",
            "mac=02:00:00:00:00:+a",
            "vlan=4096",
            "udp=-1",
            "udp",
            "all,udp=1",
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert!(error.contains(&format!("xdp-filter={text}: use")), "{error}");
        }
        assert!(vec!["udp=1"; MOST_TERMS + 1].join(",").parse::<Filter>().is_err());
    }
}
