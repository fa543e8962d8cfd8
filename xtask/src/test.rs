//! `cargo xtask test`: everything from nothing to the runner's closing line.

use std::path::{Path, PathBuf};

use crate::run::{cargo, run, succeeds};
use crate::{Outcome, prepare};

/// Prepares, builds and runs the tests whose names contain one of the filters, or all of them.
pub(crate) fn all(filters: &[&str]) -> Outcome {
    let cache = prepare::all()?;
    // Whole-system tests start these as programs of their own; cargo would build only those of the tested package.
    run(&mut cargo(["build", "--locked", "--workspace", "--bins", "--examples"]))?;
    if filters.is_empty() {
        run(&mut cargo(["test", "--locked", "--workspace", "--doc", "--quiet"]))?;
    }
    let runner: &[&str] = if succeeds("cargo", &["nextest", "--version"]) {
        &["nextest", "run", "--locked", "--workspace"]
    } else {
        &["test", "--locked", "--workspace", "--lib", "--bins", "--tests", "--"]
    };
    run(cargo(runner)
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
