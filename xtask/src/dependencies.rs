//! The dependencies: each has its reason in `docs/dependencies.md`, and each reason its dependency.

use std::collections::BTreeSet;
use std::fs;

use crate::{Outcome, root};

/// Of the fuzz targets, which are a workspace of their own.
const ELSEWHERE: [&str; 1] = ["libfuzzer-sys"];

/// Compares the workspace table with the document.
pub(crate) fn check() -> Outcome {
    let read = |name: &str| {
        let path = root().join(name);
        fs::read_to_string(&path).map_err(|error| format!("could not read {}: {error}", path.display()))
    };
    let (manifest, document) = (read("Cargo.toml")?, read("docs/dependencies.md")?);
    let complaints = complaints(&manifest, &document);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("\n"))
}

fn complaints(manifest: &str, document: &str) -> Vec<String> {
    let (used, explained) = (used(manifest), explained(document));
    let without_reason = used.difference(&explained).map(|name| {
        format!(
            "{name} has no reason in docs/dependencies.md: say why, its cost and what we would write instead"
        )
    });
    let without_use = explained.difference(&used).filter(|name| !ELSEWHERE.contains(name)).map(|name| {
        format!("docs/dependencies.md explains {name}, which is not in the workspace table of Cargo.toml")
    });
    without_reason.chain(without_use).collect()
}

/// The names in the workspace table, without our own crates.
fn used(manifest: &str) -> BTreeSet<&str> {
    let table = manifest.split_once("[workspace.dependencies]\n").map_or("", |(_, rest)| rest);
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    let foreign = lines.filter(|line| !line.contains("path = "));
    foreign.filter_map(|line| Some(line.split_once(" = ")?.0)).collect()
}

/// The names in the first column of all tables.
fn explained(document: &str) -> BTreeSet<&str> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next()).filter(|cell| *cell != "crate");
    cells.flat_map(|cell| cell.split(", ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[workspace.dependencies]\nworksong-engine = { path = \"crates/engine\" }\n\n\
                            libc = \"0.2\"\nhyper-util = { version = \"0.1\" }\n\n[profile.dev]\ndebug = false\n";

    #[test]
    fn one_row_may_explain_several() {
        let document = "# Dependencies\n\n| crate | why |\n|---|---|\n| libc, hyper-util | because |\n";
        assert_eq!(complaints(MANIFEST, document), Vec::<String>::new());
    }

    #[test]
    fn each_side_has_to_know_the_other() {
        let document =
            "| crate | why |\n|---|---|\n| libc | because |\n| serde | once |\n| libfuzzer-sys | fuzz |\n";
        let complaints = complaints(MANIFEST, document);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].starts_with("hyper-util has no reason"));
        assert!(complaints[1].contains("explains serde, which is not"));
    }

    #[test]
    fn those_of_this_checkout_are_explained() {
        check().unwrap();
    }
}
