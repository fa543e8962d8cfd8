//! The one engine that the library and the command line both drive.

pub mod event;
pub mod ids;
pub mod spec;
pub mod supervise;
