//! `worksong demo`: this binary itself as the program, a small web server in Rust.
//!
//! It shows what worksong does on a machine that has nothing else installed: every page says which worker made it.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::LocalSet;
use worksong_engine::spec::{Command, ListenAddress};
use worksong_worker::{RunError, Worker};

/// Tells this binary that it is a worker of the demo, and where it listens.
const LISTEN: &str = "WORKSONG_DEMO_LISTEN";
/// Stands before the address of a Unix socket in [`LISTEN`].
const UNIX: &str = "unix:";

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Returns what starts a worker of the demo: this binary again.
pub(crate) fn command(listen: &ListenAddress) -> io::Result<Command> {
    let address: OsString = match listen {
        ListenAddress::Tcp(address) => address.to_string().into(),
        ListenAddress::AnyInterface(port) => port.to_string().into(),
        ListenAddress::Udp(_) | ListenAddress::AnyInterfaceUdp(_) => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the demo speaks HTTP over TCP"));
        }
        ListenAddress::Unix(path) => {
            let mut address = OsString::from(UNIX);
            address.push(path);
            address
        }
    };
    Ok(Command {
        program: std::env::current_exe()?,
        args: vec!["demo".into()],
        cwd: None,
        env: vec![(LISTEN.into(), address)],
    })
}

/// Returns true when this process was started by [`command`]; `main` calls [`worker_main`] then, before anything else.
pub(crate) fn is_worker() -> bool {
    std::env::var_os(LISTEN).is_some() && std::env::var_os("NODE_UNIQUE_ID").is_some()
}

/// Runs this process as a worker of the demo.
pub(crate) fn worker_main() -> ExitCode {
    match worksong_worker::run(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// Prints an error with its causes; the primary keeps it as the evidence of this exit.
fn complain(error: &RunError) -> ExitCode {
    // Nobody reads it when it cannot be printed.
    let _unread = writeln!(io::stderr(), "error: {error:?}");
    ExitCode::FAILURE
}

async fn serve(worker: Worker) -> Result<(), AnyError> {
    let address = std::env::var_os(LISTEN).unwrap_or_default();
    let address = address.into_string().map_err(|address| format!("{} is not UTF-8", address.display()))?;
    let page = |place| Rc::new(Page::new(&worker, place));
    let tasks = LocalSet::new();
    if let Some(path) = address.strip_prefix(UNIX) {
        let listener = worker.listen_unix(path).await?;
        let server = Server::new(page(Place::Unix(path.into())));
        tasks.run_until(server.run(async || listener.accept().await.map(|(stream, _)| stream))).await;
    } else {
        let listener = worker.listen(&address).await?;
        let server = Server::new(page(Place::Tcp(listener.local_addr()?)));
        tasks.run_until(server.run(async || listener.accept().await.map(|(stream, _)| stream))).await;
    }
    Ok(())
}

/// The connections of this worker and what is said on them.
struct Server {
    page: Rc<Page>,
    connections: GracefulShutdown,
}

impl Server {
    fn new(page: Rc<Page>) -> Self {
        Self { page, connections: GracefulShutdown::new() }
    }

    /// Serves until `accept` fails, which it does when the worker drains; then finishes what has begun.
    async fn run<S>(self, accept: impl AsyncFn() -> io::Result<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        while let Ok(stream) = accept().await {
            let page = Rc::clone(&self.page);
            let service = service_fn(move |request| {
                let response = page.answer(&request);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let connection = self.connections.watch(connection);
            tokio::task::spawn_local(async move {
                // A client that goes away is nobody's fault.
                let _gone = connection.await;
            });
        }
        self.connections.shutdown().await;
    }
}

/// What the demo says, and how often it has said it.
struct Page {
    worker: u64,
    slot: u32,
    place: Place,
    answered: Cell<u64>,
}

/// Where the demo can be reached.
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    /// Returns the beginning of a command that asks for a page, up to its path.
    fn curl(&self) -> String {
        match self {
            Self::Tcp(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                        Ipv4Addr::LOCALHOST.into()
                    }
                    ip => ip,
                };
                format!("curl -s http://{}", SocketAddr::new(ip, address.port()))
            }
            Self::Unix(path) => format!("curl -s --unix-socket {} http://demo", path.display()),
        }
    }
}

impl Page {
    fn new(worker: &Worker, place: Place) -> Self {
        let slot = worker.slot().unwrap_or_default();
        Self { worker: worker.id(), slot, place, answered: Cell::new(0) }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        self.answered.set(self.answered.get() + 1);
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, self.front()),
            (&Method::GET | &Method::HEAD, "/who") => (StatusCode::OK, self.who()),
            (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "try / or /who\n".to_owned()),
            _ => (StatusCode::METHOD_NOT_ALLOWED, "try GET\n".to_owned()),
        };
        let mut response = Response::new(text);
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }

    fn who(&self) -> String {
        let Self { worker, slot, answered, .. } = self;
        format!("slot {slot}  worker {worker}  pid {}  requests {}\n", process::id(), answered.get())
    }

    fn front(&self) -> String {
        let (pid, primary, curl) = (process::id(), parent_id(), self.place.curl());
        format!(
            "\
This is worksong: one server program, running once on every core, behind one address.

You have reached worker {worker} in slot {slot}, process {pid}. It has answered {answered} requests.

Meet the others, each new connection goes to the next worker:
    for i in $(seq 8); do {curl}/who; done

End this worker, and another takes its slot:
    kill -9 {pid}

Replace all workers without losing a request:
    kill -HUP {primary}

Finish what has begun, and end:
    kill {primary}

Run your own program in the same way:
    worksong run server.js
",
            worker = self.worker,
            slot = self.slot,
            answered = self.answered.get(),
        )
    }
}
