//! Which addresses are taken from programs that bind by themselves, and whether that is possible here.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::process::notifier;

/// An address that a program binds by itself and that its workers are to share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureAddress {
    /// A TCP port, on whatever interface.
    Port(u16),
}

/// A text that is no address to capture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address that can be captured; write a port: 8080")]
pub struct CaptureAddressError(String);

impl FromStr for CaptureAddress {
    type Err = CaptureAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(1..) => text.parse().map(Self::Port).map_err(|_no_port| CaptureAddressError(text.to_owned())),
            _ => Err(CaptureAddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for CaptureAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
        }
    }
}

/// The ports of programs cannot be captured here.
#[derive(Debug, thiserror::Error)]
#[error("the ports of programs cannot be captured here, {}; use --dialect port", explain(.0))]
pub struct CaptureError(pub(crate) io::Error);

/// Finds out whether [`Dialect::Capture`](super::Dialect::Capture) is possible here, by trying it on a thread.
///
/// # Errors
///
/// When the kernel or the container that this runs in forbids it.
pub fn check_capture() -> Result<(), CaptureError> {
    notifier::check().map_err(CaptureError)
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "the container that this runs in forbids seccomp filters that ask".to_owned()
        }
        Some(libc::EBUSY) => "this process runs below another program that captures".to_owned(),
        Some(libc::ENOSYS | libc::EINVAL) => "it takes Linux 5.14 or newer, on x86-64 or arm64".to_owned(),
        _ => error.to_string(),
    }
}
