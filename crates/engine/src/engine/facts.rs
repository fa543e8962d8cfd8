//! What the data plane has seen, told to the supervisor or as an event.

use std::io;
use std::time::Instant;

use super::control::{Control, Note};
use super::overflow::Overflows;
use super::saying::Saying;
use crate::capture::{Capture, CaptureFact};
use crate::event::Event;
use crate::ids::{AppId, Slot};
use crate::listen::{Address, QueueLength};
use crate::plane::{Command, Fact};
use crate::slots::Sight;
use crate::spec::{CaptureError, OpenLimits};
use crate::supervise::{Input, Traffic};

impl Control {
    pub(super) fn on_fact(&mut self, fact: Fact) {
        let (worker, input) = match fact {
            Fact::Online { worker } => (worker, Input::Online { worker }),
            Fact::Listening { worker, address, port, credit: _told } => {
                if !address.starts_with("udp ") {
                    self.note_port(worker, port);
                }
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
                self.explain_listen_failure(worker, address, errno, error, Some(credit));
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
            Fact::QueueFills { app, address, queued, backlog } => {
                let overflows = Overflows::read();
                if let Some(state) = self.apps.get_mut(&app) {
                    state.overflows = state.overflows.or(overflows);
                }
                self.emit(app, Event::QueueFills { address, queued, backlog });
                return;
            }
            Fact::QueueOver { app, address, took, most } => {
                let before = self.apps.get_mut(&app).and_then(|state| state.overflows.take());
                let overflows = before.zip(Overflows::read()).map(|(before, now)| now.since(before));
                self.emit(app, Event::QueueOver { address, took, most, overflows });
                return;
            }
            Fact::Orphaned { app, address, count, slot } => {
                self.on_orphaned(app, address, count, slot);
                return;
            }
            Fact::PolicyFailed { app, address, reason } => {
                self.emit(app, Event::PolicyFailed { address, reason });
                return;
            }
            Fact::Shortage { of, limit } => {
                self.emit_to_all(&Event::Shortage { of, limit });
                return;
            }
            Fact::ShortageOver { of, took } => {
                self.emit_to_all(&Event::ShortageOver { of, took });
                return;
            }
            Fact::Shed { app, count } => {
                self.emit(app, Event::Shed { count });
                return;
            }
            Fact::Uncounted { worker } => {
                self.emit_about(worker, |worker| Event::Uncounted { worker });
                return;
            }
            Fact::Overloaded { app, open } => {
                if let Some(limits) = self.apps.get(&app).map(|app| app.spec.limits) {
                    let OpenLimits { per_worker, per_app, overload } = limits;
                    self.emit(app, Event::Overloaded { open, per_worker, per_app, overload });
                }
                return;
            }
            Fact::OverloadOver { app, took, turned_away } => {
                self.emit(app, Event::OverloadOver { took, turned_away });
                return;
            }
            Fact::ListenerLost { app, address, error } => {
                self.emit(app, Event::ListenerLost { address, reason: error });
                return;
            }
        };
        self.tell(worker.app, input);
    }

    /// Starts the thread that answers for programs which bind by themselves, unless it runs.
    pub(super) fn start_capture(&mut self) -> Result<(), CaptureError> {
        if self.capture.is_none() {
            let notes = self.notes.clone();
            let capture = Capture::start(move |fact| {
                let _ended = notes.send(Note::Captured(fact));
            });
            self.capture = Some(capture.map_err(CaptureError)?);
        }
        Ok(())
    }

    pub(super) fn on_captured(&mut self, fact: CaptureFact) {
        match fact {
            CaptureFact::Listening { worker, address } => {
                let port = match &address {
                    Address::Tcp(address) => {
                        self.note_port(worker, Some(address.port()));
                        Some(address.port())
                    }
                    Address::Udp(address) => Some(address.port()),
                    Address::Unix(_) => None,
                };
                let address = address.to_string();
                self.tell(worker.app, Input::Captured { worker, address, port });
            }
            CaptureFact::Failed { worker, address, errno } => {
                let error = io::Error::from_raw_os_error(errno).to_string();
                self.explain_listen_failure(worker, address, -i64::from(errno), error, None);
            }
            CaptureFact::Blind { worker, error } => {
                self.emit_about(worker, |worker| Event::NotCaptured { worker, reason: error });
            }
            CaptureFact::Seen { app, sight } => self.on_sight(app, sight),
            CaptureFact::Short(of) => self.plane.send(Command::NoteShortage { of }),
        }
    }

    /// What was seen of the sockets from which workers accept by themselves.
    fn on_sight(&mut self, app: AppId, sight: Sight) {
        match sight {
            Sight::QueueFills { address, length: QueueLength { queued, backlog } } => {
                self.on_fact(Fact::QueueFills { app, address, queued, backlog });
            }
            Sight::QueueOver { address, took, most } => {
                self.on_fact(Fact::QueueOver { app, address, took, most });
            }
            Sight::HeldTooLong { address, count } => {
                self.on_fact(Fact::HeldTooLong { app, address, count });
            }
            Sight::Orphaned { address, count, slot } => self.on_orphaned(app, address, count, slot),
            Sight::Unbound { address, count } => self.emit(app, Event::Unbound { address, count }),
        }
    }

    /// Something waits where nobody can take it; a worker of this slot could.
    fn on_orphaned(&mut self, app: AppId, address: String, count: u32, slot: Slot) {
        if self.apps.get(&app).is_some_and(|app| app.supervisor.can_rescue(slot, Instant::now())) {
            let traffic = Traffic::at(&address);
            self.emit(app, Event::Orphaned { address, count });
            self.tell(app, Input::Rescue { slot, traffic });
        }
    }
}
