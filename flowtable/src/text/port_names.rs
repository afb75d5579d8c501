//! Port names, which only the caller knows.

use super::{ParseError, scan};
use crate::key::PortNo;

/// Names of ports. The numbers are datapath numbers or OpenFlow numbers, whichever the text at hand uses.
pub trait PortNames {
    /// The name of a port, if it has one.
    fn name(&self, port: PortNo) -> Option<String>;
    /// The port of a name.
    fn number(&self, name: &str) -> Option<PortNo>;
}

/// No names: ports are printed and read as numbers.
#[derive(Clone, Copy, Default, Debug)]
pub struct PortNumbers;

impl PortNames for PortNumbers {
    fn name(&self, _port: PortNo) -> Option<String> {
        None
    }

    fn number(&self, _name: &str) -> Option<PortNo> {
        None
    }
}

/// Names that, bare, would be something else where a port can stand.
const WORDS: [&str; 3] = ["drop", "local", "pop_vlan"];

/// Prints a port by name, in quotes where the name could be taken for something else.
pub(super) fn format_port(port: PortNo, ports: &dyn PortNames) -> String {
    let Some(name) = ports.name(port) else { return port.to_string() };
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !WORDS.iter().any(|word| name.eq_ignore_ascii_case(word));
    if plain { name } else { scan::quote(&name) }
}

/// Reads a port number or a name, quoted or not.
pub(super) fn parse_port(text: &str, ports: &dyn PortNames) -> Result<PortNo, ParseError> {
    if let Some(name) = scan::unquote(text) {
        return ports.number(&name).ok_or_else(|| unknown_port(text));
    }
    match text.parse() {
        Ok(number) => Ok(PortNo(number)),
        Err(_) => ports.number(text).ok_or_else(|| unknown_port(text)),
    }
}

fn unknown_port(text: &str) -> ParseError {
    ParseError::new(text, "no port has this name or number", "use a port of the bridge")
}
