//! Any server: a URL, and the command that reloads it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::{Command, Stdio};

use crate::target::{Contract, Target};

use super::System;

/// A server that somebody else has started.
#[derive(Clone, Debug)]
pub struct Custom {
    target: Target,
    reload: Option<String>,
}

impl Custom {
    /// Describes a server by its URL, `http://host[:port][/path]`, and what a shell runs to reload it.
    ///
    /// # Errors
    ///
    /// What is wrong with the URL.
    pub fn new(url: &str, reload: Option<String>) -> Result<Self, String> {
        let rest = url.strip_prefix("http://");
        let rest =
            rest.ok_or_else(|| format!("{url} does not begin with http://, the only scheme that is spoken"))?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let contract = Contract::Any { host: host.to_owned(), path: path.to_owned() };
        Ok(Self { target: Target { http: resolve(host)?, http2: None, contract }, reload })
    }
}

fn resolve(host: &str) -> Result<SocketAddr, String> {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
    let mut addresses = with_port
        .to_socket_addrs()
        .map_err(|error| format!("could not find the address of {host}: {error}"))?;
    addresses.next().ok_or_else(|| format!("{host} has no address"))
}

impl System for Custom {
    fn target(&self) -> Target {
        self.target.clone()
    }

    fn reload(&mut self) -> Result<(), String> {
        let Some(command) = &self.reload else {
            return Err("how to reload it is not known; add --reload-command COMMAND".to_owned());
        };
        let status =
            Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`{command}` failed: {status}")),
            Err(error) => Err(format!("could not run `{command}`: {error}")),
        }
    }

    fn workers(&self) -> Vec<u32> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_address_host_and_path() {
        let custom = Custom::new("http://127.0.0.1:8080/health?full", None).unwrap();
        assert_eq!(custom.target.http, "127.0.0.1:8080".parse().unwrap());
        let contract = Contract::Any { host: "127.0.0.1:8080".to_owned(), path: "/health?full".to_owned() };
        assert_eq!(custom.target.contract, contract);
        assert_eq!(
            Custom::new("http://127.0.0.1", None).unwrap().target.http,
            "127.0.0.1:80".parse().unwrap()
        );
        assert_eq!(Custom::new("http://[::1]:81", None).unwrap().target.http, "[::1]:81".parse().unwrap());
    }

    #[test]
    fn another_scheme_is_refused() {
        assert!(Custom::new("https://127.0.0.1", None).unwrap_err().contains("http://"));
    }

    #[test]
    fn a_reload_is_what_the_command_says() {
        let reload = |command: Option<&str>| {
            Custom::new("http://127.0.0.1", command.map(str::to_owned)).unwrap().reload()
        };
        assert_eq!(reload(Some("true")), Ok(()));
        assert!(reload(Some("exit 3")).unwrap_err().contains("exit status: 3"));
        assert!(reload(None).unwrap_err().contains("--reload-command"));
    }
}
