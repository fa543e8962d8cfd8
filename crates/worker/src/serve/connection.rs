//! One connection's task.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use hyper::body::Body;
use hyper::server::conn::http1::Builder;
use hyper::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tower_service::Service;
use worksong_channel::message::HandleAnswer;

use super::Stage;
use super::activity::Activity;
use super::body::RequestBody;
#[cfg(feature = "http2")]
use super::http2;
use super::io::Io;
use super::service::{Counted, PeerAddress};
use crate::error::BoxError;
use crate::giving::Standing;
use crate::link::Link;

/// A connection's place among those that are open; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Membership {
    place: Option<Place>,
    standing: Arc<Standing>,
    /// What `serve` waits for in the end.
    _open: watch::Receiver<()>,
}

/// The place in the session of a worker that has a primary.
#[derive(Debug)]
struct Place {
    link: Arc<Link>,
    id: u64,
}

/// A connection that is served.
pub(super) struct Served<S> {
    io: Io,
    service: Counted<S>,
    activity: Arc<Activity>,
    membership: Arc<Membership>,
    stage: watch::Receiver<Stage>,
}

/// Why hyper is not polled any more.
enum Turn {
    /// The connection is closed, or upgraded, or no HTTP/1.
    Ended(hyper::Result<()>),
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

impl Membership {
    pub(super) fn enter(link: Option<&Arc<Link>>, open: watch::Receiver<()>) -> Arc<Self> {
        let standing = Arc::new(Standing::default());
        let place = link.map(|link| {
            let entered = Arc::clone(&standing);
            let id = link.step(|session| session.enter(entered, Instant::now()));
            Place { link: Arc::clone(link), id }
        });
        Arc::new(Self { place, standing, _open: open })
    }

    /// Says whether the connection is idle, and returns true when it shall go back to the primary now.
    fn asks(&self, idle: bool) -> bool {
        let Some(Place { link, id }) = &self.place else { return false };
        self.standing.set_idle(idle);
        match (self.standing.take_asked(), idle) {
            (true, false) => {
                link.step(|session| session.decline(*id));
                false
            }
            (asked, true) if asked || link.awaits_idle() => link.step(|session| session.claim(*id)),
            (_, _) => false,
        }
    }

    /// Gives an idle connection to the primary; returns it when it stays.
    async fn give(&self, io: Io, activity: &Activity) -> Option<Io> {
        let Some(Place { link, id }) = &self.place else { return Some(io) };
        let Ok(descriptor) = io.descriptor() else {
            // No free descriptor now; asking the same connection at once again would not help.
            activity.stay();
            self.decline();
            return Some(io);
        };
        let answer = match link.step(|session| session.give(*id, descriptor)) {
            Some(answered) => answered.await,
            None => return Some(io),
        };
        match answer {
            Ok(HandleAnswer::Nack) => Some(io),
            // Ours is closed, not shut down: the client's connection goes on. Without an answer there is no primary
            // any more, and whoever has the connection now, it may be somebody.
            Ok(HandleAnswer::Ack) | Err(_) => None,
        }
    }

    fn decline(&self) {
        if let Some(Place { link, id }) = &self.place {
            link.step(|session| session.decline(*id));
        }
    }

    fn upgraded(&self) {
        if let Some(Place { link, id }) = &self.place {
            link.step(|session| session.upgraded(*id));
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(Place { link, id }) = &self.place {
            link.step(|session| session.left(*id, Instant::now()));
        }
    }
}

impl<S, B> Served<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        (stream, peer): (TcpStream, SocketAddr),
        service: S,
        membership: Arc<Membership>,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        let activity = Activity::new(Arc::clone(&membership.standing));
        let io = Io::new(stream, Arc::clone(&activity), Arc::clone(&membership));
        let service = Counted::new(service, Arc::clone(&activity), PeerAddress(peer));
        Self { io, service, activity, membership, stage }
    }

    /// Serves the connection until it is closed, upgraded or given back.
    pub(super) async fn run(self) {
        let Self { mut io, mut service, activity, membership, stage } = self;
        let mut watched = stage.clone();
        let mut parting =
            pin!(async move { watched.wait_for(|stage| *stage == Stage::Parting).await.is_ok() });
        let mut ending = Ending::NotYet;
        loop {
            let mut connection = Builder::new().serve_connection(io, service).with_upgrades();
            let turn = poll_fn(|cx| {
                membership.standing.set_waker(cx.waker());
                activity.before_poll();
                if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(Turn::Ended(end));
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
                        Pin::new(&mut connection).poll(cx).map(Turn::Ended)
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
                Turn::Ended(Err(_)) if http2::begins(&parts.read_buf) => {
                    membership.upgraded();
                    let io = parts.io.behind(parts.read_buf);
                    return http2::run(io, parts.service, stage).await;
                }
                Turn::Ended(_) | Turn::Parting => return,
            };
            service = parts.service;
        }
    }
}
