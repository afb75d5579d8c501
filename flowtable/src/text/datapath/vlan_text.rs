//! `vlan(...)`: the TCI of a tag.

use crate::{
    key::VLAN_PRESENT,
    text::{ParseError, scan},
};

const VID: u16 = 0x0fff;
const PCP: u16 = 0xe000;

/// Prints a TCI under a mask. `cfi` is printed unless it says what is usual: there is a tag.
pub(super) fn format(tci: u16, mask: u16) -> String {
    if mask == 0 {
        return "vlan(any)".to_owned();
    }
    let part = |name: &str, value: u16, bits: u16, all: u16| {
        if bits == all { format!("{name}={value}") } else { format!("{name}={value}/{bits:#x}") }
    };
    let mut text = format!(
        "vlan({},{}",
        part("vid", tci & VID, mask & VID, VID),
        part("pcp", (tci & PCP) >> 13, (mask & PCP) >> 13, PCP >> 13)
    );
    if tci & mask & VLAN_PRESENT == 0 {
        text.push_str(if mask & VLAN_PRESENT == 0 { ",cfi=0/0" } else { ",cfi=0" });
    }
    text.push(')');
    text
}

/// Reads the arguments of `vlan(...)`: TCI and mask. What is not named is wildcarded, except that there is a tag.
pub(super) fn parse(arguments: &str) -> Result<(u16, u16), ParseError> {
    if arguments == "any" {
        return Ok((0, 0));
    }
    let (mut tci, mut mask) = (VLAN_PRESENT, VLAN_PRESENT);
    for token in scan::list(arguments)? {
        let wrong = || ParseError::new(token, "not a field of vlan", "use vid= pcp= cfi=, or vlan(any)");
        let (name, text) = token.split_once('=').ok_or_else(wrong)?;
        let (shift, all) = match name {
            "vid" => (0, VID),
            "pcp" => (13, PCP),
            "cfi" => (12, VLAN_PRESENT),
            _ => return Err(wrong()),
        };
        let max = u128::from(all >> shift);
        let (value, bits) = match text.split_once('/') {
            Some((value, bits)) => (scan::number_as(token, value, max)?, scan::number_as(token, bits, max)?),
            None => (scan::number_as(token, text, max)?, all >> shift),
        };
        let (value, bits): (u16, u16) = (value, bits);
        mask = (mask & !all) | (bits << shift);
        tci = (tci & !all) | ((value & bits) << shift);
    }
    Ok((tci, mask))
}
