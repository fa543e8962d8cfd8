//! What the tests need beside Rust: JavaScript runtimes, npm packages, Python packages, servers of the system, and the
//! peers of `bench/torture`.
//!
//! Everything is installed into the [`Cache`] and linked to where fixture programs and tests find it.

mod debian;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{self, Cache};
use crate::run::{output, run, succeeds};
use crate::{Outcome, root};

/// A JavaScript runtime: its name in `apps/runtimes/bin`, and its executable in `node_modules`.
struct Runtime {
    name: &'static str,
    executable: String,
}

/// Prepares everything, in the order of what most tests need.
pub(crate) fn all() -> Outcome<Cache> {
    let cache = Cache::open()?;
    let apps = root().join("apps");

    let manifests = npm_manifests(&apps.join("runtimes"));
    let runtimes = cache.folder("runtimes", &manifests, |folder| install_runtimes(&manifests, folder))?;
    cache::link(&runtimes.join("bin"), &apps.join("runtimes/bin"))?;

    let servers = apps.join("servers");
    for (name, folder) in [
        ("node", apps.join("node")),
        ("servers", servers.clone()),
        ("peers", root().join("bench/torture/peers")),
    ] {
        let manifests = npm_manifests(&folder);
        let packages = cache.folder(name, &manifests, |folder| npm_install(&manifests, folder))?;
        cache::link(&packages.join("node_modules"), &folder.join("node_modules"))?;
    }

    for (name, folder) in [("python", apps.join("python")), ("servers-python", servers.clone())] {
        let requirements = folder.join("requirements.txt");
        let python = cache.folder(name, std::slice::from_ref(&requirements), |folder| {
            install_python(&requirements, folder)
        })?;
        cache::link(&python, &folder.join(".venv"))?;
    }

    debian::servers()?;
    let source = servers.join("static.rs");
    let folder =
        cache.folder("static", std::slice::from_ref(&source), |folder| link_statically(&source, folder))?;
    cache::link(&folder, &servers.join("bin"))?;

    Ok(cache)
}

fn npm_manifests(folder: &Path) -> [PathBuf; 2] {
    [folder.join("package.json"), folder.join("package-lock.json")]
}

fn npm_install(manifests: &[PathBuf], folder: &Path) -> Outcome {
    need("npm", &["--version"], &["npm", "nodejs"], "Node.js with npm (https://nodejs.org)")?;
    for manifest in manifests {
        let name = manifest.file_name().expect("invariant: a manifest is a file");
        fs::copy(manifest, folder.join(name))
            .map_err(|error| format!("could not copy {}: {error}", manifest.display()))?;
    }
    let quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
    run(Command::new("npm").args(["ci", "--ignore-scripts"]).args(quiet).current_dir(folder))
}

/// Installs the runtimes and gives each a name without its architecture: `bin/node-20`, `bin/deno`, `bin/bun`.
fn install_runtimes(manifests: &[PathBuf], folder: &Path) -> Outcome {
    npm_install(manifests, folder)?;
    let bin = folder.join("bin");
    fs::create_dir(&bin).map_err(|error| format!("could not make {}: {error}", bin.display()))?;
    for Runtime { name, executable } in runtimes()? {
        let link = bin.join(name);
        cache::link(&Path::new("../node_modules").join(executable), &link)?;
        // The packages are optional, so npm keeps silent about one that it could not get.
        let version = output(Command::new(&link).arg("--version"))
            .map_err(|error| format!("{name} was not installed or does not run here: {error}"))?;
        eprintln!("{name}: {}", version.lines().next().unwrap_or_default());
    }
    Ok(())
}

fn runtimes() -> Outcome<Vec<Runtime>> {
    let (node, bun) = match env::consts::ARCH {
        "x86_64" => ("x64", "x64"),
        "aarch64" => ("arm64", "aarch64"),
        other => return Err(format!("the tests run on x86_64 and aarch64, this machine is {other}")),
    };
    let runtime = |name, executable| Runtime { name, executable };
    Ok(vec![
        runtime("node-18", format!("node-18-{node}/bin/node")),
        runtime("node-20", format!("node-20-{node}/bin/node")),
        runtime("node-22", format!("node-22-{node}/bin/node")),
        runtime("node-24", format!("node-24-{node}/bin/node")),
        runtime("deno", format!("@deno/linux-{node}-glibc/deno")),
        runtime("bun", format!("@oven/bun-linux-{bun}/bin/bun")),
    ])
}

fn install_python(requirements: &Path, folder: &Path) -> Outcome {
    let hint = "Python 3.11 or newer with its venv and pip modules";
    need("python3", &["-c", "import ensurepip, venv"], &["python3", "python3-venv"], hint)?;
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
    run(Command::new(folder.join("bin/python")).args(pip).arg("--require-hashes").arg("-r").arg(requirements))
}

/// Compiles a program that needs no library of the system.
fn link_statically(source: &Path, folder: &Path) -> Outcome {
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let options = ["--edition", "2024", "-C", "target-feature=+crt-static", "--target", &target];
    run(Command::new(rustc).args(options).arg("-o").arg(folder.join("static")).arg(source))
}

/// Makes sure that a program works: it does already, or this is a Debian system and we are root, or a clear error.
fn need(program: &str, probe: &[&str], debian_packages: &[&str], hint: &str) -> Outcome {
    if succeeds(program, probe) {
        return Ok(());
    }
    debian::install(debian_packages).map_err(|error| format!("{program} is missing: {error}, or {hint}"))?;
    if succeeds(program, probe) {
        return Ok(());
    }
    Err(format!(
        "{program} does not work after apt-get installed {}: install {hint}",
        debian_packages.join(" ")
    ))
}
