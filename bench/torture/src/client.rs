//! One client: what it knows, and how it writes down what happens to it.

mod connection;
mod http1;
mod http2;
mod silent;
mod upload;
mod websocket;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::class::Class;
use crate::ledger::{Book, Ending, Fate};
use crate::random::Random;
use crate::target::{Contract, Target};

pub(crate) use upload::prepare as prepare_uploads;

use connection::{Answer, Connection, Loss};

/// How long a client waits before it tries again to connect.
const RETRY: Duration = Duration::from_millis(100);
/// How much a client that reads slowly lets the kernel hold.
const SMALL_BUFFER: u32 = 16 * 1024;

/// What can be done with a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The next request.
    Usable,
    /// Nothing: the server said that it closes it.
    Closes,
    /// Nothing: it failed.
    Lost,
}

/// One client of the population.
pub(crate) struct Client {
    pub(crate) class: Class,
    pub(crate) random: Random,
    pub(crate) target: Rc<Target>,
    pub(crate) book: Arc<Book>,
    /// True once the population is asked to end: requests that began are finished, none is begun.
    pub(crate) stop: watch::Receiver<bool>,
    /// The longest time that it waits for a connection or an answer.
    pub(crate) patience: Duration,
}

impl Client {
    /// Does what its class does, until the population ends.
    pub(crate) async fn run(mut self) {
        // Not all at once.
        let mean = self.class.pause();
        if !self.pause(mean).await {
            return;
        }
        match self.class {
            Class::Fresh => self.fresh().await,
            Class::KeepAlive | Class::SlowReader | Class::Stream => self.keep_alive().await,
            Class::Pipelined => self.pipelined().await,
            Class::Upload => self.uploads().await,
            Class::WebSocket => self.websockets().await,
            Class::Http2 => self.http2().await,
            Class::Silent => self.silent().await,
        }
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Rests for about this long; returns false when the population ends.
    async fn pause(&mut self, mean: Duration) -> bool {
        let pause = self.random.around(mean);
        tokio::select! {
            biased;
            _ended = self.stop.wait_for(|stop| *stop) => false,
            () = sleep(pause) => true,
        }
    }

    /// Opens a connection; `None` when that failed, which is written down, and waited for a moment.
    async fn open(&mut self, address: SocketAddr) -> Option<TcpStream> {
        let opening = connect(address, self.class == Class::SlowReader);
        let (fate, detail) = match timeout(self.patience, opening).await {
            Ok(Ok(stream)) => {
                self.book.opened(self.class);
                return Some(stream);
            }
            Ok(Err(error)) => (Fate::Refused, error.to_string()),
            Err(_elapsed) => (Fate::TimedOut, format!("not connected within {:?}", self.patience)),
        };
        self.book.failed(self.class, fate, None, detail);
        self.pause(RETRY).await;
        None
    }

    /// Opens a connection for HTTP/1.1.
    async fn connection(&mut self) -> Option<Connection> {
        let stream = self.open(self.target.http).await?;
        Some(Connection::new(stream))
    }

    /// Rests while a connection is idle; false when there is nothing more to do on it.
    async fn rest(&mut self, connection: &mut Connection) -> bool {
        let pause = self.random.around(self.class.pause());
        tokio::select! {
            biased;
            () = connection.ended() => {
                self.book.ended(self.class, Ending::Idle);
                false
            }
            _ended = self.stop.wait_for(|stop| *stop) => false,
            () = sleep(pause) => true,
        }
    }

    /// Writes down what an answer was, and says what can be done with its connection.
    fn judge(&self, answer: Result<Answer, Loss>, connection: &mut Connection) -> Turn {
        match answer {
            Err(loss) => {
                self.lost(&loss, connection);
                self.book.ended(self.class, Ending::Lost);
                Turn::Lost
            }
            Ok(Answer { status, closes }) => {
                if self.is_right(status) {
                    connection.course.served += 1;
                    self.book.served(self.class, connection.course.opened);
                } else {
                    self.lost(
                        &Loss { fate: Fate::WrongStatus, detail: format!("status {status}") },
                        connection,
                    );
                }
                if closes { Turn::Closes } else { Turn::Usable }
            }
        }
    }

    fn lost(&self, loss: &Loss, connection: &Connection) {
        self.book.failed(self.class, loss.fate, Some(connection.course), loss.detail.clone());
    }

    /// Writes down a request that was lost with the one before it in the pipeline.
    fn unanswered(&self, connection: &Connection) {
        let detail = "sent behind a request that failed".to_owned();
        self.book.failed(self.class, Fate::Unanswered, Some(connection.course), detail);
    }

    fn is_right(&self, status: u16) -> bool {
        match self.target.contract {
            Contract::Full => status == 200,
            Contract::Any { .. } => status < 500,
        }
    }

    fn host(&self) -> &str {
        match &self.target.contract {
            Contract::Full => "torture",
            Contract::Any { host, .. } => host,
        }
    }

    /// Returns what is given up on when nothing comes for too long.
    async fn within<T>(&self, what: impl Future<Output = Result<T, Loss>>) -> Result<T, Loss> {
        let late = || Loss { fate: Fate::TimedOut, detail: format!("not done within {:?}", self.patience) };
        timeout(self.patience, what).await.unwrap_or_else(|_elapsed| Err(late()))
    }
}

async fn connect(address: SocketAddr, small_buffer: bool) -> std::io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    if small_buffer {
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
