//! Whole rules, and the requests that select rules.

use core::fmt::Write;

use super::{
    action_format::format_actions, action_parser::parse_actions, match_format::format_match,
    match_parser::parse_match_tokens, parse_ofport,
};
use crate::{
    rules::{DEFAULT_PRIORITY, Rule, RuleFilter, TABLES},
    text::{ParseError, PortNames, scan},
};

/// Reads a rule as `ovs-ofctl add-flow` does. `now_ms` becomes its creation time.
pub fn parse_flow(text: &str, ports: &dyn PortNames, now_ms: u64) -> Result<Rule, ParseError> {
    let (head, actions) = split_actions(text)?;
    let Some(actions) = actions else {
        return Err(ParseError::new(
            text,
            "no actions",
            "end the flow with actions=..., such as actions=drop",
        ));
    };
    let mut settings = Settings::default();
    let tokens = settings.take(scan::list(head)?, ports)?;
    if let Some((_, mask)) = settings.cookie
        && mask != u64::MAX
    {
        return Err(ParseError::new("cookie", "a new flow's cookie has no mask", "write cookie=VALUE"));
    }
    if settings.out_port.is_some() {
        return Err(ParseError::new("out_port", "selects flows to delete", "remove it from the new flow"));
    }
    let table_id = settings.table_id.unwrap_or(0);
    if table_id >= TABLES {
        return Err(ParseError::new(
            &format!("table={table_id}"),
            "there is no such table: a bridge has one, number 0",
            "write table=0 or leave it out",
        ));
    }
    let flow_match = parse_match_tokens(&tokens, ports)?;
    let actions = parse_actions(actions, &flow_match, ports)?;
    let priority = settings.priority.unwrap_or(DEFAULT_PRIORITY);
    Ok(Rule {
        table_id,
        cookie: settings.cookie.map_or(0, |(value, _)| value),
        idle_timeout_s: settings.idle_timeout_s.unwrap_or(0),
        hard_timeout_s: settings.hard_timeout_s.unwrap_or(0),
        ..Rule::new(priority, flow_match, actions, now_ms)
    })
}

/// Reads which rules a request is about, as `ovs-ofctl del-flows` and `dump-flows` do: a match, and `table=`,
/// `cookie=VALUE/MASK`, `out_port=`. The empty text selects all. `priority=` is for strict requests only.
pub fn parse_flow_match(text: &str, ports: &dyn PortNames, strict: bool) -> Result<RuleFilter, ParseError> {
    let (head, actions) = split_actions(text)?;
    if actions.is_some() {
        return Err(ParseError::new("actions", "flows are not selected by their actions", "remove it"));
    }
    let mut settings = Settings::default();
    let tokens = settings.take(scan::list(head)?, ports)?;
    if settings.priority.is_some() && !strict {
        return Err(ParseError::new(
            "priority",
            "only a strict request looks at the priority",
            "add --strict or remove it",
        ));
    }
    if settings.idle_timeout_s.is_some() || settings.hard_timeout_s.is_some() {
        return Err(ParseError::new("timeout", "flows are not selected by timeouts", "remove it"));
    }
    let (cookie, cookie_mask) = settings.cookie.unwrap_or((0, 0));
    Ok(RuleFilter {
        flow_match: parse_match_tokens(&tokens, ports)?,
        priority: settings.priority,
        cookie: cookie & cookie_mask,
        cookie_mask,
        out_port: settings.out_port,
        table_id: settings.table_id,
    })
}

/// Prints a rule without its counters, in a form that [`parse_flow`] reads.
pub fn format_rule(rule: &Rule, ports: &dyn PortNames) -> String {
    let mut text = String::new();
    if rule.cookie != 0 {
        let _ = write!(text, "cookie=0x{:x}, ", rule.cookie);
    }
    if rule.table_id != 0 {
        let _ = write!(text, "table={}, ", rule.table_id);
    }
    write_timeouts(rule, &mut text);
    write_match_and_actions(rule, ports, &mut text);
    text
}

/// Prints a rule with its counters, as a line of `ovs-ofctl dump-flows`.
pub fn format_rule_with_stats(rule: &Rule, ports: &dyn PortNames, now_ms: u64) -> String {
    let age_ms = now_ms.saturating_sub(rule.created_ms);
    let used_ms = rule.stats.last_used_ms().max(rule.created_ms);
    let mut text = format!(
        "cookie=0x{:x}, duration={}.{:03}s, table={}, n_packets={}, n_bytes={}, ",
        rule.cookie,
        age_ms / 1000,
        age_ms % 1000,
        rule.table_id,
        rule.stats.packets(),
        rule.stats.bytes()
    );
    write_timeouts(rule, &mut text);
    let _ = write!(text, "idle_age={}, ", now_ms.saturating_sub(used_ms) / 1000);
    write_match_and_actions(rule, ports, &mut text);
    text
}

fn write_timeouts(rule: &Rule, text: &mut String) {
    for (name, seconds) in [("idle_timeout", rule.idle_timeout_s), ("hard_timeout", rule.hard_timeout_s)] {
        if seconds != 0 {
            let _ = write!(text, "{name}={seconds}, ");
        }
    }
}

fn write_match_and_actions(rule: &Rule, ports: &dyn PortNames, text: &mut String) {
    let flow_match = format_match(&rule.flow_match, ports);
    if rule.priority != DEFAULT_PRIORITY {
        let separator = if flow_match.is_empty() { "" } else { "," };
        let _ = write!(text, "priority={}{separator}", rule.priority);
    }
    let separator = if flow_match.is_empty() && rule.priority == DEFAULT_PRIORITY { "" } else { " " };
    let _ = write!(text, "{flow_match}{separator}actions={}", format_actions(&rule.actions, ports));
}

/// Cuts `actions=` and what follows off a flow.
fn split_actions(text: &str) -> Result<(&str, Option<&str>), ParseError> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        let at_start = at == 0 || text[..at].ends_with([',', ' ', '\t', '\r', '\n']);
        quoted ^= c == '"';
        if quoted || !at_start {
            continue;
        }
        for key in ["actions=", "action="] {
            if let Some(actions) = text[at..].strip_prefix(key) {
                return Ok((&text[..at], Some(actions)));
            }
        }
    }
    Ok((text, None))
}

/// What a flow text says besides match and actions.
#[derive(Default)]
struct Settings {
    table_id: Option<u8>,
    priority: Option<u16>,
    cookie: Option<(u64, u64)>,
    idle_timeout_s: Option<u16>,
    hard_timeout_s: Option<u16>,
    out_port: Option<u16>,
}

impl Settings {
    /// Takes the settings out of the tokens and returns the others.
    fn take<'a>(
        &mut self,
        mut tokens: Vec<&'a str>,
        ports: &dyn PortNames,
    ) -> Result<Vec<&'a str>, ParseError> {
        let mut failed = None;
        tokens.retain(|token| match self.set(token, ports) {
            Ok(taken) => !taken,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        });
        failed.map_or(Ok(tokens), Err)
    }

    /// Whether the token was a setting.
    fn set(&mut self, token: &str, ports: &dyn PortNames) -> Result<bool, ParseError> {
        let Some((name, value)) = token.split_once('=') else { return self.flag(token) };
        match name {
            "table" => self.table_id = Some(scan::number_as(token, value, 254)?),
            "priority" => self.priority = Some(scan::number_as(token, value, 65535)?),
            "idle_timeout" => self.idle_timeout_s = Some(scan::number_as(token, value, 65535)?),
            "hard_timeout" => self.hard_timeout_s = Some(scan::number_as(token, value, 65535)?),
            "cookie" => self.cookie = Some(parse_cookie(token, value)?),
            "out_port" => self.out_port = Some(parse_ofport(value, ports)?),
            // What a dump says of the past, so that a dump can be fed back, as with `ovs-ofctl`.
            "duration" | "n_packets" | "n_bytes" | "idle_age" | "hard_age" => {}
            "out_group" | "importance" | "metadata" => {
                return Err(ParseError::new(token, format!("{name} is not supported"), "remove it"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn flag(&self, token: &str) -> Result<bool, ParseError> {
        match token {
            "send_flow_rem" | "check_overlap" | "reset_counts" | "no_packet_counts" | "no_byte_counts" => {
                Err(ParseError::new(token, "this flag is not supported", "remove it"))
            }
            _ => Ok(false),
        }
    }
}

/// `VALUE`, `VALUE/MASK` or `VALUE/-1`.
fn parse_cookie(token: &str, text: &str) -> Result<(u64, u64), ParseError> {
    let number = |text| scan::number_as(token, text, u128::from(u64::MAX));
    match text.split_once('/') {
        None => Ok((number(text)?, u64::MAX)),
        Some((value, "-1")) => Ok((number(value)?, u64::MAX)),
        Some((value, mask)) => Ok((number(value)?, number(mask)?)),
    }
}
