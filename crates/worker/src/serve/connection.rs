//! One connection's task.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::http1::Builder;
use tokio::sync::watch;

use super::accept::Stream;
use super::activity::Activity;
#[cfg(feature = "http2")]
use super::http2;
use super::io::Io;
use super::membership::Membership;
use super::service::{Counted, HttpService, PeerAddress};
use super::{Stage, reached};

/// A connection that is served.
pub(super) struct Served<T, S> {
    io: Io<T>,
    service: Counted<S>,
    activity: Arc<Activity>,
    membership: Arc<Membership>,
    stage: watch::Receiver<Stage>,
}

/// Why hyper is not polled any more.
enum Turn {
    /// The connection is closed, or upgraded.
    Ended,
    /// It broke, or what came is no HTTP/1.
    Failed,
    /// It is idle and the primary wants it.
    Asked,
    /// It is idle and `serve` wants to end.
    Parting,
}

/// How far the end of `serve` has come for one connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    NotYet,
    Wanted,
    /// hyper knows: it closes the connection after the response, and says so in it.
    Told,
}

impl Turn {
    fn of(end: &hyper::Result<()>) -> Self {
        if end.is_ok() { Self::Ended } else { Self::Failed }
    }
}

impl<T: Stream, S: HttpService> Served<T, S> {
    pub(super) fn new(
        stream: T,
        peer: Option<PeerAddress>,
        service: S,
        membership: Arc<Membership>,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        let activity = Activity::new(Arc::clone(membership.standing()));
        let io = Io::new(stream, Arc::clone(&activity), Arc::clone(&membership));
        let service = Counted::new(service, Arc::clone(&activity), peer);
        Self { io, service, activity, membership, stage }
    }

    /// Serves the connection until it is closed, upgraded or given back.
    pub(super) async fn run(self) {
        let Self { mut io, mut service, activity, membership, stage } = self;
        let mut parting = pin!(reached(stage.clone(), Stage::Parting));
        let mut ending = Ending::NotYet;
        loop {
            let mut connection = Builder::new().serve_connection(io, service).with_upgrades();
            let turn = poll_fn(|cx| {
                membership.standing().set_waker(cx.waker());
                activity.before_poll();
                if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(Turn::of(&end));
                }
                if activity.is_unsettled() {
                    cx.waker().wake_by_ref();
                }
                if ending == Ending::NotYet && parting.as_mut().poll(cx).is_ready() {
                    ending = Ending::Wanted;
                }
                let idle = activity.is_idle();
                let asked = membership.asks(idle && ending == Ending::NotYet);
                match ending {
                    Ending::NotYet if asked => Poll::Ready(Turn::Asked),
                    Ending::Wanted if idle => Poll::Ready(Turn::Parting),
                    Ending::Wanted => {
                        ending = Ending::Told;
                        Pin::new(&mut connection).graceful_shutdown();
                        Pin::new(&mut connection).poll(cx).map(|end| Turn::of(&end))
                    }
                    Ending::NotYet | Ending::Told => Poll::Pending,
                }
            });
            let turn = turn.await;
            let Some(parts) = connection.into_parts() else { return membership.upgraded() };
            io = match turn {
                Turn::Asked | Turn::Parting if !parts.read_buf.is_empty() => {
                    // A part of a request: this worker answers it.
                    activity.stay();
                    membership.decline();
                    parts.io.behind(parts.read_buf)
                }
                Turn::Asked => match membership.give(parts.io, &activity).await {
                    Some(io) => io,
                    None => return,
                },
                #[cfg(feature = "http2")]
                Turn::Failed if http2::begins(&parts.read_buf) => {
                    membership.upgraded();
                    let io = parts.io.behind(parts.read_buf);
                    return http2::run(io, parts.service, stage).await;
                }
                Turn::Ended | Turn::Failed | Turn::Parting => return,
            };
            service = parts.service;
        }
    }
}
