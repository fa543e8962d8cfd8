//! A server on three workers.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
use worksong_testkit::http::Address;
use worksong_testkit::process::{self, Process};
use worksong_testkit::{Folder, Signal, Worksong, accepted_socket, binary, eventually, fixture, has_socket};

use crate::client::{Pace, Visit};
use crate::server::Server;

pub(crate) const WORKERS: usize = 3;

/// A running app of a server.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) worksong: Worksong,
    pub(crate) server: &'static Server,
    pub(crate) address: SocketAddr,
    /// Where visitors come to.
    pub(crate) front: Address,
    /// Where it listens besides.
    pub(crate) others: Vec<SocketAddr>,
    /// Where its Unix socket is, if it has one.
    pub(crate) path: PathBuf,
    _ports: [Port; 2],
    _folder: Folder,
}

impl Stage {
    /// Starts it and waits until all workers are ready.
    pub(crate) fn start(server: &'static Server) -> Self {
        Self::start_with(server, WORKERS, &[])
    }

    /// Starts so many workers of it with further options.
    pub(crate) fn start_with(server: &'static Server, workers: usize, options: &[&str]) -> Self {
        let ports = [Port::reserve(), Port::reserve()];
        let [address, other] = [&ports[0], &ports[1]].map(|port| port.address);
        let folder = Folder::new();
        // Servers that were started by root go on as somebody else.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        folder.write("index.html", "answer");
        let mut before = Command::new("sh");
        before.args(["-c", server.before]).env("FOLDER", folder.path()).env("SERVERS", fixture("servers"));
        assert!(before.status().unwrap().success(), "{}: {before:?}", server.name);
        let stop_signal = server.stop_signal.map(|signal| ["--stop-signal", signal]);
        let port = address.port();
        let named = [port.to_string(), format!("udp:{port}")].map(|named| ["--capture".to_owned(), named]);
        let named = if server.reads_datagrams { named.as_slice() } else { &[] };
        let worksong = Worksong::run(["-i", &workers.to_string(), "--dialect", "capture"])
            .args(stop_signal.iter().flatten())
            .args(named.iter().flatten())
            .args(options)
            .args(["--surge", "3", "--restart-delay", "10ms", "--drain-timeout", "10s", "sh", "-c"])
            .args([format!("PATH=\"$PATH:/usr/sbin\"; exec {}", server.command)])
            .cwd(folder.path())
            .env("PORT", address.port().to_string())
            .env("SOCKET", folder.join("x.sock"))
            .env("OTHER_PORT", other.port().to_string())
            .env("FOLDER", folder.path())
            .env("CONFIG", config(server, address.port(), &folder))
            .env("SERVERS", fixture("servers"))
            .env("APPS", fixture(""))
            .env("AXUM", binary("rust-axum"))
            .env("PYTHONPATH", fixture("servers"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .start();
        for worker in worksong.wait_ready(workers) {
            if server.reads_datagrams {
                // It may be ready by its datagram socket, and listens after that.
                worksong.wait_event("listening", |event| {
                    event.pid() == worker
                        && event["address"].as_str().is_some_and(|at| !at.starts_with("udp"))
                });
            }
        }
        let on_version_6 = SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()));
        let others = if server.listens_more_than_once { vec![on_version_6, other] } else { Vec::new() };
        let path = folder.join("x.sock");
        let front = Address::from(address);
        Self { worksong, server, address, front, others, path, _ports: ports, _folder: folder }
    }

    /// Sends visitors to its Unix socket.
    pub(crate) fn at_its_path(self) -> Self {
        Self { front: self.path.as_path().into(), ..self }
    }

    /// Opens a connection with a whole question.
    #[track_caller]
    pub(crate) fn ask(&self) -> Visit {
        let mut visit = self.visit(&self.front);
        visit.ask().unwrap();
        visit
    }

    /// Opens a connection with the first part of a question.
    #[track_caller]
    pub(crate) fn visit(&self, address: &Address) -> Visit {
        let visit = Visit::begin(address, self.server.protocol, Pace::Fast);
        visit.unwrap_or_else(|error| panic!("{}: could not connect: {error:?}", self.server.name))
    }

    /// Waits until one of these workers has the connection, itself or a process that it started.
    #[track_caller]
    pub(crate) fn worker_of(&self, visit: &Visit, address: SocketAddr, workers: &BTreeSet<u32>) -> u32 {
        eventually(&format!("{}: who has a connection", self.server.name), || {
            let inode = accepted_socket(address, visit.local_address()?)?;
            let has_it = |worker: &&u32| tree(**worker).iter().any(|member| has_socket(member.pid(), inode));
            workers.iter().find(has_it).copied()
        })
    }

    /// Waits until so many workers are ready that none of these is.
    #[track_caller]
    pub(crate) fn wait_successors(&self, gone: &BTreeSet<u32>) -> BTreeSet<u32> {
        eventually(&format!("{}: successors", self.server.name), || {
            let ready = self.worksong.wait_ready(WORKERS);
            ready.is_disjoint(gone).then_some(ready)
        })
    }
}

/// Returns a worker and all that it has started.
pub(crate) fn tree(worker: u32) -> Vec<Process> {
    Process::find(worker).into_iter().chain(process::descendants(worker)).collect()
}

/// Stops all processes of a worker where they are, and returns them.
pub(crate) fn freeze(worker: u32) -> Vec<Process> {
    let stop = |process: &Process| {
        process.signal(Signal::STOP);
        eventually("a stopped process", || process::stands_still(process.pid()).then_some(()));
    };
    // The first one starts others: they are looked for when it does so no more.
    Process::find(worker).iter().for_each(stop);
    let members = tree(worker);
    members.iter().for_each(stop);
    members
}

/// A port that the kernel gives to nobody else.
#[derive(Debug)]
struct Port {
    address: SocketAddr,
    /// Bound and not listening: nobody is given the port by chance, and those who name it share it.
    _socket: OwnedFd,
}

impl Port {
    fn reserve() -> Self {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = getsockname(&socket).unwrap().try_into().expect("an address of IPv4");
        Self { address, _socket: socket }
    }
}

fn config(server: &Server, port: u16, folder: &Folder) -> String {
    let Some(name) = server.config else { return String::new() };
    let text = fs::read_to_string(fixture("servers").join(name)).unwrap();
    let text = text.replace("@PORT@", &port.to_string());
    let text = text.replace("@FOLDER@", folder.path().to_str().expect("a short name"));
    folder.write(name, text).display().to_string()
}
