//! Sees to the sockets of apps whose workers accept by themselves.

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Instant;

use super::{CaptureFact, Subject, Watched, Watcher};
use crate::ids::AppId;
use crate::process::descriptors::Descriptors;
use crate::process::mark::Mark;
use crate::process::tree;
use crate::slots::{Look, OpenSockets, Slots};

impl Watcher {
    /// Returns when it is time for a look at some app's sockets.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.apps().filter_map(|(_, slots)| slots.next_look()).min()
    }

    /// Looks at the sockets of the apps where it is time for that.
    pub(super) fn look(&mut self, tell: &dyn Fn(CaptureFact)) {
        let apps: Vec<(AppId, Slots)> = self.apps().map(|(app, slots)| (app, slots.clone())).collect();
        for (app, slots) in apps {
            let Look { mut sights, has_doubts } = slots.look(Instant::now());
            if has_doubts {
                sights.extend(slots.release(&self.open_sockets(app), Instant::now()));
                self.forget_unknown(app);
            }
            for sight in sights {
                tell(CaptureFact::Seen { app, sight });
            }
        }
    }

    fn apps(&self) -> impl Iterator<Item = (AppId, &Slots)> {
        self.watched.values().filter_map(|subject| match subject {
            Subject::App(app, slots) => Some((*app, slots)),
            Subject::Worker(_) => None,
        })
    }

    fn workers_of(&self, app: AppId) -> impl Iterator<Item = &Watched> {
        self.watched.values().filter_map(Subject::worker).filter(move |watched| watched.worker.app == app)
    }

    /// Finds out what the workers of an app, and what is left of gone ones, have open.
    fn open_sockets(&self, app: AppId) -> OpenSockets {
        let mut open = OpenSockets::default();
        let watched: Vec<&Watched> = self.workers_of(app).collect();
        let workers: Vec<(u32, &Mark)> = watched.iter().map(|one| (one.leader, &one.mark)).collect();
        for (one, processes) in watched.iter().zip(tree::members_of_each(&workers)) {
            open.add(one.worker, links_of(&processes));
        }
        open
    }

    /// Forgets which sockets workers listened on that are closed: another one may get the same number.
    fn forget_unknown(&mut self, app: AppId) {
        for subject in self.watched.values_mut() {
            match subject {
                Subject::Worker(watched) if watched.worker.app == app => {
                    let slots = &watched.slots;
                    watched.listening.retain(|socket| slots.knows(*socket) || slots.unix().knows(*socket));
                }
                Subject::Worker(_) | Subject::App(..) => {}
            }
        }
    }
}

/// Returns what the descriptors of a worker's processes are; `None` when that cannot be seen of all.
fn links_of(processes: &HashSet<u32>) -> Option<HashSet<OsString>> {
    let (mut links, mut any) = (HashSet::new(), false);
    for process in processes {
        let Some(Descriptors { seen, are_all }) = Descriptors::of(*process) else { continue };
        if !are_all {
            return None;
        }
        any = true;
        links.extend(seen.into_iter().map(|(_, link)| link));
    }
    // Somebody asks still, who has left the group and cleared the environment.
    any.then_some(links)
}
