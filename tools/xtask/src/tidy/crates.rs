//! Arrows between crates, from the dependency tables of their manifests.

use super::Finding;
use super::rules::CRATE_ARROWS;

/// Checks one Cargo.toml. Only the names of dependencies matter, so a line reader will do: TOML's other
/// ways to write a table are reported rather than missed.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut section = String::new();
    let mut package = String::new();
    let mut named = Vec::new();
    for (line, content) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if let Some(name) =
            content.strip_prefix('[').and_then(|rest| rest.split(']').next_back().map(|_| rest))
        {
            section = name.split(']').next().unwrap_or_default().trim().to_owned();
            if let Some(name) = dependency_table(&section) {
                named.push((line, name.to_owned()));
            }
            continue;
        }
        let Some((key, value)) = content.split_once('=').filter(|_| !content.starts_with('#')) else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        match section.as_str() {
            "package" if key == "name" => package = unquote(value).to_owned(),
            section if is_dependencies(section) => {
                let name = key.split('.').next().unwrap_or_default();
                named.push((line, unquote(renamed(value).unwrap_or(name)).to_owned()));
            }
            section if dependency_table(section).is_some() && key == "package" => {
                named.push((line, unquote(value).to_owned()));
            }
            "" if key.contains("dependencies") => findings.push(Finding::new(
                file,
                line,
                "write dependencies as a [dependencies] table: tidy cannot read them here",
            )),
            _ => {}
        }
    }
    if package.is_empty() {
        // The workspace's own manifest names versions and makes no arrows.
        return findings;
    }
    let allowed =
        CRATE_ARROWS.iter().find(|(name, _)| *name == package).map_or(&[][..], |(_, allowed)| allowed);
    for (line, name) in named {
        let ours = CRATE_ARROWS.iter().any(|(other, _)| *other == name);
        if ours && !allowed.contains(&name.as_str()) {
            let may = if allowed.is_empty() { "nothing of ours".to_owned() } else { allowed.join(", ") };
            findings.push(Finding::new(
                file,
                line,
                format!("{package} may not depend on {name} (it may on {may})"),
            ));
        }
    }
    findings
}

/// Whether a section lists dependencies: `dependencies`, `dev-dependencies`, `target.'cfg(…)'.dependencies`.
fn is_dependencies(section: &str) -> bool {
    let last = section.rsplit('.').next().unwrap_or_default();
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
        && !section.starts_with("workspace")
}

/// The crate of a section that is one dependency: `dependencies.pmd`.
fn dependency_table(section: &str) -> Option<&str> {
    let (table, name) = section.rsplit_once('.')?;
    is_dependencies(table).then(|| unquote(name))
}

/// The true name of a dependency that is renamed: `{ package = "pmd", … }`.
fn renamed(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("package")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
    rest.split('"').next()
}

fn unquote(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(package: &str, rest: &str) -> Vec<usize> {
        let text = format!("[package]\nname = \"{package}\"\n{rest}");
        check("Cargo.toml", &text).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn arrows_point_one_way() {
        assert!(lines("vhost-port", "[dependencies]\npmd.workspace = true\nlog = \"0.4\"\n").is_empty());
        assert_eq!(lines("vhost-port", "[dependencies]\nflowtable.workspace = true\n"), [4]);
        assert_eq!(lines("pmd", "[dev-dependencies]\n\n# why\nvhost-port = { path = \"x\" }\n"), [6]);
        assert_eq!(lines("vswitch", "[dependencies]\ntests = { path = \"x\" }\n"), [4]);
        assert_eq!(lines("newcomer", "[dependencies]\npmd.workspace = true\n"), [4]);
    }

    #[test]
    fn every_way_to_write_a_dependency_is_seen() {
        assert_eq!(lines("pmd", "[dependencies.flowtable]\nworkspace = true\n"), [3]);
        assert_eq!(lines("pmd", "[target.'cfg(unix)'.dependencies]\nflowtable = \"1\"\n"), [4]);
        assert_eq!(lines("pmd", "[dependencies]\nft = { package = \"flowtable\", path = \"x\" }\n"), [4]);
        assert_eq!(lines("pmd", "[dependencies.ft]\npackage = \"flowtable\"\n"), [4]);
        assert_eq!(lines("pmd", "[build-dependencies]\n\"flowtable\" = \"1\"\n"), [4]);
        assert_eq!(check("Cargo.toml", "dependencies = { pmd = \"1\" }\n").len(), 1);
    }

    #[test]
    fn the_workspace_manifest_makes_no_arrows() {
        assert!(check("Cargo.toml", "[workspace.dependencies]\npmd = { path = \"pmd\" }\n").is_empty());
    }
}
