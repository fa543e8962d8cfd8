//! What users of the library ask of the engine.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::sync::oneshot;

use worksong_channel::message::encode;

use super::control::{Control, Note};
use super::{AddError, ReloadError, Request, address};
use crate::ids::AppId;
use crate::plane::{Command, Queue};
use crate::supervise::Input;

/// How long the listeners of an app that stops may still hand over what they had queued.
const LAST_CONNECTIONS: Duration = Duration::from_secs(1);

impl Control {
    pub(super) fn on_request(&mut self, request: Request) {
        match request {
            // The app runs even if nobody waits for its handle any more.
            Request::Add { spec, lines, added } => match self.add(*spec, lines) {
                Err(AddError::Listen { address, source, .. }) if source.kind() == ErrorKind::AddrInUse => {
                    tokio::spawn(async move {
                        let holder = address::search_holder(address.clone()).await;
                        let _unheard = added.send(Err(AddError::Listen { address, source, holder }));
                    });
                }
                result => drop(added.send(result)),
            },
            Request::Reload { app, ended } => match self.apps.get_mut(&app) {
                // The successors would find no listeners.
                Some(state) if state.is_stopping => drop(ended.send(Err(ReloadError::Stopped))),
                Some(state) => {
                    self.next_reload += 1;
                    state.reloads.insert(self.next_reload, ended);
                    self.tell(app, Input::Reload { request: self.next_reload });
                }
                None => drop(ended.send(Err(ReloadError::Stopped))),
            },
            Request::Resize { app, instances } => self.tell(app, Input::Resize(instances)),
            Request::Stop { app, reason } => self.stop(app, reason),
            Request::Pause { worker, done } => {
                let _unheard = done.send(self.steer(worker, Input::Pause { worker }));
            }
            Request::Resume { worker, done } => {
                let _unheard = done.send(self.steer(worker, Input::Resume { worker }));
            }
            Request::StopNow { app } => self.tell(app, Input::StopNow),
            Request::Send { worker, body, sent } => {
                self.plane.send(Command::Send { worker, message: encode::user(&body), sent });
            }
            Request::Inspect { app, snapshot } => {
                if let Some(app) = self.apps.get(&app) {
                    let _unheard = snapshot.send(app.supervisor.snapshot());
                }
            }
            Request::Queues { app, queues } => self.answer_queues(app, queues),
            Request::Places { app, places } => {
                let _unheard = places.send(self.places(app));
            }
            Request::NoteShortage { of } => self.plane.send(Command::NoteShortage { of }),
            Request::Count { tally } => self.plane.send(Command::Count { tally }),
        }
    }

    /// Answers with the queues of what the data plane has, and of what workers accept from by themselves.
    fn answer_queues(&self, app: AppId, queues: oneshot::Sender<Vec<Queue>>) {
        let Some(slots) = self.apps.get(&app).and_then(|app| app.slots.clone()) else {
            return self.plane.send(Command::Queues { app, queues });
        };
        let (told, of_plane) = oneshot::channel();
        self.plane.send(Command::Queues { app, queues: told });
        tokio::spawn(async move {
            let mut all = of_plane.await.unwrap_or_default();
            all.extend(slots.queues());
            let _unheard = queues.send(all);
        });
    }

    /// Closes the app's listeners first, so that what they had queued still reaches a worker.
    fn stop(&mut self, app: AppId, reason: String) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        if std::mem::replace(&mut state.is_stopping, true) {
            return;
        }
        state.listeners.clear();
        if let Some(slots) = &state.slots {
            slots.refuse_new();
        }
        let (drained, all_handed_over) = oneshot::channel();
        self.plane.send(Command::CloseApp { app, drained });
        let notes = self.notes.clone();
        tokio::spawn(async move {
            // Too slow or gone: either way the workers are told now.
            let _in_time = tokio::time::timeout(LAST_CONNECTIONS, all_handed_over).await;
            let _ended = notes.send(Note::ListenersClosed { app, reason });
        });
    }
}
