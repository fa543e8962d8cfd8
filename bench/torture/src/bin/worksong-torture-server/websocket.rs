//! Text over WebSocket (RFC 6455), echoed: whole messages of at most [`SHORT`] bytes, which is what the clients send.

use std::io;

use hyper::header::{CONNECTION, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use worksong_worker::{RequestBody, Worker};

use crate::Answer;

/// The first byte of a frame that ends a WebSocket.
const CLOSE: u8 = 0x88;
/// The longest payload whose length stands in the second byte.
const SHORT: usize = 125;
/// The server goes away, and its clients connect again.
const GOING_AWAY: u16 = 1001;

/// Answers a request that asks for a WebSocket, and serves that until the client ends it or the worker leaves.
///
/// It does not prove that it has understood the request: the clients do not ask for `Sec-WebSocket-Accept`.
pub(crate) fn accept(worker: Worker, request: Request<RequestBody>) -> Response<Answer> {
    tokio::spawn(async move {
        // A client may have gone before.
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let _end = serve(&worker, TokioIo::new(upgraded)).await;
        }
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response.header(CONNECTION, "upgrade").header(UPGRADE, "websocket");
    response.body(Answer::Text(Vec::new().into())).expect("invariant: these headers are valid")
}

/// Echoes until the client closes, or the worker leaves: then the client is told so between two messages.
async fn serve(worker: &Worker, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut first = [0];
    loop {
        tokio::select! {
            read = stream.read_exact(&mut first) => read?,
            () = worker.draining() => {
                send(&mut stream, CLOSE, &GOING_AWAY.to_be_bytes()).await?;
                // What the client has sent meanwhile is read, or a RST would take our word away.
                return tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop);
            }
        };
        let payload = payload(&mut stream).await?;
        send(&mut stream, first[0], &payload).await?;
        if first[0] == CLOSE {
            return Ok(());
        }
    }
}

/// Reads the rest of a frame after its first byte, and takes the mask off.
async fn payload(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u8().await? & 0x7f);
    if length > SHORT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(payload)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first, payload.len() as u8];
    frame.extend(payload);
    stream.write_all(&frame).await
}
