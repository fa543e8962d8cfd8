//! Sockets that somebody has shut down, which ends them for everybody.

use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::signs::{Cookie, Signs};
use super::{Entrance, Family, Identity, Place, State};
use crate::listen::At;

/// A socket that one of several workers which have it has shut down.
struct Shared {
    at: At,
    entrance: Entrance,
    socket: OwnedFd,
}

impl State {
    /// Drops sockets that somebody has shut down, in the order in which they died: with each death the kernel gives the last
    /// socket of the group its index.
    pub(super) fn bury(&mut self, signs: &Signs) {
        let mut shared = Vec::new();
        loop {
            let dead = signs.dead();
            if dead.is_empty() {
                break;
            }
            for dead in dead {
                shared.extend(self.families.iter_mut().filter_map(|family| family.lose(dead, signs)));
            }
        }
        // Those for which there was no memory in the epoll.
        self.families.iter_mut().for_each(|family| shared.extend(family.lose_unwatched(signs)));
        // To the kernel they come after all that died before.
        for shared in shared {
            if let Some(family) = self.families.iter_mut().find(|family| family.group.at() == shared.at) {
                family.revive(shared, signs);
            }
        }
        self.settle(signs);
    }
}

impl Family {
    /// Drops what was shut down and never told.
    fn lose_unwatched(&mut self, signs: &Signs) -> Vec<Shared> {
        let mut shared = Vec::new();
        while let Some(dead) = self.group.members().iter().find(|member| is_dead(member)) {
            let Ok(dead) = Identity::of(dead) else { break };
            shared.extend(self.lose(dead.cookie, signs));
        }
        shared
    }

    /// Drops a socket that somebody has shut down, if it is one of these, and returns it if other workers have it, too. As in
    /// the kernel, the last one has its index then.
    fn lose(&mut self, dead: Cookie, signs: &Signs) -> Option<Shared> {
        let is_dead_one = |entrance: &Entrance| entrance.identity.cookie == dead;
        let index = self.entrances.iter().position(is_dead_one)?;
        let Place::Listening(member) = self.entrances[index].place else { return None };
        let socket = &self.group.members()[member];
        if self.spread.is_none() && is_dead(socket) {
            // The others have it, too, and try again; it is bound still, and listens as the last one.
            self.group.lengthen_queue(member);
        }
        if !is_dead(socket) {
            return None;
        }
        signs.forget(socket);
        let copy = socket.try_clone().ok();
        let last = self.group.members().len() - 1;
        self.group.drop_dead(member);
        let entrance = self.entrances.remove(index);
        let moved = self.entrances.iter_mut().filter(|entrance| entrance.place == Place::Listening(last));
        moved.for_each(|entrance| entrance.place = Place::Listening(member));
        let socket = copy.filter(|_| entrance.holders.len() > 1)?;
        Some(Shared { at: self.group.at(), entrance, socket })
    }

    /// Lets a socket listen again, as the last one of its group.
    fn revive(&mut self, shared: Shared, signs: &Signs) {
        let Shared { mut entrance, socket, .. } = shared;
        // Otherwise it is over for all that have it.
        if let Ok(member) = self.group.admit(socket) {
            signs.watch(&self.group.members()[member], entrance.identity);
            entrance.place = Place::Listening(member);
            self.entrances.push(entrance);
        }
    }
}

/// Returns whether somebody has shut a listening socket down.
fn is_dead(member: &OwnedFd) -> bool {
    SockRef::from(member).is_listener().is_ok_and(|listens| !listens)
}
