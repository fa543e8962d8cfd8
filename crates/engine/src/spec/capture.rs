//! Which addresses are taken from programs that bind by themselves, and whether that is possible here.

mod address;
mod policies;

use std::io;

use crate::process::notifier;

pub(crate) use self::address::is_abstract;
pub use self::address::{CaptureAddress, CaptureAddressError};
pub use self::policies::{CapturePolicyError, check_capture_policies};

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
