//! The one engine that the library and the command line both drive.

mod agent;
pub mod balance;
mod capture;
pub mod cores;
pub mod engine;
pub mod event;
pub mod guard;
mod handover;
pub mod holder;
pub mod ids;
pub mod inet;
mod listen;
pub mod output;
mod plane;
mod process;
pub mod program;
pub mod shortage;
pub mod signals;
mod slots;
pub mod spec;
pub mod sticky;
pub mod supervise;
