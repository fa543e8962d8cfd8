//! Listens and serves, within bounds: what comes here must never cost the primary what its connections need.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tower_service::Service;
use worksong_engine::engine::App;
use worksong_engine::shortage::Shortage;

use crate::address::Address;
use crate::routes::{Reached, routes};

/// How many connections there may be at a time; the next ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may take for its request and the answer.
const LONGEST_VISIT: Duration = Duration::from_secs(5);
/// How soon it tries again after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(200);
/// Only its own user may connect to a Unix socket.
const OWN_USER_ONLY: u32 = 0o600;

/// A control address that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on the control address {address}: {source}; choose another one with --control")]
pub struct BindError {
    address: Address,
    source: io::Error,
}

/// A control address that is open, and not served yet. Dropping it removes the file of a Unix socket.
#[derive(Debug)]
pub struct Bound {
    listener: Listener,
    file: Option<File>,
    told: Address,
}

/// The file of a Unix socket, which goes with this.
#[derive(Debug)]
struct File(PathBuf);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection, of whatever kind.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A control address that is served; dropping it closes that, and removes the file of a Unix socket.
#[derive(Debug)]
pub struct Server {
    task: AbortHandle,
    _file: Option<File>,
}

impl Bound {
    /// Opens a control address. A Unix socket of ours that nobody answers at is replaced; only its own user may connect to it.
    ///
    /// # Errors
    ///
    /// When the address is in use or cannot be had.
    pub fn open(address: &Address) -> Result<Self, BindError> {
        let failed = |source| BindError { address: address.clone(), source };
        match address {
            Address::Tcp(tcp) => {
                let listener = std::net::TcpListener::bind(tcp).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let told = Address::Tcp(listener.local_addr().map_err(failed)?);
                let listener = Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?);
                Ok(Self { listener, file: None, told })
            }
            Address::Unix(path) => {
                let listener = Listener::Unix(bind_unix(path).map_err(failed)?);
                Ok(Self { listener, file: Some(File(path.clone())), told: address.clone() })
            }
        }
    }

    /// Returns the address, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.told
    }

    /// Answers questions about these apps from now on, on the current runtime.
    #[must_use]
    pub fn serve(self, apps: Vec<App>) -> Server {
        let task = tokio::spawn(serve(self.listener, apps));
        Server { task: task.abort_handle(), _file: self.file }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _gone = fs::remove_file(&self.0);
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(Box<dyn Connection>, Reached)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _client) = listener.accept().await?;
                let reached = Reached(stream.local_addr().ok().map(|address| address.ip()));
                Ok((Box::new(stream), reached))
            }
            Self::Unix(listener) => {
                let (stream, _client) = listener.accept().await?;
                Ok((Box::new(stream), Reached(None)))
            }
        }
    }
}

/// Binds beside the path and moves the socket there when it has its mode, so that nobody else ever could connect.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    check_free(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let listener = UnixListener::bind(&beside)?;
    let moved = fs::set_permissions(&beside, fs::Permissions::from_mode(OWN_USER_ONLY))
        .and_then(|()| fs::rename(&beside, path));
    moved.map(|()| listener).inspect_err(|_| {
        let _gone = fs::remove_file(&beside);
    })
}

/// Checks that there is nothing at a path, or a socket that nobody has any more. It does not wait until somebody answers.
fn check_free(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::NOENT | Errno::CONNREFUSED) => match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))
            }
            Ok(_) | Err(_) => Ok(()),
        },
        // It has no room in its queue, or is of another type.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"))
        }
        Err(Errno::ACCESS) => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "what is there is another user's: remove it"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Serves one connection after the other, each beside the others.
async fn serve(listener: Listener, apps: Vec<App>) {
    let any = apps.first().cloned();
    let router = routes(apps);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Ends with this task, and the connections with it.
    let mut visits = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while visits.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, reached)) => {
                let visit = visit(stream, reached, router.clone());
                visits.spawn(async move {
                    // A visitor who is late, or goes away, is nobody's fault.
                    let _late = timeout(LONGEST_VISIT, visit).await;
                    drop(place);
                });
            }
            Err(error) => {
                // It is told to all apps, whichever says so.
                if let Some((app, of)) = any.as_ref().zip(Shortage::of_error(&error)) {
                    app.note_shortage(of).await;
                }
                sleep(RETRY).await;
            }
        }
    }
}

async fn visit(stream: Box<dyn Connection>, reached: Reached, router: Router) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(reached);
        router.clone().call(request)
    });
    let mut protocol = http1::Builder::new();
    let _gone = protocol
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
mod tests {
    use rustix::net::{bind, listen};

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("worksong-control-{name}-{}.sock", std::process::id()))
    }

    #[tokio::test]
    async fn an_address_that_was_never_served_leaves_no_file() {
        let path = path("unserved");
        let bound = Bound::open(&Address::Unix(path.clone())).expect("it can be had");
        assert!(path.exists());
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_with_a_full_queue_is_somebodys_and_is_not_waited_for() {
        let path = path("full");
        let address = SocketAddrUnix::new(&path).expect("it is short");
        for kind in [SocketType::STREAM, SocketType::DGRAM] {
            let socket =
                || socket_with(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK, None).expect("a socket");
            let (held, client) = (socket(), socket());
            bind(&held, &address).expect("it is free");
            if kind == SocketType::STREAM {
                listen(&held, 0).expect("a stream listens");
                connect(&client, &address).expect("there is room for one");
            }
            let error = Bound::open(&Address::Unix(path.clone())).expect_err("somebody lives there");
            assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse, "{error}");
            assert!(path.exists());
            drop(held);
            Bound::open(&Address::Unix(path.clone())).expect("nobody lives there any more");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let path = path("file");
        fs::write(&path, "mine").expect("a folder that can be written");
        let error = Bound::open(&Address::Unix(path.clone())).expect_err("it is no socket");
        assert!(error.to_string().contains("a file that is no socket is there"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "mine");
        fs::remove_file(path).expect("it is ours");
    }
}
