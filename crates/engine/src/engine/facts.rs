//! What the data plane has seen, told to the supervisor or as an event.

use super::control::Control;
use super::saying::Saying;
use crate::event::Event;
use crate::plane::Fact;
use crate::supervise::Input;

impl Control {
    pub(super) fn on_fact(&mut self, fact: Fact) {
        let (worker, input) = match fact {
            Fact::Online { worker } => (worker, Input::Online { worker }),
            Fact::Listening { worker, address, port, credit: _told } => {
                (worker, Input::Listening { worker, address, port })
            }
            Fact::Leaving { worker } => (worker, Input::Leaving { worker }),
            Fact::Closed { worker, open } => (worker, Input::ChannelClosed { worker, open }),
            Fact::Overdue { worker, waiting } => (worker, Input::Overdue { worker, waiting }),
            Fact::Answering { worker } => (worker, Input::Answering { worker }),
            Fact::TookEnough { worker, connections } => (worker, Input::TookEnough { worker, connections }),
            Fact::Message { worker, body, credit } => {
                let Err((body, credit)) = self.relay(worker, body, credit) else { return };
                let saying = Saying::of(&body);
                self.emit_about(worker, |worker| Event::Message { worker, body });
                drop(credit);
                let input = match saying {
                    Some(Saying::Ready) => Input::ReadyMessage { worker },
                    Some(Saying::ReplaceMe) => Input::AsksForSuccessor { worker },
                    None => return,
                };
                (worker, input)
            }
            Fact::ListenFailed { worker, address, errno, error, credit } => {
                self.explain_listen_failure(worker, address, errno, error, credit);
                return;
            }
            Fact::Garbage { worker, error } => {
                self.emit_about(worker, |worker| Event::Garbage { worker, reason: error });
                return;
            }
            Fact::Dropped { app, address, count } => {
                self.emit(app, Event::Dropped { address, count });
                return;
            }
            Fact::HeldTooLong { app, address, count } => {
                let hold = self.apps.get(&app).map(|app| app.spec.deadlines.hold).unwrap_or_default();
                self.emit(app, Event::HeldTooLong { address, count, hold });
                return;
            }
            Fact::Shed { app, count } => {
                self.emit(app, Event::Shed { count });
                return;
            }
            Fact::ListenerLost { app, address, error } => {
                self.emit(app, Event::ListenerLost { address, reason: error });
                return;
            }
        };
        self.tell(worker.app, input);
    }
}
