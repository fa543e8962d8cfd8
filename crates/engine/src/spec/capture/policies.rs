//! Which policies can hold where programs bind by themselves.

use std::net::SocketAddr;
use std::path::Path;

use super::CaptureAddress;
use super::address::is_same;
use crate::spec::{AppSpec, Dialect, ListenAddress, Policy};

/// A policy was set for an address at which it could change nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapturePolicyError {
    /// There is one socket only.
    #[error(
        "--policy {address}={policy} could change nothing: a path leads to one socket, which all workers share; leave it out"
    )]
    OneSocket {
        /// The captured path.
        address: CaptureAddress,
        /// What was to hold there.
        policy: Policy,
    },
    /// The program keeps what it binds there for itself.
    #[error(
        "--policy {address}={policy} could change nothing: the address is not captured; add --capture {address}, or leave it out"
    )]
    NotCaptured {
        /// The address as it would be captured.
        address: CaptureAddress,
        /// What was to hold there.
        policy: Policy,
    },
}

/// Checks that each policy which is set for an address of its own can hold there, where an app's program binds by itself.
///
/// # Errors
///
/// See [`CapturePolicyError`]; each says what to do instead.
pub fn check_capture_policies(spec: &AppSpec) -> Result<(), CapturePolicyError> {
    let Dialect::Capture { channel } = spec.dialect else { return Ok(()) };
    let here = std::env::current_dir().unwrap_or_default();
    let folder = spec.command.cwd.as_deref().map_or_else(|| here.clone(), |cwd| here.join(cwd));
    let captured: Vec<_> = spec.capture.iter().map(|address| address.clone().seen_from(&folder)).collect();
    for (named, policy) in spec.policies.at() {
        let (address, policy) = (as_captured(named), policy.clone());
        let is_captured = if captured.is_empty() {
            matches!(address, CaptureAddress::Port(_) | CaptureAddress::Tcp(_))
        } else {
            let address = address.clone().seen_from(&here);
            captured.iter().any(|captured| may_be(&address, captured))
        };
        let is_path = matches!(address, CaptureAddress::Unix(_));
        if is_captured && is_path && policy.spread().is_some() {
            return Err(CapturePolicyError::OneSocket { address, policy });
        }
        // One with a channel may ask for what it does not bind.
        if !is_captured && !channel {
            return Err(CapturePolicyError::NotCaptured { address, policy });
        }
    }
    Ok(())
}

/// Returns an address as it is named to capture it.
fn as_captured(named: &ListenAddress) -> CaptureAddress {
    match named {
        ListenAddress::AnyInterface(port) => CaptureAddress::Port(*port),
        ListenAddress::Tcp(address) => CaptureAddress::Tcp(*address),
        ListenAddress::AnyInterfaceUdp(port) => CaptureAddress::UdpPort(*port),
        ListenAddress::Udp(address) => CaptureAddress::Udp(*address),
        ListenAddress::Unix(path) => CaptureAddress::Unix(path.clone()),
    }
}

/// Returns whether a policy for this address may hold at what is captured. What names no transport means datagrams, too.
fn may_be(named: &CaptureAddress, captured: &CaptureAddress) -> bool {
    match (named, captured) {
        (CaptureAddress::Unix(named), CaptureAddress::Unix(captured)) => is_same_path(named, captured),
        (
            CaptureAddress::UdpPort(_) | CaptureAddress::Udp(_),
            CaptureAddress::Port(_) | CaptureAddress::Tcp(_),
        ) => false,
        (named, captured) => match (whole(named), whole(captured)) {
            (Some(named), Some(captured)) => is_same(named, captured),
            _ => port(named).is_some() && port(named) == port(captured),
        },
    }
}

fn is_same_path(named: &Path, captured: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_empty| path.to_owned());
    named == captured || absolute(named) == absolute(captured)
}

fn whole(address: &CaptureAddress) -> Option<SocketAddr> {
    match address {
        CaptureAddress::Tcp(address) | CaptureAddress::Udp(address) => Some(*address),
        CaptureAddress::Port(_) | CaptureAddress::UdpPort(_) | CaptureAddress::Unix(_) => None,
    }
}

fn port(address: &CaptureAddress) -> Option<u16> {
    match address {
        CaptureAddress::Port(port) | CaptureAddress::UdpPort(port) => Some(*port),
        CaptureAddress::Tcp(address) | CaptureAddress::Udp(address) => Some(address.port()),
        CaptureAddress::Unix(_) => None,
    }
}
