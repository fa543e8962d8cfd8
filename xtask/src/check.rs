//! `cargo xtask check`: what can be said of the code without running it.

use crate::run::{cargo, run};
use crate::{Outcome, layers};

/// Checks layers, format, lints and documentation; the cheapest first.
pub(crate) fn all() -> Outcome {
    layers::check()?;
    run(&mut cargo(["fmt", "--all", "--check"]))?;
    run(&mut cargo(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}
