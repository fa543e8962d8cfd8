//! Connections that are not let in.

use std::io::{self, Read, Write};

use super::*;
use crate::spec::Overload;

#[test]
fn who_speaks_something_else_is_reset_at_once_and_silence_has_its_time() {
    let limits = OpenLimits { per_worker: None, per_app: Some(1), overload: Overload::Unavailable };
    let mut trial = Trial::with_limits(Policy::default(), limits);
    let mut member = trial.listening_member(1);
    let held = trial.connect(1);
    let mut clients = trial.connect(2);
    let [other, silent] = &mut clients[..] else { panic!("two") };
    other.write_all(b"\x16\x03\x01\x00\x05hello").expect("it is open");
    trial.run_after(Duration::from_millis(1));
    let end = |client: &mut TcpStream| {
        client.set_nonblocking(true).expect("a socket");
        client.read(&mut [0]).map_err(|error| error.kind())
    };
    assert_eq!(end(other), Err(io::ErrorKind::ConnectionReset));
    trial.run_after(Duration::from_millis(990));
    assert_eq!(end(silent), Err(io::ErrorKind::WouldBlock), "it may be a client that is slow");
    trial.run_after(Duration::from_millis(10));
    assert_eq!(end(silent), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(member.accept_all(), held.len());
}
