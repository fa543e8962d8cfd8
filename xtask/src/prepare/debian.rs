//! Programs of the system: on Debian we install what is missing, elsewhere we say what is.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::run::{output, run, succeeds};

/// Asked by packages before they start their service; 101 is "not allowed".
const POLICY: &str = "/usr/sbin/policy-rc.d";
const START_NOTHING: &str = "#!/bin/sh\nexit 101\n";

/// The servers of the capture matrix: a package, and how to see that it is there.
const SERVERS: [(&str, Sign); 18] = [
    ("apache2", Sign::Program("apache2")),
    ("caddy", Sign::Program("caddy")),
    ("default-jdk-headless", Sign::Program("javac")),
    ("dnsmasq-base", Sign::Program("dnsmasq")),
    ("haproxy", Sign::Program("haproxy")),
    ("lighttpd", Sign::Program("lighttpd")),
    ("memcached", Sign::Program("memcached")),
    ("mini-httpd", Sign::Program("mini_httpd")),
    ("mosquitto", Sign::Program("mosquitto")),
    ("nginx-light", Sign::Program("nginx")),
    ("php-cli", Sign::Program("php")),
    ("php-fpm", Sign::Succeeds("sh", &["-c", "ls /usr/sbin/php-fpm*"])),
    ("puma", Sign::Program("puma")),
    ("redis-server", Sign::Program("redis-server")),
    ("ruby", Sign::Program("ruby")),
    ("ruby-webrick", Sign::Succeeds("ruby", &["-rwebrick", "-e", ""])),
    ("varnish", Sign::Program("varnishd")),
    ("webfs", Sign::Program("webfsd")),
];

/// How to see that a package is installed, by whatever means.
enum Sign {
    /// There is a program of this name.
    Program(&'static str),
    /// This command succeeds.
    Succeeds(&'static str, &'static [&'static str]),
}

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => find(name).is_some(),
            Self::Succeeds(program, arguments) => succeeds(program, arguments),
        }
    }
}

/// Makes sure that the servers of the capture matrix are installed. None of them is started.
pub(super) fn servers() -> Outcome {
    let missing: Vec<&str> =
        SERVERS.iter().filter(|(_, sign)| !sign.is_there()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    match SERVERS.iter().find(|(_, sign)| !sign.is_there()) {
        None => Ok(()),
        Some((package, _)) => Err(format!("{package} does not work after apt-get installed it")),
    }
}

/// Installs packages when this is a Debian system and we are root; otherwise the error says what to type.
pub(super) fn install(packages: &[&str]) -> Outcome {
    let root = output(Command::new("id").arg("-u")).is_ok_and(|user| user == "0");
    if !root || !succeeds("apt-get", &["--version"]) {
        let packages = packages.join(" ");
        return Err(format!(
            "the tests need more programs: `sudo apt-get install --no-install-recommends {packages}`"
        ));
    }
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let _policy = StartNothing::begin()?;
    run(apt_get().args(["update", "--quiet"]))?;
    run(apt_get().args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(packages))
}

/// While it exists, packages that are installed do not start their services.
struct StartNothing {
    /// Containers often have a policy of their own, which says the same.
    is_ours: bool,
}

impl StartNothing {
    fn begin() -> Outcome<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { is_ours: false });
        }
        let written = fs::write(POLICY, START_NOTHING)
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)));
        written.map_err(|error| format!("could not write {POLICY}: {error}"))?;
        Ok(Self { is_ours: true })
    }
}

impl Drop for StartNothing {
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = fs::remove_file(POLICY)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("could not remove {POLICY}: {error}; remove it, or no package will start its service");
        }
    }
}

/// Finds a program on `PATH` and where daemons are, which only root's `PATH` may have.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}
