//! Listens and serves, within bounds: what comes here must never cost the primary what its connections need.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tower_service::Service;
use worksong_engine::engine::App;

use crate::address::Address;
use crate::routes::{Reached, routes};

/// How many connections there may be at a time; the next ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may take for its request and the answer.
const LONGEST_VISIT: Duration = Duration::from_secs(5);
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
    told: Address,
}

/// The file of a Unix socket, which goes with this.
#[derive(Debug)]
struct File(PathBuf);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, File),
}

/// A control address that is served; dropping it closes that, and removes the file of a Unix socket.
#[derive(Debug)]
pub struct Server {
    task: AbortHandle,
    _file: Option<File>,
}

impl Bound {
    /// Opens a control address. A Unix socket that nobody answers at is replaced; only its own user may connect to it.
    ///
    /// # Errors
    ///
    /// When the address is in use or cannot be had.
    pub fn open(address: &Address) -> Result<Self, BindError> {
        let failed = |source| BindError { address: address.clone(), source };
        let (listener, told) = match address {
            Address::Tcp(tcp) => {
                let listener = std::net::TcpListener::bind(tcp).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let told = Address::Tcp(listener.local_addr().map_err(failed)?);
                (Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?), told)
            }
            Address::Unix(path) => {
                let listener = bind_unix(path).map_err(failed)?;
                (Listener::Unix(listener, File(path.clone())), address.clone())
            }
        };
        Ok(Self { listener, told })
    }

    /// Returns the address, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.told
    }

    /// Answers questions about these apps from now on, on the current runtime.
    #[must_use]
    pub fn serve(self, apps: Vec<App>) -> Server {
        let router = routes(apps);
        let (task, file) = match self.listener {
            Listener::Tcp(listener) => {
                let reached =
                    |stream: &TcpStream| Reached(stream.local_addr().ok().map(|address| address.ip()));
                (tokio::spawn(serve(listener, router, reached)), None)
            }
            Listener::Unix(listener, file) => {
                (tokio::spawn(serve(listener, router, |_stream| Reached(None))), Some(file))
            }
        };
        Server { task: task.abort_handle(), _file: file }
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

/// Binds beside the path and moves the socket there when it has its mode, so that nobody else ever could connect.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
    }
    if fs::symlink_metadata(path).is_ok_and(|found| !is_socket(&found)) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
    }
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

fn is_socket(found: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())
}

/// Serves one connection after the other, each beside the others.
async fn serve<L: axum::serve::Listener>(mut listener: L, router: Router, reached: fn(&L::Io) -> Reached) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Ends with this task, and the connections with it.
    let mut visits = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while visits.try_join_next().is_some() {}
        // Without descriptors it pauses for a moment.
        let (stream, _client) = listener.accept().await;
        let (router, reached) = (router.clone(), reached(&stream));
        visits.spawn(async move {
            // A visitor who is late, or goes away, is nobody's fault.
            let _late = tokio::time::timeout(LONGEST_VISIT, visit(stream, reached, router)).await;
            drop(place);
        });
    }
}

async fn visit<S>(stream: S, reached: Reached, router: Router)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
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
    use super::*;

    #[tokio::test]
    async fn an_address_that_was_never_served_leaves_no_file() {
        let path = std::env::temp_dir().join(format!("worksong-control-{}.sock", std::process::id()));
        let bound = Bound::open(&Address::Unix(path.clone())).expect("it can be had");
        assert!(path.exists());
        drop(bound);
        assert!(!path.exists());
    }
}
