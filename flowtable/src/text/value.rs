//! Values of fields as text: addresses, numbers, flags, with their masks.

use core::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ParseError, PortNames, port_names, scan};
use crate::key::{Field, PortNo, ValueKind};

/// Names of the TCP flags, lowest bit first.
const TCP_FLAGS: [&str; 12] =
    ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"];

/// Words for fragment bits: word, value, mask.
const FRAGMENTS: [(&str, u128, u128); 5] =
    [("no", 0, 3), ("yes", 1, 1), ("first", 1, 3), ("later", 3, 3), ("not_later", 0, 2)];

/// How masked values are printed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum MaskStyle {
    /// `10.0.0.0/8` where the mask is a prefix, `0x50/0xf0`: rules.
    Prefix,
    /// `10.0.0.0/255.0.0.0`, `80/0xf0`: datapath flows.
    Address,
}

/// Prints the bits `mask` of a value, with the mask unless it is the whole field.
pub(super) fn format(
    field: Field,
    value: u128,
    mask: u128,
    style: MaskStyle,
    ports: &dyn PortNames,
) -> String {
    let kind = field.spec().kind;
    match kind {
        ValueKind::TcpFlags => return format_tcp_flags(value, mask),
        ValueKind::Frag => {
            let word = FRAGMENTS.iter().find(|(_, v, m)| (*v, *m) == (value, mask));
            if let Some((word, ..)) = word {
                return (*word).to_owned();
            }
        }
        ValueKind::Port if mask == field.ones() => {
            return port_names::format_port(PortNo(value as u32), ports);
        }
        _ => {}
    }
    let mut text = match style {
        MaskStyle::Prefix if field == Field::Ipv6Label => format!("0x{value:05x}"),
        MaskStyle::Prefix if kind == ValueKind::Decimal && mask != field.ones() => format!("{value:#x}"),
        _ => format_plain(kind, value),
    };
    if mask != field.ones() {
        let is_address = matches!(kind, ValueKind::Ipv4 | ValueKind::Ipv6);
        match prefix_len(mask, field.spec().bits) {
            Some(len) if is_address && style == MaskStyle::Prefix => {
                let _ = write!(text, "/{len}");
            }
            _ if is_address || kind == ValueKind::Mac => {
                let _ = write!(text, "/{}", format_plain(kind, mask));
            }
            _ if field == Field::Ipv6Label && style == MaskStyle::Prefix => {
                let _ = write!(text, "/0x{mask:05x}");
            }
            _ => {
                let _ = write!(text, "/{}", hex(mask));
            }
        }
    }
    text
}

/// A number as C's `%#x` prints it.
pub(super) fn hex(value: u128) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

fn format_plain(kind: ValueKind, value: u128) -> String {
    match kind {
        ValueKind::Mac => {
            let [.., a, b, c, d, e, f] = value.to_be_bytes();
            format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        }
        ValueKind::Ipv4 => Ipv4Addr::from(value as u32).to_string(),
        ValueKind::Ipv6 => Ipv6Addr::from(value).to_string(),
        ValueKind::Hex => hex(value),
        ValueKind::Decimal | ValueKind::Port | ValueKind::Frag | ValueKind::TcpFlags => value.to_string(),
    }
}

/// The length of the prefix that `mask` is, if it is one.
fn prefix_len(mask: u128, bits: u32) -> Option<u32> {
    let aligned = mask << (128 - bits);
    let len = aligned.leading_ones();
    (aligned.count_ones() == len).then_some(len)
}

fn format_tcp_flags(value: u128, mask: u128) -> String {
    let names = |bits: u128| TCP_FLAGS.iter().enumerate().filter(move |(i, _)| bits >> i & 1 != 0);
    if mask != Field::TcpFlags.ones() {
        let sign = |i: usize| if value >> i & 1 != 0 { '+' } else { '-' };
        return names(mask).map(|(i, name)| format!("{}{name}", sign(i))).collect();
    }
    if value == 0 {
        return "0".to_owned();
    }
    names(value).map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

/// Reads `value` or `value/mask`; `token` is what an error quotes. Returns value and mask.
pub(super) fn parse(
    field: Field,
    token: &str,
    text: &str,
    ports: &dyn PortNames,
) -> Result<(u128, u128), ParseError> {
    match field.spec().kind {
        ValueKind::TcpFlags if !text.starts_with(|c: char| c.is_ascii_digit()) => {
            return parse_tcp_flags(token, text);
        }
        ValueKind::Frag => {
            let word = FRAGMENTS.iter().find(|(word, ..)| *word == text);
            if let Some((_, value, mask)) = word {
                return Ok((*value, *mask));
            }
        }
        ValueKind::Port => {
            if let Ok(port) = port_names::parse_port(text, ports) {
                return Ok((u128::from(port.0), field.ones()));
            }
            if !text.contains('/') {
                return port_names::parse_port(text, ports).map(|_| (0, 0));
            }
        }
        _ => {}
    }
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (parse_plain(field, token, value)?, parse_mask(field, token, mask)?),
        None => (parse_plain(field, token, text)?, field.ones()),
    };
    Ok((value & mask, mask))
}

fn parse_mask(field: Field, token: &str, text: &str) -> Result<u128, ParseError> {
    let spec = field.spec();
    let is_address = matches!(spec.kind, ValueKind::Ipv4 | ValueKind::Ipv6);
    if is_address && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let len: u32 = scan::number_as(token, text, u128::from(spec.bits))?;
        return Ok(field.ones() & !field.ones().checked_shr(len).unwrap_or(0));
    }
    parse_plain(field, token, text)
}

fn parse_plain(field: Field, token: &str, text: &str) -> Result<u128, ParseError> {
    let wrong = |what: &str, example: &str| {
        ParseError::new(token, format!("\"{text}\" is not {what}"), format!("write it like {example}"))
    };
    match field.spec().kind {
        ValueKind::Mac => parse_mac(text).ok_or_else(|| wrong("an Ethernet address", "02:00:00:00:00:01")),
        ValueKind::Ipv4 => {
            let address = text.parse::<Ipv4Addr>().map_err(|_| wrong("an IPv4 address", "10.0.0.1"))?;
            Ok(u128::from(u32::from(address)))
        }
        ValueKind::Ipv6 => {
            let address = text.parse::<Ipv6Addr>().map_err(|_| wrong("an IPv6 address", "fe80::1"))?;
            Ok(u128::from(address))
        }
        ValueKind::Frag if scan::number(text).is_none() => {
            Err(wrong("a kind of fragment", "no, yes, first, later or not_later"))
        }
        _ => scan::number_as(token, text, field.ones()),
    }
}

fn parse_mac(text: &str) -> Option<u128> {
    let mut value = 0;
    let mut parts = 0;
    for part in text.split(':') {
        if !(1..=2).contains(&part.len()) || part.starts_with('+') {
            return None;
        }
        value = (value << 8) | u128::from(u8::from_str_radix(part, 16).ok()?);
        parts += 1;
        if parts > 6 {
            return None;
        }
    }
    (parts == 6).then_some(value)
}

/// `+syn-ack`, or `syn|ack` for exactly these flags.
fn parse_tcp_flags(token: &str, text: &str) -> Result<(u128, u128), ParseError> {
    let bit = |name: &str| {
        TCP_FLAGS.iter().position(|flag| *flag == name).map(|i| 1u128 << i).ok_or_else(|| {
            let known = TCP_FLAGS[..9].join(" ");
            ParseError::new(token, format!("\"{name}\" is not a TCP flag"), format!("use some of {known}"))
        })
    };
    let (mut value, mut mask) = (0, 0);
    if !text.starts_with(['+', '-']) {
        for name in text.split('|') {
            value |= bit(name)?;
        }
        return Ok((value, Field::TcpFlags.ones()));
    }
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        let names = &rest[1..];
        let end = names.find(['+', '-']).unwrap_or(names.len());
        let flag = bit(&names[..end])?;
        if mask & flag != 0 {
            return Err(ParseError::new(token, "a TCP flag is named twice", "name each flag once"));
        }
        mask |= flag;
        if sign == '+' {
            value |= flag;
        }
        rest = &names[end..];
    }
    Ok((value, mask))
}
