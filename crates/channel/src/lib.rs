//! The protocol between a primary and its workers: Node's cluster protocol, for everybody.
//!
//! A channel is one `AF_UNIX` stream socketpair. Messages are JSON texts ended by a newline; a descriptor
//! travels by `SCM_RIGHTS` with a `NODE_HANDLE` message. The same crate serves both ends: worksong's primary,
//! which holds many channels, and a Rust worker, which holds one (and may have a real Node primary behind it).
//!
//! There is no runtime and no policy in here:
//!
//! * [`message`] decodes and encodes single messages,
//! * [`inbox`] turns what was read into messages and pairs them with their descriptors,
//! * [`outbox`] decides what may be written next and keeps what could not be,
//! * [`channel`] does both on a non-blocking socket.

pub mod channel;
pub mod inbox;
pub mod message;
pub mod outbox;

pub use channel::{Channel, Progress, pair};
pub use inbox::Incoming;
pub use message::Message;
