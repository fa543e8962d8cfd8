//! `cargo xtask check`: what can be said of the code without running it.

use crate::run::{cargo, run};
use crate::{Outcome, dependencies, layers};

/// What people depend on, whose features may not hide that it needs them.
const LIBRARIES: [&str; 4] = ["-p", "worksong", "-p", "worksong-worker"];
/// A workspace of its own, with the dependencies of cargo-fuzz.
const FUZZ: [&str; 2] = ["--manifest-path", "fuzz/Cargo.toml"];

/// Checks layers, dependencies, format, lints and documentation; the cheapest first.
pub(crate) fn all() -> Outcome {
    layers::check()?;
    dependencies::check()?;
    run(&mut cargo(["fmt", "--all", "--check"]))?;
    run(cargo(["fmt", "--check"]).args(FUZZ))?;
    let clippy = || cargo(["clippy", "--locked"]);
    let deny = ["--", "-D", "warnings"];
    run(clippy().args(["--workspace", "--all-targets", "--all-features"]).args(deny))?;
    run(clippy().args(LIBRARIES).args(["--no-default-features", "--lib"]).args(deny))?;
    // To compile libFuzzer needs a C++ compiler; a check never links what this path would name.
    run(cargo(["check", "--locked", "--target-dir", "target/fuzz"])
        .args(FUZZ)
        .env("CUSTOM_LIBFUZZER_PATH", "/usr/lib/libFuzzer.a"))?;
    run(cargo(["doc", "--locked", "--workspace", "--no-deps", "--all-features"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}
