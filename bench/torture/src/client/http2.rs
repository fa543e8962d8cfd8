//! Several requests at once on one HTTP/2 connection, without TLS.

use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::ledger::{Course, Ending, Fate};

use super::Client;
use super::connection::Loss;

/// The most requests that are open at once.
const LARGEST_ROUND: u64 = 6;

/// An HTTP/2 connection with the task that drives it.
struct Session {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<()>,
    course: Course,
}

/// Nothing is read from a connection whose client has gone.
impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What became of a request.
enum Verdict {
    Served,
    Declined,
    Lost(Loss),
}

impl Client {
    /// One connection after the other, each for as long as the server lets it.
    pub(super) async fn http2(&mut self) {
        let Some(address) = self.target.http2 else { return };
        while !self.stopped() {
            let Some(stream) = self.open(address).await else { continue };
            let course = Course::new();
            match self.within(Session::open(stream)).await {
                Ok(session) => self.rounds(session).await,
                Err(loss) => {
                    self.lose(course, loss);
                    self.book.ended(self.class, Ending::Lost);
                }
            }
        }
    }

    async fn rounds(&mut self, mut session: Session) {
        loop {
            match self.within(async { Ok(session.is_usable().await) }).await {
                Ok(Ok(())) => {}
                Ok(Err(ending)) => return self.book.ended(self.class, ending),
                Err(late) => {
                    self.lose(session.course, late);
                    return self.book.ended(self.class, Ending::Lost);
                }
            }
            if !self.round(&mut session).await {
                return self.book.ended(self.class, Ending::Lost);
            }
            let pause = self.random.around(self.class.pause());
            tokio::select! {
                biased;
                // Why it ended is told by the next use.
                _ended = &mut session.driver => {}
                _ended = self.stop.wait_for(|stop| *stop) => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Opens some requests at once and waits for their answers; false when one failed, and the connection is given up.
    async fn round(&mut self, session: &mut Session) -> bool {
        let mut is_good = true;
        let count = 1 + self.random.below(LARGEST_ROUND);
        let mut answers = Vec::new();
        session.course.asked = Instant::now();
        for _ in 0..count {
            let number = self.random.next();
            if let Ok(answer) = session.send(number) {
                answers.push((number, answer));
            }
        }
        for (number, answer) in answers {
            let verdict = self.within(async { Ok(take(answer, number).await) }).await;
            match verdict.unwrap_or_else(Verdict::Lost) {
                Verdict::Served => {
                    session.course.served += 1;
                    self.book.served(self.class, session.course.opened);
                }
                Verdict::Declined => self.book.declined(self.class),
                Verdict::Lost(loss) => {
                    self.lose(session.course, loss);
                    is_good = false;
                }
            }
        }
        is_good
    }

    fn lose(&self, course: Course, loss: Loss) {
        self.book.failed(self.class, loss.fate, Some(course), loss.detail);
    }
}

impl Session {
    async fn open(stream: TcpStream) -> Result<Self, Loss> {
        let (requests, connection) =
            h2::client::handshake(stream).await.map_err(|error| loss(&error, false))?;
        let driver = tokio::task::spawn_local(async move {
            // Every request learns of its end.
            let _end = connection.await;
        });
        Ok(Self { requests, driver, course: Course::new() })
    }

    /// Waits until a request can be opened, or tells how the connection ended while none was.
    async fn is_usable(&mut self) -> Result<(), Ending> {
        let ready = self.requests.clone().ready().await;
        ready.map(drop).map_err(|error| if is_polite(&error) { Ending::Polite } else { Ending::Idle })
    }

    fn send(&mut self, number: u64) -> Result<ResponseFuture, h2::Error> {
        let request = Request::get(format!("http://torture/say/{number}")).body(());
        let request = request.expect("invariant: a number makes a path");
        self.requests.send_request(request, true).map(|(answer, _sent)| answer)
    }
}

/// Waits for an answer and compares it.
async fn take(answer: ResponseFuture, number: u64) -> Verdict {
    let (head, body) = match answer.await {
        Ok(answer) => answer.into_parts(),
        Err(error) if is_polite(&error) => return Verdict::Declined,
        Err(error) => return Verdict::Lost(loss(&error, false)),
    };
    if head.status != 200 {
        let detail = format!("status {}", head.status.as_u16());
        return Verdict::Lost(Loss { fate: Fate::WrongStatus, detail });
    }
    match text(body).await {
        Ok(text) if text == number.to_string().as_bytes() => Verdict::Served,
        Ok(text) => Verdict::Lost(Loss::wrong(format!("{:?}, not {number}", String::from_utf8_lossy(&text)))),
        Err(error) => Verdict::Lost(loss(&error, true)),
    }
}

async fn text(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        text.extend_from_slice(&part);
    }
    Ok(text)
}

/// Returns true when the server said that it did not take the request, and that nothing is wrong.
fn is_polite(error: &h2::Error) -> bool {
    match error.reason() {
        Some(Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        Some(Reason::REFUSED_STREAM) => true,
        _ => false,
    }
}

fn loss(error: &h2::Error, within: bool) -> Loss {
    use std::io::ErrorKind;
    let closed = error.get_io().is_some_and(|error| error.kind() != ErrorKind::ConnectionReset);
    let fate = match (closed, within) {
        (true, false) => Fate::ClosedBefore,
        (true, true) => Fate::ClosedWithin,
        (false, false) => Fate::ResetBefore,
        (false, true) => Fate::ResetWithin,
    };
    Loss { fate, detail: error.to_string() }
}
