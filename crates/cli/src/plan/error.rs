//! What a user should know before the start, and why there is none.

use std::io;

use worksong_engine::program::{ProgramError, Warning};
use worksong_engine::spec::{CapturePolicyError, LimitError, ListenAddress, Overload, Policy, ProbeError};

/// What a user should know before the start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Note {
    #[error("warning: {0}")]
    Program(Warning),
    #[error(
        "warning: {option} stands after the program and is given to it; options of worksong stand before it"
    )]
    MisplacedOption { option: String },
    #[error("note: workers do not share the ports that they bind: {reason}")]
    NotCaptured { reason: String },
    #[error(
        "note: the program is taken for a Rust worker because of {asked}; say --dialect native if it is one, and leave \
         {asked} out if it is not: it would share no port"
    )]
    TakenForNative { asked: String },
    #[error(
        "warning: --max-connections counts nothing here, the workers accept connections by themselves; use {instead}"
    )]
    Uncounted { instead: &'static str },
    #[error("warning: --policy {policy} changes nothing here: {why}")]
    NoEffect { policy: Policy, why: &'static str },
}

/// Why what was typed cannot be run; all of these are wrong use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("--ready cannot probe these workers: {0}")]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Limits(#[from] LimitError),
    #[error(transparent)]
    CapturePolicy(#[from] CapturePolicyError),
    #[error("--overload {overload} is for connections that meet a limit; add --max-open or --max-open-app")]
    NoLimit { overload: Overload },
    #[error("the dialect activation needs a socket to pass on; add --listen 8080, or leave --dialect out")]
    NothingToInherit,
    #[error(
        "the dialect capture takes the ports that the program binds, so nobody would accept from --listen; leave one of both out"
    )]
    CaptureAndListen,
    #[error("--capture is for programs that bind by themselves; use it with --dialect capture or auto")]
    CaptureElsewhere,
    #[error(
        "a program without a channel cannot say that it is {state}; write --ready started, or leave --ready out"
    )]
    NeverReady { state: &'static str },
    #[error(
        "{instances} workers from port {base} on go beyond 65535; choose a smaller --port or fewer --instances"
    )]
    PortsOutOfRange { base: u16, instances: u32 },
    #[error(
        "Deno takes no connections from a socket that it was sent, so its workers would answer nobody; use --policy round-robin"
    )]
    SharedDeno,
    #[error(
        "the program accepts connections itself, so --policy {policy} could not keep together what belongs together; {instead}"
    )]
    StickyByItself { policy: Policy, instead: &'static str },
    #[error(
        "the program accepts connections itself, so --policy {policy} could not choose who gets one; leave it out"
    )]
    ChosenByItself { policy: Policy },
    #[error("--policy is there twice for {address}; leave one of them out")]
    TwoPolicies { address: ListenAddress },
    #[error(
        "--policy is there twice; write the address before the one that is not for all: --policy 8080=kernel"
    )]
    TwoDefaultPolicies,
    #[error(
        "--control has no address to assign: the workers have no ports of their own; add --dialect port and --port 3001"
    )]
    NothingToAssign,
    #[error("could not find the file of worksong itself: {0}; start it again by its path")]
    NoSelf(#[source] io::Error),
}
