//! Arrows between modules, from every path a file names: in `use` trees and in expressions.

use super::Finding;
use super::rules::{DRIVER_FOLDERS, IMPORT_RULES, SHARED_BY_DRIVERS};
use super::source::{Source, Token};

/// A path as segments from the crate root (`crate::…`) or from an external crate, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    path: String,
    line: usize,
}

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for named in paths(source) {
        let breach = rule_against(&source.file, &named.path)
            .or_else(|| driver_rule_against(&source.file, &named.path));
        let Some(reason) = breach else { continue };
        let text = format!("{} is named here: {reason}", named.path);
        if !source.is_excused(named.line)
            && !findings.iter().any(|old| old.line == named.line && old.text == text)
        {
            findings.push(Finding::new(&source.file, named.line, text));
        }
    }
    findings
}

fn rule_against(file: &str, path: &str) -> Option<String> {
    let applies = |files: &[&str]| files.iter().any(|start| file.starts_with(start));
    IMPORT_RULES
        .iter()
        .filter(|rule| applies(rule.files) && !applies(rule.except))
        .find(|rule| rule.forbidden.iter().any(|forbidden| is_below(path, forbidden)))
        .map(|rule| rule.reason.to_owned())
}

fn driver_rule_against(file: &str, path: &str) -> Option<String> {
    DRIVER_FOLDERS.iter().find_map(|(folder, module)| {
        let own = first_segment(file.strip_prefix(folder)?, "/");
        let own = own.strip_suffix(".rs").unwrap_or(own);
        let other = first_segment(path.strip_prefix(module)?.strip_prefix("::")?, "::");
        // Types re-exported by the folder are not siblings.
        let is_sibling = other.starts_with(|c: char| c.is_ascii_lowercase()) && other != own;
        let allowed = SHARED_BY_DRIVERS.contains(&own) || SHARED_BY_DRIVERS.contains(&other);
        (is_sibling && !allowed)
            .then(|| format!("driver {own} may not import driver {other}: move what they share up"))
    })
}

fn first_segment<'a>(path: &'a str, separator: &str) -> &'a str {
    path.split(separator).next().unwrap_or(path)
}

fn is_below(path: &str, start: &str) -> bool {
    path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path of the file, with `self` and `super` resolved. `super` is only resolved outside the unit tests at the end of a
/// file, which are one module deeper; they may look into their own crate as they like.
fn paths(source: &Source) -> Vec<Named> {
    let module = module_of(&source.file);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = source.tokens.get(at) {
        let starts = is_name(token)
            && at.checked_sub(1).and_then(|before| source.tokens.get(before)).is_none_or(|t| t.text != "::");
        let joins = source.tokens.get(at + 1).is_some_and(|next| next.text == "::");
        let is_use =
            at.checked_sub(1).and_then(|before| source.tokens.get(before)).is_some_and(|t| t.text == "use");
        if !starts || !(joins || is_use) {
            at += 1;
            continue;
        }
        let mut tree = Vec::new();
        at = read_tree(&source.tokens, at, "", &mut tree);
        for named in tree {
            found.extend(resolve(&named, &module, source.is_test(named.line)));
        }
    }
    found
}

/// Reads a path or `use` tree from `at`; returns the place behind it.
fn read_tree(tokens: &[Token], mut at: usize, prefix: &str, out: &mut Vec<Named>) -> usize {
    let mut path = prefix.to_owned();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text != "}") {
                let before = at;
                at = read_tree(tokens, at, &path, out);
                if tokens.get(at).is_some_and(|token| token.text == "as") {
                    at += 2;
                }
                // A comma, or anything unexpected: never stand still.
                at += usize::from(at == before || tokens.get(at).is_some_and(|token| token.text == ","));
            }
            return at + 1;
        }
        if !is_name(token) {
            break;
        }
        line = token.line;
        path = if path.is_empty() { token.text.clone() } else { format!("{path}::{}", token.text) };
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    let glob = tokens.get(at).is_some_and(|token| token.text == "*") && at > 0 && !path.is_empty();
    if path != prefix || glob {
        out.push(Named { path, line });
    }
    if glob { at + 1 } else { at }
}

fn is_name(token: &Token) -> bool {
    token.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The module path of a file inside its crate: `vswitch/src/datapath/worker.rs` is `datapath::worker`.
fn module_of(file: &str) -> Vec<String> {
    let Some((_, inside)) = file.split_once("src/") else { return Vec::new() };
    let stem = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

fn resolve(named: &Named, module: &[String], in_tests: bool) -> Option<Named> {
    let mut segments: Vec<&str> = named.path.split("::").collect();
    let relative = segments.iter().take_while(|segment| matches!(**segment, "self" | "super")).count();
    if relative == 0 {
        return Some(named.clone());
    }
    if in_tests {
        return None;
    }
    let ups = segments.iter().take(relative).filter(|segment| **segment == "super").count();
    let base = module.get(..module.len().checked_sub(ups)?)?;
    let mut path = vec!["crate"];
    path.extend(base.iter().map(String::as_str));
    path.extend(segments.drain(relative..));
    Some(Named { path: path.join("::"), line: named.line })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<usize> {
        check(&Source::new(file, text)).into_iter().map(|finding| finding.line).collect()
    }

    fn names(file: &str, text: &str) -> Vec<String> {
        paths(&Source::new(file, text)).into_iter().map(|named| named.path).collect()
    }

    #[test]
    fn trees_are_expanded_and_relatives_resolved() {
        let text =
            "use crate::{a::{B, c}, d as e, f::*};\nfn g() -> h::I { super::j::k(&self::l::M { n: o::p }) }";
        assert_eq!(
            names("vswitch/src/x/y.rs", text),
            [
                "crate::a::B",
                "crate::a::c",
                "crate::d",
                "crate::f",
                "h::I",
                "crate::x::j::k",
                "crate::x::y::l::M",
                "o::p"
            ]
        );
        assert_eq!(names("vswitch/src/x/mod.rs", "use super::z;"), ["crate::z"]);
        assert_eq!(names("vswitch/src/lib.rs", "use self::z;"), ["crate::z"]);
    }

    #[test]
    fn the_data_path_knows_no_management() {
        let file = "vswitch/src/datapath/worker.rs";
        assert_eq!(found(file, "use crate::config::X;"), [1]);
        assert_eq!(found(file, "use crate::{\n    datapath::X,\n    slowpath,\n};"), [3]);
        assert_eq!(found(file, "use super::super::bridge;"), [1]);
        assert_eq!(found(file, "fn f() { crate::translate::go(); }"), [1]);
        assert_eq!(
            found(
                file,
                "// crate::config\nuse crate::datapath::Y; // tidy: no\nlet s = \"crate::config::X\";"
            ),
            [0usize; 0]
        );
        assert_eq!(found(file, "use crate::config::X; // tidy: until the seam moves"), [0usize; 0]);
        assert_eq!(found("vswitch/src/management/mod.rs", "use crate::config::X;"), [0usize; 0]);
    }

    #[test]
    fn no_part_knows_what_puts_the_parts_together() {
        assert_eq!(found("vswitch/src/bridge/mod.rs", "use crate::switch::Switch;"), [1]);
        assert_eq!(found("vswitch/src/management/fdb.rs", "use crate::switch::Switch;"), [0usize; 0]);
    }

    #[test]
    fn system_calls_live_in_one_place() {
        assert_eq!(found("vhost-port/src/lib.rs", "let x = libc::close(1);"), [1]);
        assert_eq!(found("vhost-port/src/lib.rs", "use libc;"), [1]);
        assert_eq!(found("pmd/src/sys/map.rs", "use libc::mmap;"), [0usize; 0]);
    }

    #[test]
    fn drivers_are_strangers() {
        assert_eq!(found("pmd/src/drivers/tap/rx.rs", "use crate::drivers::pcap::Reader;"), [1]);
        assert_eq!(found("pmd/src/drivers/null.rs", "use super::pair;"), [1]);
        assert_eq!(found("pmd/src/drivers/tap/rx.rs", "use super::super::pair::X;"), [1]);
        assert_eq!(
            found("pmd/src/drivers/tap/rx.rs", "use super::queue::X; use crate::drivers::tap::Y;"),
            [0usize; 0]
        );
        assert_eq!(found("pmd/src/drivers/mod.rs", "use self::pair::Pair;"), [0usize; 0]);
    }

    #[test]
    fn purity_and_sessions() {
        assert_eq!(
            found("flowtable/src/megaflow.rs", "use std::{collections::HashMap, time::Instant};"),
            [1]
        );
        assert_eq!(found("flowtable/src/megaflow.rs", "use std::net::Ipv4Addr;"), [0usize; 0]);
        assert_eq!(found("flowtable/examples/cost.rs", "use std::time::Instant;"), [0usize; 0]);
        assert_eq!(found("vhost-port/src/net/port.rs", "use crate::session::Machine;"), [1]);
    }
}
