//! Where programs for tests are.

use std::env;
use std::path::{Path, PathBuf};

/// The Node versions that workers are tested with, oldest first.
pub const NODE_VERSIONS: [&str; 4] = ["18", "20", "22", "24"];

/// Returns the root of the checkout.
#[must_use]
pub fn checkout() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the checkout that the tests were built in is still there")
}

/// Returns a fixture program by its path in `apps/`, such as `node/http.js`.
#[must_use]
pub fn fixture(path: impl AsRef<Path>) -> PathBuf {
    let path = checkout().join("apps").join(path);
    assert!(path.exists(), "there is no fixture {}", path.display());
    path
}

/// Returns the executable of a Node version, one of [`NODE_VERSIONS`].
#[must_use]
pub fn node(version: &str) -> PathBuf {
    prepared(&format!("runtimes/bin/node-{version}"))
}

/// Returns the executable of Deno.
#[must_use]
pub fn deno() -> PathBuf {
    prepared("runtimes/bin/deno")
}

/// Returns the executable of Bun.
#[must_use]
pub fn bun() -> PathBuf {
    prepared("runtimes/bin/bun")
}

/// Returns the Python interpreter that finds the packages of `apps/python/requirements.txt`.
#[must_use]
pub fn python() -> PathBuf {
    python_tool("python3")
}

/// Returns a program of the Python environment, such as `gunicorn`.
#[must_use]
pub fn python_tool(name: &str) -> PathBuf {
    prepared(&format!("python/.venv/bin/{name}"))
}

fn prepared(path: &str) -> PathBuf {
    let path = checkout().join("apps").join(path);
    assert!(path.exists(), "{} is missing; run `cargo xtask prepare` first", path.display());
    path
}

/// Returns an executable of this workspace, such as `worksong` or `rust-raw`, or an example as `examples/<name>`.
///
/// `WORKSONG_BIN` names the `worksong` binary; everything else is looked for in the target folder of the running test.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    if name == "worksong"
        && let Some(path) = env::var_os("WORKSONG_BIN")
    {
        return path.into();
    }
    let test = env::current_exe().expect("a running test has an executable");
    let found = test.ancestors().skip(1).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{name} is not beside {}; run `cargo build --workspace --bins --examples` first",
            test.display()
        )
    })
}
