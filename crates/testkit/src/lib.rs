//! Clusters for tests: real workers, kernel-chosen ports, everything ended by pid.
//!
//! ```no_run
//! use worksong_testkit::{Worksong, fixture, http};
//!
//! let worksong = Worksong::run(["-i", "2"]).program(fixture("node/http.js")).start();
//! worksong.wait_ready(2);
//! let answer = http::get(worksong.listening_port(), "/").unwrap();
//! assert_eq!(answer.status, 200);
//! ```
//!
//! A [`Worksong`] is the binary with a home, an environment and a search path of its own; [`Program`] is any other
//! program, kept in the same way. What happens to either is waited for, never slept for, and dropping the value ends
//! what it started. Every wait gives up after [`patience`] with the whole log of the program.
//!
//! All functions panic when something is not as a test needs it: they are for tests only.
#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "panics are how everything here fails; the crate says so")]

pub mod http;
pub mod process;
pub mod socket_io;

mod backlog;
mod connections;
mod event;
mod folder;
mod load;
mod paths;
mod patience;
mod port;
mod program;
mod running;
mod worksong;

pub use backlog::backlog;
pub use connections::{accepted_socket, has_socket};
pub use event::{Event, Output};
pub use folder::Folder;
pub use load::Load;
pub use paths::{NODE_VERSIONS, binary, bun, checkout, deno, fixture, node, python, python_tool};
pub use patience::{eventually, patience};
pub use port::{free_port, free_ports};
pub use program::Program;
pub use running::{Line, Stream};
pub use rustix::process::Signal;
pub use worksong::{Launch, Worksong};
