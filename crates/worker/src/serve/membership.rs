//! A connection's place among those that are open, and how it leaves it for another worker.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use worksong_channel::message::HandleAnswer;

use super::accept::Stream;
use super::activity::Activity;
use super::io::Io;
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

impl Membership {
    pub(super) fn enter(server: Option<(&Arc<Link>, &str)>, open: watch::Receiver<()>) -> Arc<Self> {
        let standing = Arc::new(Standing::default());
        let place = server.map(|(link, key)| {
            let entered = Arc::clone(&standing);
            let id = link.step(|session| session.enter(key, entered, Instant::now()));
            Place { link: Arc::clone(link), id }
        });
        Arc::new(Self { place, standing, _open: open })
    }

    /// Returns how the connection stands with those who ask for one.
    pub(super) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Says whether the connection is idle, and returns true when it shall go back to the primary now.
    pub(super) fn asks(&self, idle: bool) -> bool {
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
    pub(super) async fn give<T: Stream>(&self, io: Io<T>, activity: &Activity) -> Option<Io<T>> {
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

    /// Says that the connection cannot be given now, if it was asked.
    pub(super) fn decline(&self) {
        if let Some(Place { link, id }) = &self.place {
            link.step(|session| session.decline(*id));
        }
    }

    /// Says that the connection cannot be given any more, although it is open.
    pub(super) fn upgraded(&self) {
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
