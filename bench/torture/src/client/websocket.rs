//! Numbered messages over WebSocket (RFC 6455), which the server sends back.

mod frame;

use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::ledger::{Course, Ending, Fate};

use super::Client;
use super::connection::{Connection, Loss};
use frame::{Frame, Opcode};

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: torture\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d29ya3NvbmctdG9ydHVyZQ==\r\n\r\n";
/// The server goes away, or is started again: the client knows that it has to connect again.
const POLITE: [u16; 2] = [1001, 1012];

/// An open WebSocket.
struct Socket {
    stream: TcpStream,
    buffer: BytesMut,
    course: Course,
}

/// How a WebSocket ended, seen from here.
enum End {
    /// The server said why, in a way that asks to connect again.
    Polite,
    /// Everything else.
    Lost(Loss),
}

impl Client {
    /// One WebSocket after the other, each for as long as the server lets it.
    pub(super) async fn websockets(&mut self) {
        while !self.stopped() {
            let Some(connection) = self.connection().await else { continue };
            let course = connection.course;
            match self.within(upgrade(connection)).await {
                Ok(socket) => self.converse(socket).await,
                Err(loss) => self.cut(course, loss),
            }
        }
    }

    async fn converse(&mut self, mut socket: Socket) {
        let mut number = self.random.below(1000);
        loop {
            let mask = self.random.next() as u32;
            number += 1;
            let echoed = match self.within(async { Ok(socket.echo(number, mask).await) }).await {
                Ok(echoed) => echoed,
                Err(late) => Err(End::Lost(late)),
            };
            match echoed {
                Ok(()) => {
                    socket.course.served += 1;
                    self.book.served(self.class, socket.course.opened);
                }
                Err(End::Polite) => {
                    self.book.declined(self.class);
                    return self.book.ended(self.class, Ending::Polite);
                }
                Err(End::Lost(loss)) => return self.cut(socket.course, loss),
            }
            let pause = self.random.around(self.class.pause());
            let end = tokio::select! {
                biased;
                end = socket.unasked() => end,
                _ended = self.stop.wait_for(|stop| *stop) => {
                    // Whether the server answers is no matter: nothing is outstanding.
                    let _left = socket.stream.write_all(&Frame::close(1000).masked(mask)).await;
                    return;
                }
                () = sleep(pause) => continue,
            };
            match end {
                End::Polite => return self.book.ended(self.class, Ending::Polite),
                End::Lost(loss) => return self.cut(socket.course, loss),
            }
        }
    }

    /// A WebSocket that ended without a word counts as one failure, whether or not an echo was outstanding.
    fn cut(&self, course: Course, loss: Loss) {
        self.book.failed(self.class, loss.fate, Some(course), loss.detail);
        self.book.ended(self.class, Ending::Lost);
    }
}

async fn upgrade(mut connection: Connection) -> Result<Socket, Loss> {
    connection.begin(UPGRADE).await;
    let course = connection.course;
    let (stream, buffer) = connection.upgrade().await?;
    Ok(Socket { stream, buffer, course })
}

impl Socket {
    /// Sends a message and waits until it comes back.
    async fn echo(&mut self, number: u64, mask: u32) -> Result<(), End> {
        let message = number.to_string();
        self.course.asked = Instant::now();
        // When it cannot be written, reading tells why.
        let _written = self.stream.write_all(&Frame::text(&message).masked(mask)).await;
        loop {
            let frame = self.frame().await?;
            match frame.opcode {
                Opcode::Text if frame.payload == message.as_bytes() => return Ok(()),
                Opcode::Text => {
                    let said = String::from_utf8_lossy(&frame.payload);
                    return Err(End::Lost(Loss::wrong(format!("{said:?} came back for {message}"))));
                }
                Opcode::Ping => self.pong(frame, mask).await,
                Opcode::Other(_) => {}
                Opcode::Close => return Err(self.closed(&frame, mask).await),
            }
        }
    }

    /// Waits for the end, or for what nobody asked for.
    async fn unasked(&mut self) -> End {
        loop {
            let frame = match self.frame().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            match frame.opcode {
                Opcode::Ping => self.pong(frame, 0).await,
                Opcode::Other(_) => {}
                Opcode::Text => return End::Lost(Loss::wrong("a message that answers nothing")),
                Opcode::Close => return self.closed(&frame, 0).await,
            }
        }
    }

    async fn pong(&mut self, ping: Frame, mask: u32) {
        let answer = Frame { opcode: Opcode::PONG, ..ping };
        // When it cannot be written, reading tells why.
        let _written = self.stream.write_all(&answer.masked(mask)).await;
    }

    async fn closed(&mut self, close: &Frame, mask: u32) -> End {
        let code = close.close_code();
        // The server may not wait for it.
        let _written = self.stream.write_all(&Frame::close(code.unwrap_or(1000)).masked(mask)).await;
        match code {
            Some(code) if POLITE.contains(&code) => End::Polite,
            code => End::Lost(Loss { fate: Fate::ClosedWithin, detail: format!("close code {code:?}") }),
        }
    }

    /// Reads the next frame; what was read of it is kept when this is given up.
    async fn frame(&mut self) -> Result<Frame, End> {
        loop {
            match Frame::take(&mut self.buffer) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(wrong) => return Err(End::Lost(Loss::wrong(wrong))),
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(End::Lost(Loss::end(None, true))),
                Ok(_) => {}
                Err(error) => return Err(End::Lost(Loss::end(Some(&error), true))),
            }
        }
    }
}
