//! A server that knows nothing of worksong: an inherited socket (`LISTEN_FDS`) or a port of its own (`PORT`).
//!
//! Every connection gets one HTTP response with the process id and is closed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, thread};

fn main() -> io::Result<()> {
    let listener = listener()?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => drop(thread::spawn(move || serve(stream))),
            // Several processes may wait on the same socket, and a client may be gone already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn listener() -> io::Result<TcpListener> {
    if let Some(inherited) = listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        inherited.set_nonblocking(false)?;
        return Ok(inherited);
    }
    let port = env::var("PORT").ok().and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| {
        io::Error::other("no socket was inherited (LISTEN_FDS) and PORT is not set to a port number")
    })?;
    TcpListener::bind(("127.0.0.1", port))
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    for line in BufReader::new(&stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let body = format!("{}\n", std::process::id());
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}
