//! The developer's commands: `cargo xtask test`, `cargo xtask check`, `cargo xtask prepare`, `cargo xtask layers`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a command-line tool tells people what it does")]

mod cache;
mod check;
mod dependencies;
mod layers;
mod prepare;
mod run;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a step gives; the error is the sentence that the developer reads.
type Outcome<T = ()> = Result<T, String>;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  test [FILTER…]  Prepare what the tests need and run all tests, or those whose names contain a filter
  check           Format, clippy, documentation and layers, of all features and of none; warnings are errors
  prepare         Only prepare what the tests need: runtimes and packages, in a cache outside the checkout
  layers          Only check that the crates depend on each other in the permitted direction

Variables:
  WORKSONG_TEST_CACHE     Where runtimes and packages are kept (default: ~/.cache/worksong-tests)
  WORKSONG_TEST_PATIENCE  How many seconds a test waits for something to happen (default: 20)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["test", filters @ ..] => test::all(filters),
        ["check"] => check::all(),
        ["prepare"] => prepare::all().map(drop),
        ["layers"] => layers::check(),
        ["help" | "--help" | "-h"] => {
            eprintln!("{HELP}");
            Ok(())
        }
        [] => Err(format!("a command is missing\n\n{HELP}")),
        [command, ..] => Err(format!("unknown command or too many arguments: {command}\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the root of the checkout.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("invariant: xtask is a folder of the checkout").to_path_buf()
}
