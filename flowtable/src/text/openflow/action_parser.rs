//! From text to the actions of a rule.

use super::{PacketKind, parse_ofport};
use crate::{
    actions::{SetField, rewrite},
    key::{Field, FlowMatch, Prerequisite, VLAN_PRESENT},
    rules::{OFPORT_LOCAL, RuleAction},
    text::{ParseError, PortNames, scan, value},
    wire::is_vlan_type,
};

/// Highest OpenFlow number a port can have.
const OFPORT_MAX: u16 = 0xfeff;

/// Actions of Open vSwitch that a rule cannot have here; named so that the error can say so.
const UNSUPPORTED: [&str; 24] = [
    "controller",
    "enqueue",
    "set_queue",
    "pop_queue",
    "group",
    "bundle",
    "resubmit",
    "goto_table",
    "learn",
    "ct",
    "ct_clear",
    "clone",
    "note",
    "sample",
    "meter",
    "move",
    "load",
    "push",
    "pop",
    "push_mpls",
    "pop_mpls",
    "set_tunnel",
    "write_metadata",
    "conjunction",
];

/// Reads a list of actions such as `mod_vlan_vid:5,output:2`; `drop`, or nothing, is the empty list.
///
/// `flow_match` is the match of the rule: what an action needs of a packet (`mod_tp_dst` needs ports) must be
/// there, and the general names take their meaning from it.
pub fn parse_actions(
    text: &str,
    flow_match: &FlowMatch,
    ports: &dyn PortNames,
) -> Result<Vec<RuleAction>, ParseError> {
    let tokens = scan::list(text)?;
    match tokens.as_slice() {
        [] => return Ok(Vec::new()),
        [only] if only.eq_ignore_ascii_case("drop") => return Ok(Vec::new()),
        _ => {}
    }
    let mut parser = ActionParser { kind: PacketKind::of(flow_match), ports };
    tokens.iter().map(|token| parser.parse(token)).collect()
}

struct ActionParser<'a> {
    /// What the packet is known to be, as the actions so far left it.
    kind: PacketKind,
    ports: &'a dyn PortNames,
}

impl ActionParser<'_> {
    fn parse(&mut self, token: &str) -> Result<RuleAction, ParseError> {
        if let Some(action) = self.bare(token) {
            return Ok(action);
        }
        if let Some(("output", arguments)) = scan::call(token) {
            return self.limited_output(token, arguments);
        }
        let (name, argument) = match token.split_once(':') {
            Some((name, argument)) if !token.starts_with('"') => (name, argument),
            _ => return self.bare_port(token),
        };
        match name.to_ascii_lowercase().as_str() {
            "output" => self.output(argument),
            "set_field" => self.set_field(token, argument),
            "push_vlan" => self.push_vlan(token, argument),
            "mod_vlan_vid" | "set_vlan_vid" => {
                self.kind.tagged = true;
                Ok(RuleAction::SetVlanVid(scan::number_as(token, argument, 4095)?))
            }
            "mod_vlan_pcp" | "set_vlan_pcp" => {
                self.kind.tagged = true;
                Ok(RuleAction::SetVlanPcp(scan::number_as(token, argument, 7)?))
            }
            "mod_dl_src" => self.modify(token, Field::EthSrc, argument),
            "mod_dl_dst" => self.modify(token, Field::EthDst, argument),
            "mod_nw_src" => self.modify(token, Field::IpSrc, argument),
            "mod_nw_dst" => self.modify(token, Field::IpDst, argument),
            "mod_nw_ttl" => self.modify(token, Field::IpTtl, argument),
            "mod_nw_ecn" => self.modify(token, Field::IpEcn, argument),
            "mod_nw_tos" => self.modify_tos(token, argument),
            "mod_tp_src" => self.modify_named(token, "tp_src", argument),
            "mod_tp_dst" => self.modify_named(token, "tp_dst", argument),
            _ => Err(unknown_action(token, name)),
        }
    }

    fn bare(&mut self, token: &str) -> Option<RuleAction> {
        Some(match token.to_ascii_lowercase().as_str() {
            "normal" => RuleAction::Normal,
            "flood" => RuleAction::Flood,
            "all" => RuleAction::All,
            "in_port" => RuleAction::InPort,
            "local" => RuleAction::Local,
            "strip_vlan" | "pop_vlan" => {
                self.kind.tagged = false;
                RuleAction::PopVlan
            }
            "dec_ttl" if self.kind.is_ip() => RuleAction::DecTtl,
            _ => return None,
        })
    }

    /// A port number or name by itself.
    fn bare_port(&self, token: &str) -> Result<RuleAction, ParseError> {
        if token == "drop" {
            return Err(ParseError::new(token, "drop is not alone", "remove the other actions or drop"));
        }
        if token == "dec_ttl" {
            return self.kind.check(Field::IpTtl, token, token).map(|()| RuleAction::DecTtl);
        }
        let name = token.split_once('(').map_or(token, |(name, _)| name);
        let is_port = token.starts_with('"') || scan::number(token).is_some();
        match self.output(token) {
            Err(error) if is_port => Err(error),
            Err(_) => Err(unknown_action(token, name)),
            action => action,
        }
    }

    /// A destination: number, name or one of the reserved ports.
    fn output(&self, text: &str) -> Result<RuleAction, ParseError> {
        let reserved = match text.to_ascii_lowercase().as_str() {
            "normal" => Some(RuleAction::Normal),
            "flood" => Some(RuleAction::Flood),
            "all" => Some(RuleAction::All),
            "in_port" => Some(RuleAction::InPort),
            _ => None,
        };
        if let Some(action) = reserved {
            return Ok(action);
        }
        let port = parse_ofport(text, self.ports)?;
        match port {
            1..=OFPORT_MAX => Ok(RuleAction::Output { port, max_len: None }),
            0xfff8 => Ok(RuleAction::InPort),
            0xfffa => Ok(RuleAction::Normal),
            0xfffb => Ok(RuleAction::Flood),
            0xfffc => Ok(RuleAction::All),
            OFPORT_LOCAL => Ok(RuleAction::Local),
            0xfffd => Err(unknown_action(text, "controller")),
            _ => Err(ParseError::new(
                text,
                "not a port number",
                format!("use a number from 1 to {OFPORT_MAX}, or a reserved port by name"),
            )),
        }
    }

    /// `output(port=N,max_len=M)`.
    fn limited_output(&self, token: &str, arguments: &str) -> Result<RuleAction, ParseError> {
        let (mut port, mut max_len) = (None, None);
        for argument in scan::list(arguments)? {
            match argument.split_once('=') {
                Some(("port", text)) => port = Some(self.output(text)?),
                Some(("max_len", text)) => {
                    let len: u32 = scan::number_as(token, text, u128::from(u32::MAX))?;
                    if len < 14 {
                        return Err(ParseError::new(
                            token,
                            "max_len is shorter than an Ethernet header",
                            "give at least 14",
                        ));
                    }
                    max_len = Some(len);
                }
                _ => {
                    return Err(ParseError::new(
                        argument,
                        "not an argument of output",
                        "use port=, max_len=",
                    ));
                }
            }
        }
        match (port, max_len) {
            (Some(RuleAction::Output { port, .. }), Some(_)) => Ok(RuleAction::Output { port, max_len }),
            (Some(RuleAction::Local), Some(_)) => Ok(RuleAction::Output { port: OFPORT_LOCAL, max_len }),
            (Some(action), None) => Ok(action),
            (Some(_), Some(_)) => {
                Err(ParseError::new(token, "max_len needs one port", "name a port by number or name"))
            }
            (None, _) => Err(ParseError::new(token, "no port", "write output(port=N,max_len=M)")),
        }
    }

    fn push_vlan(&mut self, token: &str, argument: &str) -> Result<RuleAction, ParseError> {
        let eth_type: u16 = scan::number_as(token, argument, 0xffff)?;
        if !is_vlan_type(eth_type) {
            return Err(ParseError::new(token, "not the EtherType of a VLAN tag", "use 0x8100 or 0x88a8"));
        }
        self.kind.tagged = true;
        Ok(RuleAction::PushVlan(eth_type))
    }

    /// `mod_*` of a field that has one meaning.
    fn modify(&self, token: &str, field: Field, argument: &str) -> Result<RuleAction, ParseError> {
        let name = token.split(':').next().unwrap_or(token);
        self.kind.check(field, name, token)?;
        let (value, mask) = value::parse(field, token, argument, self.ports)?;
        if mask != field.ones() {
            return Err(ParseError::new(
                token,
                "this action takes no mask",
                format!("write set_field:{argument}->{}", field.name()),
            ));
        }
        Ok(RuleAction::set(SetField::exact(field, value)))
    }

    /// `mod_*` of a field whose name depends on the protocol.
    fn modify_named(&self, token: &str, field: &str, argument: &str) -> Result<RuleAction, ParseError> {
        let field = self.kind.resolve(field).ok_or_else(|| unknown_action(token, token))?;
        self.kind.check(field, if token.contains("tp_src") { "tp_src" } else { "tp_dst" }, token)?;
        self.modify(token, field, argument)
    }

    fn modify_tos(&self, token: &str, argument: &str) -> Result<RuleAction, ParseError> {
        self.kind.check(Field::IpDscp, "mod_nw_tos", token)?;
        let tos: u128 = scan::number_as(token, argument, 255)?;
        if tos & 3 != 0 {
            return Err(ParseError::new(
                token,
                "the two lowest bits must be zero",
                "give a multiple of 4, and set those bits with mod_nw_ecn",
            ));
        }
        Ok(RuleAction::set(SetField::exact(Field::IpDscp, tos >> 2)))
    }

    /// `set_field:VALUE[/MASK]->FIELD`.
    fn set_field(&self, token: &str, argument: &str) -> Result<RuleAction, ParseError> {
        let Some((text, name)) = argument.split_once("->") else {
            return Err(ParseError::new(token, "no field", "write set_field:VALUE->FIELD"));
        };
        if name == "nw_tos" && !text.contains('/') {
            return self.modify_tos(token, text);
        }
        let Some(field) = self.kind.resolve(name) else {
            return Err(ParseError::new(token, format!("unknown field \"{name}\""), "use a field's name"));
        };
        let field = if name == "dl_vlan" { Field::VlanVid } else { field };
        if !rewrite::is_settable(field) {
            return Err(ParseError::new(token, format!("{name} cannot be set"), "use a settable field"));
        }
        let tag = matches!(field, Field::VlanTci | Field::VlanVid | Field::VlanPcp);
        if tag && !self.kind.meets(Prerequisite::Vlan) {
            return Err(ParseError::new(
                token,
                format!("{name} needs a VLAN tag, which the packet may not have"),
                "match on dl_vlan or vlan_tci, or put push_vlan:0x8100 before it",
            ));
        }
        self.kind.check(field, name, token)?;
        let (value, mask) = value::parse(field, token, text, self.ports)?;
        let byte = matches!(field, Field::IcmpType | Field::IcmpCode | Field::Icmpv6Type | Field::Icmpv6Code);
        if byte && value > 255 {
            return Err(ParseError::new(token, "more than 255", "give a number from 0 to 255"));
        }
        let set = SetField::masked(field, value, mask);
        let present = u128::from(VLAN_PRESENT);
        match field {
            // The tag stays: removing it is the business of pop_vlan.
            Field::VlanVid if set.is_exact() => Ok(RuleAction::set(SetField::exact(field, value | present))),
            Field::VlanVid | Field::VlanTci if mask & !value & present != 0 => Err(ParseError::new(
                token,
                "bit 0x1000 says that there is a tag and must be set",
                "add 0x1000 to the value, or use pop_vlan to remove the tag",
            )),
            _ => Ok(RuleAction::set(set)),
        }
    }
}

fn unknown_action(token: &str, name: &str) -> ParseError {
    if UNSUPPORTED.contains(&name) {
        return ParseError::new(token, format!("the action {name} is not supported"), SUPPORTED);
    }
    ParseError::new(token, "neither an action nor a port", SUPPORTED)
}

/// What to write instead of an unknown action.
const SUPPORTED: &str = "use output:PORT normal flood all in_port local drop set_field:V->F push_vlan:TYPE \
     pop_vlan mod_vlan_vid:N mod_vlan_pcp:N mod_dl_src:MAC mod_dl_dst:MAC mod_nw_src:IP mod_nw_dst:IP \
     mod_nw_tos:N mod_tp_src:N mod_tp_dst:N dec_ttl";
