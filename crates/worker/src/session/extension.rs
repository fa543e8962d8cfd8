//! The session's part in worksong's own messages: pings, and what becomes of connections when a worker leaves.

use std::time::Duration;

use tokio::time::Instant;
use worksong_channel::message::{Ability, Extension, HandleAnswer};

use super::{Phase, Session};

/// How often the number of open connections is reported at most.
const REPORT_PAUSE: Duration = Duration::from_millis(50);
/// How long the connections of a worker that leaves wait for one more request of the primary, before they end.
const QUIET: Duration = Duration::from_secs(1);
/// The longest time between two reports that is kept to; more would be none.
const LONGEST_REPORT_PAUSE: Duration = Duration::from_hours(1);

/// How far it is clear what becomes of the connections of a worker that leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Farewell {
    #[default]
    Unsaid,
    /// `drain`: the primary takes idle connections back, and says `disconnect` when it has all.
    Announced,
    /// It may take back more, also what becomes idle, unless it is quiet until then.
    Waiting { until: Instant },
    /// What is left stays.
    Over,
}

/// The reports of how many connections are open, which begin when the primary asks for them, and when the worker leaves.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each stands for itself")]
pub(super) struct Report {
    /// The primary is one of ours.
    is_understood: bool,
    /// What the primary was told that this worker understands.
    abilities: Vec<Ability>,
    /// The program has taken a connection in a loop of its own.
    takes_uncounted: bool,
    wanted: bool,
    /// How often the number is reported at most while the worker stays; `None` while nobody wants it.
    every: Option<Duration>,
    /// Connections came or went since the last report. The primary has added those that came: the number is news even when
    /// it is the same.
    has_changed: bool,
    last: Option<(u64, Instant)>,
    /// When the next one is sent.
    due: Option<Instant>,
}

impl Session {
    /// Tells the primary, which is one of ours, what this worker understands.
    pub(crate) fn greet(&mut self, can: &[Ability]) {
        self.patience = QUIET;
        self.report.is_understood = true;
        self.report.abilities = can.to_vec();
        self.say_hello();
    }

    fn say_hello(&mut self) {
        let takes_uncounted = self.report.takes_uncounted;
        let can = self.report.abilities.iter().copied();
        let can = can.filter(|ability| *ability != Ability::Count || !takes_uncounted).collect();
        self.write(Extension::Hello { can }.encode());
    }

    /// Notes that the program has a connection now that nobody counts: the number of all is not known any more.
    pub(super) fn takes_uncounted(&mut self) {
        if !std::mem::replace(&mut self.report.takes_uncounted, true)
            && self.report.abilities.contains(&Ability::Count)
        {
            self.report.every = None;
            self.say_hello();
        }
    }

    pub(super) fn on_extension(&mut self, message: &Extension, now: Instant) {
        match *message {
            Extension::Ping { seq } => {
                let open = self.open();
                self.write(Extension::Pong { ack: seq, open }.encode());
            }
            Extension::Count { every } => {
                let every = Some(every).filter(|every| *every > 0).map(Duration::from_millis);
                self.report.every = every.map(|every| every.min(LONGEST_REPORT_PAUSE));
                self.report.last = None;
                self.report(now);
            }
            Extension::Drain { moves } => {
                self.farewell = match (moves, self.farewell) {
                    (true, Farewell::Unsaid | Farewell::Announced | Farewell::Waiting { .. }) => {
                        Farewell::Announced
                    }
                    (true, Farewell::Over) | (false, _) => Farewell::Over,
                };
                self.drain();
                self.report.wanted = true;
                // What was said before is not what the primary waits for now.
                self.report.last = None;
                self.report(now);
            }
            Extension::Give { wait } => {
                let answer = self.giving.request(wait);
                self.answer_request(answer);
                self.wait_on(now);
            }
            // Here a connection goes as soon as it is idle.
            Extension::Hurry
            // What workers say, and acts of primaries newer than us.
            | Extension::Hello { .. }
            | Extension::Open { .. }
            | Extension::Given
            | Extension::Nothing { .. }
            | Extension::Pong { .. }
            | Extension::Unknown => {}
        }
    }

    pub(super) fn on_given(&mut self, answer: HandleAnswer, now: Instant) {
        self.giving.answered(answer);
        self.wait_on(now);
        self.count_changed(now);
    }

    /// Takes the primary's `disconnect`.
    pub(super) fn on_disconnect(&mut self, now: Instant) {
        self.farewell = match self.farewell {
            Farewell::Announced => Farewell::Waiting { until: now + QUIET },
            Farewell::Unsaid | Farewell::Waiting { .. } | Farewell::Over => Farewell::Over,
        };
        self.drain();
    }

    /// Begins the worker's own way out.
    pub(super) fn say_farewell(&mut self, now: Instant) {
        if self.farewell == Farewell::Unsaid {
            self.farewell = Farewell::Waiting { until: now + self.patience };
        }
        self.report.wanted = self.report.is_understood;
        self.report(now);
    }

    /// Notes that the primary still takes connections back.
    fn wait_on(&mut self, now: Instant) {
        if let Farewell::Waiting { until } = &mut self.farewell {
            *until = now + QUIET;
        }
    }

    /// Returns how far the worker is on its way out.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase {
            Phase::Draining if self.farewell == Farewell::Over => Phase::Parting,
            phase => phase,
        }
    }

    /// Returns when [`on_farewell_time`](Self::on_farewell_time) has something to do.
    pub(super) fn farewell_at(&self) -> Option<Instant> {
        let quiet_until = match self.farewell {
            Farewell::Waiting { until } if !self.giving.is_asked() => Some(until),
            Farewell::Waiting { .. } | Farewell::Unsaid | Farewell::Announced | Farewell::Over => None,
        };
        quiet_until.into_iter().chain(self.report.due).min()
    }

    pub(super) fn on_farewell_time(&mut self, now: Instant) {
        match self.farewell {
            Farewell::Waiting { until } if until <= now && !self.giving.is_asked() => {
                self.farewell = Farewell::Over;
            }
            Farewell::Waiting { .. } | Farewell::Unsaid | Farewell::Announced | Farewell::Over => {}
        }
        self.report(now);
    }

    /// Reports how many connections are open when that is news, the last one at once.
    fn report(&mut self, now: Instant) {
        self.report.due = None;
        let (wanted, every) = (self.report.wanted, self.report.every);
        let pause = match every {
            Some(every) if !wanted => every,
            Some(_) | None if wanted && self.giving.counts() => REPORT_PAUSE,
            Some(_) | None => return,
        };
        let count = self.open();
        let is_last = wanted && count == 0;
        let is_news = self.report.has_changed && every.is_some();
        self.report.due = match self.report.last {
            Some((last, _)) if last == count && !is_news => None,
            Some((_, at)) if !is_last && now < at + pause => Some(at + pause),
            Some(_) | None => {
                self.report.last = Some((count, now));
                self.report.has_changed = false;
                self.write(Extension::Open { count }.encode());
                None
            }
        };
    }

    /// Notes that connections came or went.
    pub(super) fn count_changed(&mut self, now: Instant) {
        self.report.has_changed = true;
        self.report(now);
    }

    /// Returns how many connections are open, as far as they are counted.
    fn open(&self) -> u64 {
        self.giving.open() + self.arriving()
    }

    fn answer_request(&mut self, answer: Option<Extension>) {
        if let Some(answer) = answer {
            self.write(answer.encode());
        }
    }
}

/// What connections that can be given say.
#[cfg(feature = "serve")]
mod connections {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use tokio::sync::oneshot;
    use tokio::time::Instant;
    use worksong_channel::message::HandleAnswer;
    use worksong_channel::message::extension::given;

    use super::{Phase, Session};
    use crate::giving::Standing;

    impl Session {
        /// Returns what is true while a connection that becomes idle should [`claim`](Self::claim) the request.
        pub(crate) fn awaited(&self) -> Arc<AtomicBool> {
            self.giving.awaited()
        }

        /// Counts a new connection of the server with this key, and returns its number.
        pub(crate) fn enter(&mut self, key: &str, standing: Arc<Standing>, now: Instant) -> u64 {
            let id = self.giving.enter(standing);
            self.has_arrived(key);
            self.count_changed(now);
            id
        }

        /// Notes that a server takes no more connections, and has told of all that it took.
        pub(crate) fn has_told_all(&mut self, now: Instant) {
            self.giving.has_told_all();
            self.report(now);
        }

        /// Notes that a connection cannot be given any more, although it is open.
        pub(crate) fn upgraded(&mut self, id: u64) {
            let answer = self.giving.upgraded(id);
            self.answer_request(answer);
        }

        /// Notes that a connection is closed.
        pub(crate) fn left(&mut self, id: u64, now: Instant) {
            let answer = self.giving.left(id);
            self.answer_request(answer);
            self.count_changed(now);
        }

        /// Returns true when this connection, which is idle, shall be given.
        pub(crate) fn claim(&mut self, id: u64) -> bool {
            self.giving.claim(id)
        }

        /// Notes that the connection which was asked cannot be given now.
        pub(crate) fn decline(&mut self, id: u64) {
            let answer = self.giving.decline(id);
            self.answer_request(answer);
        }

        /// Sends a connection to the primary, whose answer comes by the receiver; `None` when there is no primary any more.
        ///
        /// The caller keeps its own copy, untouched, until the answer.
        pub(crate) fn give(
            &mut self,
            id: u64,
            connection: OwnedFd,
        ) -> Option<oneshot::Receiver<HandleAnswer>> {
            // A descriptor travels with its own message and no other.
            self.flush();
            if self.phase >= Phase::Closed {
                return None;
            }
            let (answer, answered) = oneshot::channel();
            self.giving.sent(id, answer);
            if self.channel.send(given(), Some(connection)).is_err() {
                self.end(Phase::Lost);
            }
            Some(answered)
        }
    }
}

#[cfg(all(test, feature = "serve"))]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use worksong_channel::message::{Reply, ServerQuery, ServerReply};
    use worksong_channel::pair;

    use super::*;
    use crate::session::Taken;
    use crate::session::servers::Waiting;

    #[test]
    fn a_drain_is_answered_with_a_count_that_was_said_before() {
        let (primary, ours) = pair().expect("a channel");
        let mut primary = UnixStream::from(primary);
        primary.set_nonblocking(true).expect("a socket");
        let mut session = Session::start(ours);
        let mut opens = || {
            let mut said = vec![0; 4096];
            let length = primary.read(&mut said).expect("something was said");
            let said = String::from_utf8_lossy(&said[..length]).into_owned();
            said.lines().filter(|line| line.contains("\"open\",\"count\":1}")).count()
        };
        let now = Instant::now();
        session.greet(&[Ability::Give, Ability::Drain]);
        session.enter("key", Arc::default(), now);
        session.say_farewell(now);
        assert_eq!(opens(), 1);
        session.on_extension(&Extension::Drain { moves: true }, now);
        assert_eq!(opens(), 1, "the primary counts from here");
    }

    #[test]
    fn who_takes_what_nobody_counts_says_so_and_counts_no_more() {
        let (primary, ours) = pair().expect("a channel");
        let mut primary = UnixStream::from(primary);
        primary.set_nonblocking(true).expect("a socket");
        let mut session = Session::start(ours);
        let now = Instant::now();
        let (seq, mut answer) = session.ask_server(&mut ServerQuery::default()).expect("it serves");
        let server = ServerReply { key: "raw".to_owned(), ..ServerReply::default() };
        session.on_reply(Reply { ack: seq, accepted: None, server: Some(Box::new(server)) }, None);
        let bell = answer.try_recv().expect("it was granted").bell;
        session.greet(&[Ability::Give, Ability::Count]);
        session.on_extension(&Extension::Count { every: 20 }, now);
        let (_client, connection) = UnixStream::pair().expect("a connection");
        session.on_connection("raw", Waiting { connection: connection.into(), seq: 7, since: now });
        assert!(matches!(session.take_connection("raw", &bell, now), Taken::Connection(_)));
        session.flush();
        let mut said = vec![0; 4096];
        let length = primary.read(&mut said).expect("something was said");
        let said = String::from_utf8_lossy(&said[..length]).into_owned();
        let hello = said.rfind(r#""can":["give"]}"#).expect("it counts no more");
        assert!(hello < said.find(r#""accepted":true"#).expect("it took one"), "{said}");
        session.greet(&[Ability::Give, Ability::Count]);
        session.enter("raw", Arc::default(), now);
        assert_eq!(session.farewell_at(), None, "nothing is to be reported");
        session.on_extension(&Extension::Count { every: u64::MAX }, now);
        session.enter("raw", Arc::default(), now);
        assert!(session.farewell_at().is_some(), "no time is too long");
    }

    #[test]
    fn a_connection_counts_from_when_it_is_taken() {
        let (_primary, ours) = pair().expect("a channel");
        let mut session = Session::start(ours);
        let now = Instant::now();
        let (seq, mut answer) = session.ask_server(&mut ServerQuery::default()).expect("it serves");
        let server = ServerReply { key: "k".to_owned(), ..ServerReply::default() };
        session.on_reply(Reply { ack: seq, accepted: None, server: Some(Box::new(server)) }, None);
        let bell = answer.try_recv().expect("it was granted").bell;
        session.count_connections_of("k");
        let hand_over = |session: &mut Session, seq| {
            let (_client, connection) = UnixStream::pair().expect("a connection");
            session.on_connection("k", Waiting { connection: connection.into(), seq, since: now });
            assert!(matches!(session.take_connection("k", &bell, now), Taken::Connection(_)));
        };
        hand_over(&mut session, 1);
        assert_eq!(session.open(), 1, "whatever is said from here on has it");
        session.enter("k", Arc::default(), now);
        assert_eq!(session.open(), 1, "it is the same one");
        hand_over(&mut session, 2);
        assert_eq!(session.open(), 2);
        assert!(matches!(session.take_connection("k", &bell, now), Taken::NoneWaits));
        assert_eq!(session.open(), 1, "the second one was gone before it was counted");
    }

    #[test]
    fn a_server_without_a_connection_says_so() {
        let (primary, ours) = pair().expect("a channel");
        let mut primary = UnixStream::from(primary);
        let mut session = Session::start(ours);
        session.greet(&[Ability::Give, Ability::Drain]);
        session.on_extension(&Extension::Drain { moves: true }, Instant::now());
        session.has_told_all(Instant::now());
        let mut said = vec![0; 4096];
        let length = primary.read(&mut said).expect("something was said");
        let said = String::from_utf8_lossy(&said[..length]).into_owned();
        assert!(said.contains("\"open\",\"count\":0}"), "{said}");
    }
}
