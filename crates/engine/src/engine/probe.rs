//! Asks one worker whether it is ready, and no other one.
//!
//! A worker with a channel is handed one end of a connection that this process makes with itself, as if a client had
//! opened it at the worker's server; what has a port of its own is asked there.

mod own_port;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::own_port::OwnPort;
use super::control::{Control, Note};
use crate::holder::Holder;
use crate::ids::WorkerId;
use crate::plane::NotTaken;
use crate::spec::{Dialect, Probe, Ready};
use crate::supervise::Input;

/// How long one probe may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How much longer it may take where it is looked up who answers: all processes of the machine are looked at.
const LOOKING_UP: Duration = Duration::from_secs(4);
/// How much of an answer is read before its status line is given up.
const LONGEST_STATUS_LINE: usize = 1024;
/// How much of a wrong answer is quoted, in characters.
const QUOTED: usize = 40;

/// How a worker is reached.
enum Target {
    /// By handing it a connection.
    Channel { worker: WorkerId, notes: mpsc::UnboundedSender<Note> },
    /// On a port that is its own.
    Port(OwnPort),
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("was not answered within {0:?}")]
    TooLate(Duration),
    #[error("did not reach it: {0}")]
    NotTaken(#[from] NotTaken),
    #[error("did not reach it: it does not listen on port {port}")]
    NotListening { port: u16 },
    #[error(
        "did not reach it: it does not listen on port {port}, {holder} does; two can have it when both set SO_REUSEPORT"
    )]
    OfAnother { port: u16, holder: Holder },
    #[error("could not connect to port {port}: {source}")]
    NotConnected { port: u16, source: io::Error },
    #[error("had no connection to ask on: {0}")]
    NoConnection(io::Error),
    #[error("was not answered: {0}")]
    Broken(io::Error),
    #[error("was not answered: the connection was closed")]
    Closed,
    #[error("answered {0}")]
    Status(String),
    #[error("got an answer that is not HTTP: {0:?}; a server with TLS can be asked by --ready tcp")]
    NotHttp(String),
}

impl Control {
    /// Asks the worker in a task; the answer comes as an input of its supervisor.
    pub(super) fn probe(&self, worker: WorkerId) {
        let Some(app) = self.apps.get(&worker.app) else { return };
        let Some(known) = app.workers.get(&worker) else { return };
        let Ready::Probe(probe) = app.spec.ready.clone() else { return };
        let target = match app.spec.dialect {
            Dialect::Port { base } => {
                // `Probe::check` lets only those through that have a base, and its ports are all there.
                let port = u32::from(base.unwrap_or_default()).saturating_add(known.slot.0);
                let port = u16::try_from(port).unwrap_or(u16::MAX);
                Target::Port(OwnPort { port, leader: known.pid, mark: known.mark.clone() })
            }
            Dialect::Node(_) | Dialect::Native | Dialect::Activation | Dialect::Capture { .. } => {
                Target::Channel { worker, notes: self.notes.clone() }
            }
        };
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let limit = match target {
                Target::Channel { .. } => LIMIT,
                Target::Port(_) => LIMIT + LOOKING_UP,
            };
            let result = timeout(limit, ask(target, &probe)).await.unwrap_or(Err(Failure::TooLate(limit)));
            let result = result.map_err(|failure| format!("{probe} {failure}"));
            let _ended = notes.send(Note::Probed { worker, result });
        });
    }

    pub(super) fn on_probed(&mut self, worker: WorkerId, result: Result<(), String>) {
        self.tell(worker.app, Input::Probed { worker, result });
    }
}

async fn ask(target: Target, probe: &Probe) -> Result<(), Failure> {
    let request = match probe {
        Probe::Tcp => String::new(),
        Probe::Http(path) => request(path),
    };
    let stream = match target {
        Target::Port(own) => own.reach(&request).await?,
        Target::Channel { worker, notes } => {
            let (mut ours, theirs) = connection().await.map_err(Failure::NoConnection)?;
            let (taken, answer) = oneshot::channel();
            let _ended = notes.send(Note::ProbeBegun { worker, connection: theirs, taken });
            // Who drops the question has lost the worker.
            answer.await.unwrap_or(Err(NotTaken::Gone))?;
            ours.write_all(request.as_bytes()).await.map_err(Failure::Broken)?;
            ours
        }
    };
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http(_) => read_answer(stream).await,
    }
}

/// Makes a TCP connection of this process with itself.
async fn connection() -> io::Result<(TcpStream, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let ours = TcpStream::connect(listener.local_addr()?).await?;
    let own_address = ours.local_addr()?;
    loop {
        let (theirs, from) = listener.accept().await?;
        // Others of this machine could have been quicker.
        if from == own_address {
            return Ok((ours, theirs.into_std()?.into()));
        }
    }
}

fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: worksong-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
}

async fn read_answer(mut stream: TcpStream) -> Result<(), Failure> {
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < LONGEST_STATUS_LINE {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(Failure::Broken(error)),
        }
    }
    if answer.is_empty() {
        return Err(Failure::Closed);
    }
    // Closing before the end of the answer would look like a client that ran away.
    tokio::spawn(timeout(LIMIT, async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await }));
    judge(&answer)
}

/// Says what the first bytes of an answer mean.
fn judge(answer: &[u8]) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default();
    let not_http = || Failure::NotHttp(line.chars().take(QUOTED).collect());
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')).ok_or_else(not_http)?.1;
    let code = status.split(' ').next().and_then(|code| code.parse().ok()).ok_or_else(not_http)?;
    match code {
        200..=399_u16 => Ok(()),
        _ => Err(Failure::Status(status.trim_end().chars().take(QUOTED).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_status_is_ready() {
        let judged = |answer: &str| judge(answer.as_bytes()).map_err(|failure| failure.to_string());
        for good in ["HTTP/1.1 200 OK\r\n", "HTTP/1.0 204\r\n", "HTTP/1.1 302 Found\r\nLocation: /\r\n"] {
            assert_eq!(judged(good), Ok(()), "{good}");
        }
        for (bad, told) in [
            ("HTTP/1.1 503 Service Unavailable\r\n", "answered 503 Service Unavailable"),
            ("HTTP/1.1 404\r\n", "answered 404"),
            ("HTTP/1.1 100 Continue\r\n", "answered 100 Continue"),
            ("SSH-2.0-x\r\n", "is not HTTP: \"SSH-2.0-x\""),
            ("HTTP/1.1 OK\r\n", "is not HTTP"),
            ("\r\n", "is not HTTP"),
        ] {
            let failure = judged(bad).expect_err(bad);
            assert!(failure.contains(told), "{bad}: {failure}");
        }
    }
}
