//! Clients of the servers: one connection for each question.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use worksong_testkit::http::Address;
use worksong_testkit::{eventually, patience};

/// How long a slow answer takes: longer than anything else here, so that some is always under way.
const SLOW: &str = "/?ms=150";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http {
        /// Whether `/?ms=N` is answered after N ms.
        pauses: bool,
    },
    Redis,
    Memcached,
    Mqtt,
    /// A question to PHP's process manager whether it lives.
    FastCgi,
    /// DNS over TCP: which version the server has.
    Dns,
}

/// A question for the record `version.bind` (TXT, CH).
pub(crate) const DNS: &[u8] =
    b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07version\x04bind\x00\x00\x10\x00\x03";

/// Returns whether this answers the question, without an error.
pub(crate) fn is_dns_answer(message: &[u8]) -> bool {
    message.starts_with(&DNS[..2])
        && message.get(2..4).is_some_and(|flags| flags[0] >= 0x80 && flags[1] % 16 == 0)
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Fast,
    Slow,
}

impl Protocol {
    /// Returns a question in two parts: a server accepts a connection for the first, and answers to the second.
    fn question(self, pace: Pace) -> (Vec<u8>, Vec<u8>) {
        let (first, second) = match (self, pace) {
            (Self::Http { .. }, Pace::Slow) => (
                format!("GET {SLOW} HTTP/1.1\r\n").into_bytes(),
                b"host: localhost\r\nconnection: close\r\n\r\n".to_vec(),
            ),
            (Self::Http { .. }, Pace::Fast) => {
                (b"GET / HTTP/1.1\r\n".to_vec(), b"host: localhost\r\nconnection: close\r\n\r\n".to_vec())
            }
            (Self::Redis, _) => (b"PI".to_vec(), b"NG\r\n".to_vec()),
            (Self::Memcached, _) => (b"vers".to_vec(), b"ion\r\n".to_vec()),
            // CONNECT: the rest has 13 bytes; MQTT 4 with a clean session, 60 s to keep alive, the client `w`.
            (Self::Mqtt, _) => (vec![0x10], b"\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01w".to_vec()),
            // The begin of a request, and its variables and their end; a variable is two lengths, a name and a value.
            (Self::FastCgi, _) => (
                b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec(),
                [
                    &b"\x01\x04\x00\x01\x00\x3b\x00\x00"[..],
                    b"\x0b\x05SCRIPT_NAME/ping\x0f\x05SCRIPT_FILENAME/ping\x0e\x03REQUEST_METHODGET",
                    b"\x01\x04\x00\x01\x00\x00\x00\x00\x01\x05\x00\x01\x00\x00\x00\x00",
                ]
                .concat(),
            ),
            (Self::Dns, _) => ([&[0, DNS.len() as u8], &DNS[..9]].concat(), DNS[9..].to_vec()),
        };
        (first, second)
    }

    fn is_answer(self, answer: &[u8]) -> bool {
        let begin: &[u8] = match self {
            Self::Http { .. } => {
                return answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.0 200");
            }
            Self::Redis => b"+PONG\r\n",
            Self::Memcached => b"VERSION ",
            Self::Mqtt => &[0x20, 2, 0, 0],
            Self::FastCgi => &[1, 6, 0, 1],
            Self::Dns => return answer.get(2..).is_some_and(is_dns_answer),
        };
        answer.starts_with(begin)
    }
}

/// A connection with a question, from its beginning to its answer.
#[derive(Debug)]
pub(crate) struct Visit {
    stream: Stream,
    protocol: Protocol,
    rest: Vec<u8>,
}

impl Visit {
    /// Connects and sends the first part of the question.
    pub(crate) fn begin(address: &Address, protocol: Protocol, pace: Pace) -> Result<Self, Failure> {
        let mut stream = Stream::connect(address).map_err(Failure::Refused)?;
        let (first, rest) = protocol.question(pace);
        stream.write_all(&first).map_err(Failure::NoAnswer)?;
        Ok(Self { stream, protocol, rest })
    }

    /// Returns the client's end; it has an address with TCP.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Sends the rest of the question.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        self.stream.write_all(&std::mem::take(&mut self.rest))
    }

    /// Reads the answer, and for HTTP all of it.
    pub(crate) fn answer(mut self) -> Result<(), Failure> {
        self.ask().map_err(Failure::NoAnswer)?;
        if let Protocol::Http { .. } = self.protocol {
            return self.answer_of_http();
        }
        let mut answer = [0; 64];
        match self.stream.read(&mut answer).map_err(Failure::NoAnswer)? {
            0 => Err(Failure::NoAnswer(io::ErrorKind::UnexpectedEof.into())),
            count if self.protocol.is_answer(&answer[..count]) => Ok(()),
            count => Err(Failure::Wrong(String::from_utf8_lossy(&answer[..count]).into_owned())),
        }
    }

    /// Every server closes the connection after its answer, as it was asked to.
    fn answer_of_http(mut self) -> Result<(), Failure> {
        let mut answer = Vec::new();
        let end = self.stream.read_to_end(&mut answer);
        match end {
            _ if answer.is_empty() => {
                Err(Failure::NoAnswer(end.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())))
            }
            Err(error) => Err(Failure::Cut(error)),
            Ok(_) if self.protocol.is_answer(&answer) => Ok(()),
            Ok(_) => Err(Failure::Wrong(String::from_utf8_lossy(&answer).into_owned())),
        }
    }
}

/// A connection of whatever family.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience()))?;
                Self::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience()))?;
                Self::Unix(stream)
            }
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// How a question failed.
#[derive(Debug)]
#[expect(dead_code, reason = "for the reader of a failed test")]
pub(crate) enum Failure {
    Refused(io::Error),
    NoAnswer(io::Error),
    Cut(io::Error),
    Wrong(String),
}

impl Failure {
    /// Returns whether there was a connection, and no whole answer.
    pub(crate) fn is_cut(&self) -> bool {
        match self {
            Self::NoAnswer(_) | Self::Cut(_) => true,
            Self::Refused(_) | Self::Wrong(_) => false,
        }
    }
}

/// Asks once, on a connection of its own.
pub(crate) fn ask(address: &Address, protocol: Protocol, pace: Pace) -> Result<(), Failure> {
    Visit::begin(address, protocol, pace)?.answer()
}

/// Clients that ask one question after the other.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Failure>>>,
}

impl Load {
    pub(crate) fn start(address: impl Into<Address>, protocol: Protocol) -> Self {
        let address = address.into();
        let slow = protocol == Protocol::Http { pauses: true };
        let paces = [Pace::Fast, Pace::Fast, Pace::Slow, Pace::Slow, Pace::Slow];
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |pace: &Pace| {
            let (stop, answers, pace) = (Arc::clone(&stop), Arc::clone(&answers), *pace);
            let address = address.clone();
            thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match ask(&address, protocol, pace) {
                        Ok(()) => drop(answers.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            })
        };
        let threads = paces.iter().filter(|pace| slow || **pace == Pace::Fast).map(client).collect();
        Self { stop, answers, threads }
    }

    /// Waits for so many more answers.
    #[track_caller]
    pub(crate) fn wait_answers(&self, count: usize) {
        let enough = self.answers.load(Ordering::Relaxed) + count;
        eventually("answers", || (self.answers.load(Ordering::Relaxed) >= enough).then_some(()));
    }

    /// Ends it, and returns how many were answered and what failed.
    pub(crate) fn finish(self) -> (usize, Vec<Failure>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client goes on"));
        let failures = failures.collect();
        (self.answers.load(Ordering::Relaxed), failures)
    }
}
