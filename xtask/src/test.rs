//! `cargo xtask test`: everything from nothing to the runner's closing line.

use std::path::{Path, PathBuf};

use crate::run::{cargo, run, succeeds};
use crate::{Outcome, prepare};

/// Some examples and tests are there only with a feature.
const EVERYTHING: [&str; 3] = ["--locked", "--workspace", "--all-features"];

/// Prepares, builds and runs the tests whose names contain one of the filters, or all of them.
pub(crate) fn all(filters: &[&str]) -> Outcome {
    let cache = prepare::all()?;
    // Whole-system tests start these as programs of their own; cargo would build only those of the tested package.
    run(cargo(["build", "--bins", "--examples"]).args(EVERYTHING))?;
    if filters.is_empty() {
        run(cargo(["test", "--doc", "--quiet"]).args(EVERYTHING))?;
    }
    let (runner, kinds): (&[&str], &[&str]) = if succeeds("cargo", &["nextest", "--version"]) {
        (&["nextest", "run"], &[])
    } else {
        (&["test"], &["--lib", "--bins", "--tests", "--"])
    };
    run(cargo(runner)
        .args(EVERYTHING)
        .args(kinds)
        .args(filters)
        .env("WORKSONG_BIN", target_folder()?.join("worksong"))
        .env("WORKSONG_TEST_CACHE", cache.root()))
}

/// Returns the folder that cargo puts executables into: this one is there, too.
fn target_folder() -> Outcome<PathBuf> {
    let executable = std::env::current_exe().map_err(|error| format!("could not find myself: {error}"))?;
    let folder = executable.parent().map(Path::to_path_buf);
    folder.ok_or_else(|| format!("{} is in no folder", executable.display()))
}
