//! The arrows between the crates: they only point down.

use std::fs;

use crate::{Outcome, root};

/// Each crate of the product and what it may depend on.
const LAYERS: [(&str, &[&str]); 6] = [
    ("worksong-channel", &[]),
    ("worksong-engine", &["worksong-channel"]),
    ("worksong-worker", &["worksong-channel"]),
    ("worksong", &["worksong-engine", "worksong-worker"]),
    ("worksong-control", &["worksong-engine"]),
    ("worksong-cli", &["worksong-control", "worksong", "worksong-engine", "worksong-worker"]),
];

/// Only for tests: may depend on anything, and only `dev-dependencies` may name it.
const TESTKIT: &str = "worksong-testkit";

/// Checks the manifest of every crate in `crates/`.
pub(crate) fn check() -> Outcome {
    let crates = root().join("crates");
    let failed = |error| format!("could not read {}: {error}", crates.display());
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&crates).map_err(failed)? {
        let path = entry.map_err(failed)?.path().join("Cargo.toml");
        let Ok(manifest) = fs::read_to_string(&path) else { continue };
        wrong.extend(complaints(&manifest));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.sort();
    Err(format!("{}\nthe permitted arrows stand in xtask/src/layers.rs", wrong.join("\n")))
}

/// Returns what is wrong with the dependencies that a manifest names.
fn complaints(manifest: &str) -> Vec<String> {
    let Manifest { name, dependencies } = Manifest::parse(manifest);
    if name == TESTKIT {
        return Vec::new();
    }
    let Some((_, permitted)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
        return vec![format!("{name} has no place among the layers")];
    };
    let ours = dependencies.iter().filter(|dependency| dependency.starts_with("worksong"));
    ours.filter(|dependency| !permitted.contains(dependency))
        .map(|dependency| format!("{name} must not depend on {dependency}"))
        .collect()
}

/// What matters here of a `Cargo.toml`.
struct Manifest<'a> {
    name: &'a str,
    /// The keys of `dependencies` and `build-dependencies`, also those of one target only.
    dependencies: Vec<&'a str>,
}

impl<'a> Manifest<'a> {
    /// Reads the manifests that we write ourselves, not all of TOML.
    fn parse(text: &'a str) -> Self {
        let mut manifest = Self { name: "", dependencies: Vec::new() };
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']');
                // `[dependencies.worksong-engine]`
                if let Some((table, name)) = section.rsplit_once('.')
                    && is_dependencies(table)
                {
                    manifest.dependencies.push(name);
                }
            } else if let Some((key, value)) = line.split_once('=') {
                let key = key.trim();
                if section == "package" && key == "name" {
                    manifest.name = value.trim().trim_matches('"');
                } else if is_dependencies(section) {
                    // `worksong-engine.workspace = true`
                    manifest.dependencies.push(key.split('.').next().unwrap_or(key));
                }
            }
        }
        manifest
    }
}

fn is_dependencies(section: &str) -> bool {
    matches!(section.rsplit('.').next(), Some("dependencies" | "build-dependencies"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_down_are_permitted() {
        let manifest = "[package]\nname = \"worksong-engine\"\n\n[dependencies]\nworksong-channel = { workspace = true }\n\
                        serde = \"1\"\n\n[dev-dependencies]\nworksong-testkit = { workspace = true }\n";
        assert_eq!(complaints(manifest), Vec::<String>::new());
    }

    #[test]
    fn arrows_up_are_not_in_whatever_form() {
        for dependency in [
            "[dependencies]\nworksong-engine = { workspace = true }",
            "[dependencies]\nworksong-engine.workspace = true",
            "[dependencies.worksong-engine]\nworkspace = true",
            "[build-dependencies]\nworksong-engine = \"1\"",
            "[target.'cfg(unix)'.dependencies]\nworksong-engine = \"1\"",
        ] {
            let manifest = format!("[package]\nname = \"worksong-channel\"\n\n{dependency}\n");
            assert_eq!(complaints(&manifest), ["worksong-channel must not depend on worksong-engine"]);
        }
    }

    #[test]
    fn the_testkit_is_for_tests_only() {
        let manifest =
            "[package]\nname = \"worksong-cli\"\n[dependencies]\nworksong-testkit = { workspace = true }\n";
        assert_eq!(complaints(manifest), ["worksong-cli must not depend on worksong-testkit"]);
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        let manifest = "[package]\nname = \"worksong-new\"\n";
        assert_eq!(complaints(manifest), ["worksong-new has no place among the layers"]);
    }

    #[test]
    fn the_crates_of_this_checkout_are_in_order() {
        check().unwrap();
    }
}
