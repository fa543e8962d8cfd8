//! Unix sockets that all workers of an app share: a path leads to one socket, so there can be no more.
//!
//! The first program that binds an address gets just what it would get alone, its own socket, of which we keep a copy. All
//! others get that one in place of their own. Programs remove a path before they bind it and when they end; as long as the
//! app lives it is [kept](KeptPath).

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use socket2::SockRef;

use super::look::{Glance, Sight};
use super::open_sockets::OpenSockets;
use super::signs::Signs;
use super::upkeep::{Attention, Disuse};
use super::{Identity, Taken};
use crate::ids::WorkerId;
use crate::listen::{Address, HOLDING_BACKLOG, KeptPath, Place, QueueLength, queue_length};
use crate::plane::Queue;

/// The shared Unix sockets of one app. Handles are cheap to clone. Only the thread that answers programs adds sockets;
/// nothing is done to files under the lock.
#[derive(Clone, Debug)]
pub(crate) struct UnixSockets {
    shared: Arc<Mutex<Vec<Shared>>>,
    signs: Arc<Signs>,
}

/// Where a program wants to bind.
#[derive(Debug)]
pub(crate) enum UnixPlace {
    /// A file.
    Path(Place),
    /// A name in the abstract namespace, which starts with a NUL byte.
    Abstract(PathBuf),
}

/// A socket that was bound for the first time.
#[derive(Debug)]
pub(crate) struct FirstBound {
    pub(crate) socket: OwnedFd,
    /// `None` for an abstract name.
    pub(crate) path: Option<KeptPath>,
}

#[derive(Debug)]
struct Shared {
    /// As it is told.
    name: PathBuf,
    path: Option<Arc<KeptPath>>,
    socket: OwnedFd,
    identity: Identity,
    listens: bool,
    /// The workers that were given it and are not gone.
    holders: Vec<Holder>,
    attention: Attention,
    disuse: Disuse,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    worker: WorkerId,
    /// It has removed the path since it was given the socket: it may bind the path again.
    has_removed: bool,
}

/// What a worker may have of a place.
#[derive(Debug)]
pub(crate) enum Offer {
    /// Nobody has bound it yet, or what was bound is lost.
    Nothing,
    /// The shared socket.
    Shared(Taken),
    /// It is in use, by this worker or by a stranger.
    InUse,
}

impl UnixSockets {
    pub(super) fn new(signs: Arc<Signs>) -> Self {
        Self { shared: Arc::default(), signs }
    }

    /// Returns the socket of a place that the worker was given, unless it has removed the path since.
    pub(crate) fn held(&self, worker: WorkerId, place: &UnixPlace) -> Option<Identity> {
        let shared = self.shared();
        let holds = |holder: &Holder| holder.worker == worker && !holder.has_removed;
        let held = shared.iter().find(|shared| shared.is_at(place) && shared.holders.iter().any(holds));
        held.map(|shared| shared.identity)
    }

    /// Gives a worker the socket of a place, to which its path leads again from now on.
    pub(crate) fn take(&self, worker: WorkerId, place: &UnixPlace) -> io::Result<Offer> {
        let Some((identity, path)) = self.find(|shared| shared.is_at(place)) else {
            return Ok(Offer::Nothing);
        };
        if let Some(path) = path
            && let Err(error) = path.restore()
        {
            return match error.raw_os_error() {
                Some(libc::EADDRINUSE) => Ok(Offer::InUse),
                Some(libc::ENOENT) => {
                    // Whoever has it still accepts what comes from who is connected or on the way.
                    self.shared().retain(|shared| {
                        let is_other = shared.identity != identity;
                        if !is_other {
                            self.signs.forget(&shared.socket);
                        }
                        is_other
                    });
                    Ok(Offer::Nothing)
                }
                _ => Err(error),
            };
        }
        let mut all = self.shared();
        let Some(shared) = all.iter_mut().find(|shared| shared.identity == identity) else {
            return Ok(Offer::Nothing);
        };
        let socket = shared.socket.try_clone()?;
        let is_shared = shared.holders.iter().any(|holder| holder.worker != worker);
        shared.holders.retain(|holder| holder.worker != worker);
        shared.holders.push(Holder { worker, has_removed: false });
        Ok(Offer::Shared(Taken { socket, is_shared }))
    }

    /// Notes that a worker has bound an address for all.
    pub(crate) fn add(&self, worker: WorkerId, name: PathBuf, first: FirstBound) -> io::Result<()> {
        let FirstBound { socket, path } = first;
        let identity = Identity::of(&socket)?;
        let holders = vec![Holder { worker, has_removed: false }];
        let path = path.map(Arc::new);
        let (attention, disuse) = (Attention::default(), Disuse::default());
        self.shared().push(Shared {
            name,
            path,
            socket,
            identity,
            listens: false,
            holders,
            attention,
            disuse,
        });
        Ok(())
    }

    /// A worker wants to remove the file at a place. Returns whether that is a path of ours, which stays.
    pub(crate) fn keeps(&self, worker: WorkerId, place: &Place) -> bool {
        let Some((identity, Some(path))) = self.find(|shared| shared.has_path_at(place)) else {
            return false;
        };
        if !path.is_there() {
            return false;
        }
        let mut all = self.shared();
        let shared = all.iter_mut().filter(|shared| shared.identity == identity);
        let own = shared.flat_map(|shared| &mut shared.holders).filter(|holder| holder.worker == worker);
        own.for_each(|holder| holder.has_removed = true);
        true
    }

    /// Returns whether a socket is one of these.
    pub(crate) fn knows(&self, identity: Identity) -> bool {
        self.shared().iter().any(|shared| shared.identity == identity)
    }

    /// Returns how the address of a socket is told; `None` when it is none of these.
    pub(crate) fn name(&self, identity: Identity) -> Option<PathBuf> {
        let all = self.shared();
        all.iter().find(|shared| shared.identity == identity).map(|shared| shared.name.clone())
    }

    /// Lets a socket listen, also one that does, and returns how its address is told.
    pub(crate) fn listen(&self, identity: Identity) -> io::Result<PathBuf> {
        let mut all = self.shared();
        let shared = all.iter_mut().find(|shared| shared.identity == identity);
        let shared = shared.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        SockRef::from(&shared.socket).listen(i32::try_from(HOLDING_BACKLOG).unwrap_or(i32::MAX))?;
        shared.listens = true;
        self.signs.watch_arrivals(&shared.socket);
        Ok(shared.name.clone())
    }

    /// Returns whether a worker was given one of these.
    pub(crate) fn are_held_by(&self, worker: WorkerId) -> bool {
        self.shared().iter().any(|shared| shared.holders.iter().any(|holder| holder.worker == worker))
    }

    /// A worker is gone.
    pub(crate) fn remove(&self, worker: WorkerId) {
        let mut all = self.shared();
        all.iter_mut().for_each(|shared| shared.holders.retain(|holder| holder.worker != worker));
        // Nobody will ever ask to listen on what is only bound.
        let is_useless = |shared: &mut Shared| !shared.listens && shared.holders.is_empty();
        let useless: Vec<_> = all.extract_if(.., is_useless).collect();
        drop(all);
        drop(useless);
    }

    /// Makes paths lead to their sockets again, from which somebody has removed them.
    pub(crate) fn restore(&self) {
        let paths: Vec<_> = self.shared().iter().filter_map(|shared| shared.path.clone()).collect();
        for path in paths {
            // Where it is impossible, or the path is another's, the next who binds it is told.
            let _impossible = path.restore();
        }
    }

    /// Lets nobody new in who comes by a path.
    pub(crate) fn remove_paths(&self) {
        let paths: Vec<_> = self.shared().iter_mut().map(|shared| shared.path.take()).collect();
        drop(paths);
    }

    /// Looks at the queues.
    pub(super) fn look(&self, glance: &mut Glance) {
        for shared in self.shared().iter_mut().filter(|shared| shared.listens) {
            let holders: Vec<WorkerId> = shared.holders.iter().map(|holder| holder.worker).collect();
            glance.at_shared(&shared.told(), &shared.socket, &holders, &mut shared.attention);
        }
    }

    /// Makes the next connection known, or one that waits now.
    pub(super) fn watch_arrivals(&self) {
        let all = self.shared();
        all.iter()
            .filter(|shared| shared.listens)
            .for_each(|shared| self.signs.watch_arrivals(&shared.socket));
    }

    /// Returns the queues of all that listen.
    pub(super) fn queues(&self) -> Vec<Queue> {
        let queue = |shared: &Shared| {
            let QueueLength { queued, backlog } = queue_length(&shared.socket).ok()?;
            Some(Queue { address: shared.told(), worker: None, queued, backlog })
        };
        self.shared().iter().filter(|shared| shared.listens).filter_map(queue).collect()
    }

    /// Notes which of them nobody has open, once all workers have had the time to bind them. Returns when that is to be seen
    /// once more.
    pub(super) fn follow(&self, open: &OpenSockets, is_settled: bool, now: Instant) -> Option<Instant> {
        let mut all = self.shared();
        let confirm = all.iter_mut().filter_map(|shared| {
            let link = OsString::from(shared.identity.link());
            shared.disuse.note(!is_settled || open.may_be_open(&link), now)
        });
        confirm.min()
    }

    /// Closes those that were seen twice to be open nowhere, with what waits there, and removes their paths.
    pub(super) fn close_disused(&self, now: Instant) -> Vec<Sight> {
        let closed: Vec<_> = self.shared().extract_if(.., |shared| shared.disuse.is_over(now)).collect();
        let close = |shared: Shared| {
            self.signs.forget(&shared.socket);
            let count = queue_length(&shared.socket).map_or(0, |length| length.queued.into());
            Sight::Unbound { address: shared.told(), count }
        };
        closed.into_iter().map(close).collect()
    }

    fn find(&self, fits: impl Fn(&Shared) -> bool) -> Option<(Identity, Option<Arc<KeptPath>>)> {
        let all = self.shared();
        let shared = all.iter().find(|shared| fits(shared))?;
        Some((shared.identity, shared.path.clone()))
    }

    fn shared(&self) -> MutexGuard<'_, Vec<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn is_at(&self, place: &UnixPlace) -> bool {
        match place {
            UnixPlace::Path(place) => self.has_path_at(place),
            UnixPlace::Abstract(name) => self.name == *name,
        }
    }

    fn told(&self) -> String {
        Address::Unix(self.name.clone()).to_string()
    }

    fn has_path_at(&self, place: &Place) -> bool {
        self.path.as_ref().is_some_and(|path| path.place().is(place))
    }
}
