//! The control address of a worksong primary: what it answers over HTTP.
//!
//! Today that is one thing: `GET /assign` names the worker with the fewest connections, where each worker has a port of its
//! own (`--dialect port`, or a program that listens on its port + slot).
//!
//! It is part of the control plane: [`Bound::serve`] spawns its tasks on the current runtime, which the data plane has nothing to do with.
//! There are never more than 64 connections, and each has five seconds for its one request.
//!
//! ```text
//! accept loop ── request ──▶ routes ── question ──▶ clerk (owns the counts) ── ports ──▶ engine, kernel
//! ```
#![forbid(unsafe_code)]

mod address;
mod assign;
mod clerk;
mod connections;
mod routes;
mod server;

pub use self::address::{Address, AddressError};
pub use self::server::{BindError, Bound, Server};
