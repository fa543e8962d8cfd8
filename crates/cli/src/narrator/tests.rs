use serde_json::value::RawValue;
use worksong_engine::ids::{AppId, Generation};

use super::*;

fn record(event: Event) -> Record {
    Record { seq: 1, at_ms: 0, app: "api".to_owned(), event }
}

fn worker() -> WorkerRef {
    let id = WorkerId { app: AppId(0), number: 7 };
    WorkerRef { id, slot: Slot(2), generation: Generation(1), pid: 4711 }
}

fn exit(status: ExitStatus, voluntary: bool) -> Event {
    let cause = ExitCause { status, voluntary, stderr: vec!["Error: no database".to_owned()] };
    Event::Exit { worker: worker(), cause, uptime: Duration::from_millis(1234), cut: None }
}

fn recycling(reason: RecycleReason) -> Event {
    Event::Recycling { worker: worker(), reason }
}

fn recycle_failed(retry: Option<Duration>) -> Event {
    let reason = "why".to_owned();
    Event::RecycleFailed { slot: Slot(2), worker: worker().id, reason, stderr: Vec::new(), retry }
}

#[test]
fn every_event_is_one_clear_sentence() {
    let worker = worker();
    let second = Duration::from_secs(1);
    let reason = || "why".to_owned();
    let body = RawValue::from_string(r#"{"a":1}"#.to_owned()).unwrap();
    let cases = [
        (Event::Forked { worker }, "api.2 (pid 4711) started"),
        (Event::SpawnFailed { worker, reason: reason() }, "api.2 could not be started: why"),
        (Event::Online { worker }, "api.2 (pid 4711) is up and loads its program"),
        (Event::Bound { address: "*:80".to_owned(), port: Some(80) }, "api has opened *:80"),
        (
            Event::Listening { worker, address: "127.0.0.1:80".to_owned(), port: Some(80) },
            "api listens on 127.0.0.1:80",
        ),
        (
            Event::ListenFailed { worker, address: "*:80".to_owned(), reason: reason() },
            "api.2 could not listen on *:80: why",
        ),
        (Event::Ready { worker, after: second }, "api.2 (pid 4711) is ready after 1 s"),
        (
            Event::NotReady { worker, after: second, reason: reason() },
            "api.2 (pid 4711) is still not ready after 1 s: why; it goes on \
             (--ready-timeout gives more time, --ready says what to wait for)",
        ),
        (Event::Message { worker, body }, "api.2 (pid 4711) sent {\"a\":1}"),
        (
            Event::MessageDropped { worker, length: 7 },
            "api.2 (pid 4711) sent a message of 7 bytes, which was dropped: messages are read too slowly",
        ),
        (
            Event::Draining { worker, cause: DrainCause::Reload },
            "api.2 (pid 4711) finishes what it has: a new worker took its slot",
        ),
        (
            Event::Garbage { worker, reason: reason() },
            "api.2 (pid 4711) sent what is not the protocol; it was skipped: why",
        ),
        (
            Event::NoAgent { reason: reason() },
            "api runs without the agent: connections are closed when a worker leaves, not moved: why; set \
             XDG_RUNTIME_DIR to a folder of yours, or say --no-agent",
        ),
        (
            Event::ListenerLost { address: "*:8000".to_owned(), reason: "why".to_owned() },
            "the listener on *:8000 takes no connections any more: why; reload the app to open it again",
        ),
        (
            Event::Dropped { address: "*:8000".to_owned(), count: 3 },
            "3 connections to *:8000 were closed: no worker was left to take them",
        ),
        (
            Event::Orphaned { address: "*:8000".to_owned(), count: 3 },
            "3 connections to *:8000 wait for a worker that is gone: one more worker starts for that",
        ),
        (
            Event::Unbound { address: "*:8000".to_owned(), count: 3 },
            "*:8000 is closed, with 3 connections that waited there: no worker has it bound any more",
        ),
        (
            Event::HeldTooLong { address: "*:8000".to_owned(), count: 3, hold: 60 * second },
            "3 connections to *:8000 were closed: no worker could take them for more than 1 min (--hold-timeout)",
        ),
        (
            Event::PolicyFailed { address: "*:8000".to_owned(), reason: "why".to_owned() },
            "the policy of the listener on *:8000 has panicked: why; its connections go to the workers in turn from now \
             on",
        ),
        (Event::Disconnect { worker }, "api.2 (pid 4711) closed its channel"),
        (
            Event::Unresponsive { worker, waiting: second },
            "api.2 (pid 4711) has not answered for 1 s; new connections go to other workers",
        ),
        (Event::Responsive { worker }, "api.2 (pid 4711) answers again"),
        (Event::Signalled { worker, signal: "SIGTERM", why: reason() }, "api.2 (pid 4711) got SIGTERM: why"),
        (
            Event::Unkillable { worker, after: 5 * second },
            "api.2 (pid 4711) has not ended 5 s after SIGKILL: the kernel holds it, mostly for a disk or a file \
             server that does not answer (see /proc/4711/stack); its slot is filled without it",
        ),
        (exit(ExitStatus::Code(1), false), "api.2 (pid 4711) exited with code 1 after 1.2 s"),
        (exit(ExitStatus::Code(0), true), "api.2 (pid 4711) ended after 1.2 s"),
        (
            exit(ExitStatus::Code(0), false),
            "api.2 (pid 4711) exited with code 0 after 1.2 s; a server should go on until it is told to leave",
        ),
        (
            exit(ExitStatus::Signal(9), false),
            "api.2 (pid 4711) was ended by SIGKILL after 1.2 s; \
             not by worksong: perhaps it ran out of memory (see dmesg)",
        ),
        (
            Event::Restart { slot: Slot(2), failures: 3, delay: Duration::from_millis(200) },
            "api.2 starts again in 200 ms (failure 3 in a row)",
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(Narrator::new(true).tell(&record(event)).as_deref(), Some(expected));
    }
}

#[test]
fn datagrams_are_told_as_such() {
    let cases = [
        (
            Event::Orphaned { address: "udp *:53".to_owned(), count: 1 },
            "datagrams to udp *:53 wait for a worker that is gone: one more starts for them",
        ),
        (
            Event::Unbound { address: "udp *:53".to_owned(), count: 3 },
            "udp *:53 is closed, with 3 datagrams that waited there: no worker has it bound any more",
        ),
        (
            Event::HeldTooLong { address: "udp *:53".to_owned(), count: 1, hold: Duration::from_secs(30) },
            "1 datagram to udp *:53 was thrown away: no worker could read it for more than 30 s (--hold-timeout)",
        ),
        (
            Event::HeldTooLong { address: "udp *:53".to_owned(), count: 3, hold: Duration::from_secs(30) },
            "3 datagrams to udp *:53 were thrown away: no worker could read them for more than 30 s (--hold-timeout)",
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(Narrator::new(true).tell(&record(event)).as_deref(), Some(expected));
    }
}

#[test]
fn one_connection_is_told_as_one() {
    let address = || "*:8000".to_owned();
    let tell = |event| Narrator::new(false).tell(&record(event)).expect("a sentence");
    assert!(
        tell(Event::Dropped { address: address(), count: 1 })
            .starts_with("1 connection to *:8000 was closed:")
    );
    assert!(
        tell(Event::Orphaned { address: address(), count: 1 })
            .starts_with("1 connection to *:8000 waits for")
    );
    assert!(tell(Event::Unbound { address: address(), count: 1 }).contains("with 1 connection that waited"));
    assert!(tell(Event::Shed { count: 1 }).contains("1 connection was closed"));
}

#[test]
fn what_the_system_lacks_is_told_with_what_helps() {
    let second = Duration::from_secs(1);
    let cases = [
        (
            Event::Shortage { of: Shortage::Descriptors, limit: Some(1024) },
            "api has no free descriptors, of 1024 that may be open: new connections wait, and no worker can be started; \
             raise the limit (ulimit -n)",
        ),
        (
            Event::Shortage { of: Shortage::SystemDescriptors, limit: None },
            "the system has no free descriptors: new connections wait, and no worker can be started; raise the limit \
             (sysctl fs.file-max)",
        ),
        (
            Event::Shortage { of: Shortage::Processes, limit: None },
            "no worker of api can be started: there are as many processes as may be (ulimit -u, pids.max)",
        ),
        (
            Event::ShortageOver { of: Shortage::Descriptors, took: 3 * second },
            "api has free descriptors again after 3 s",
        ),
        (
            Event::Shed { count: 3 },
            "no free descriptors for a second: 3 connections were closed; raise the limit (ulimit -n)",
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(Narrator::new(false).tell(&record(event)).as_deref(), Some(expected));
    }
}

#[test]
fn what_limits_do_is_told_in_clear_sentences() {
    let (worker, second) = (worker(), Duration::from_secs(1));
    let cases = [
        (
            Event::Overloaded { open: 1200, per_worker: Some(300), per_app: None, overload: Overload::Wait },
            "api has as many open connections as it may (1\u{202f}200): new ones wait",
        ),
        (
            Event::OverloadOver { took: 3 * second, turned_away: 0 },
            "api takes all connections again after 3 s",
        ),
        (
            Event::OverloadOver { took: 3 * second, turned_away: 17 },
            "api takes all connections again after 3 s; 17 were turned away",
        ),
        (
            Event::QueueFills { address: "*:80".to_owned(), queued: 300, backlog: 511 },
            "300 connections wait at *:80, of 511 that may: workers accept too slowly",
        ),
        (
            Event::QueueOver { address: "*:80".to_owned(), took: 3 * second, most: 512, overflows: Some(40) },
            "few connections wait at *:80 again after 3 s, 512 at most; 40 found a full queue, and try again by \
             themselves",
        ),
        (
            Event::Uncounted { worker },
            "api.2 (pid 4711) does not say how many connections it has open, so --max-open is not kept for it; a Rust \
             program does with worksong::serve",
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(Narrator::new(true).tell(&record(event)).as_deref(), Some(expected));
    }
}

#[test]
fn every_event_of_an_app_is_one_clear_sentence() {
    let (generation, second) = (Generation(2), Duration::from_secs(1));
    let reason = || "why".to_owned();
    let report = |handed_over, cut| Event::ReloadReport {
        turned_away: None,
        generation,
        workers: 4,
        took: Duration::from_millis(2100),
        handed_over,
        moved: handed_over.map(|_| 212),
        redispatched: handed_over.map(|_| 3),
        cut,
    };
    let cases = [
        (
            report(Some(18_204), Some(0)),
            "reload 1 of api: 4 workers in 2.1 s · handed over 18\u{202f}204 · moved 212 · re-dispatched 3 · cut 0",
        ),
        (report(None, None), "reload 1 of api: 4 workers in 2.1 s"),
        (
            Event::Errored { slot: Slot(2), failures: 16 },
            "api.2 is given up after 16 failures in a row, until the next reload (SIGHUP)",
        ),
        (Event::ReloadStarted { generation }, "api reloads: generation 2 starts"),
        (Event::ReloadDone { generation, took: second }, "api is reloaded: generation 2 serves after 1 s"),
        (
            Event::ReloadFailed { generation, worker: None, reason: reason(), stderr: Vec::new() },
            "api is not reloaded, the old workers go on: generation 2 failed, why",
        ),
        (
            Event::EngineFailed { reason: "why".to_owned() },
            "api is ended at once: why; this is a fault of worksong, please report it with the lines above",
        ),
        (Event::Stopping { reason: "SIGTERM".to_owned() }, "api stops: SIGTERM"),
        (Event::Stopped { cut: None }, "api has stopped"),
        (Event::Stopped { cut: Some(2) }, "api has stopped · cut 2"),
    ];
    for (event, expected) in cases {
        assert_eq!(Narrator::new(true).tell(&record(event)).as_deref(), Some(expected));
    }
}

#[test]
fn replacements_and_pauses_are_told_with_their_figures() {
    let (worker, second) = (worker(), Duration::from_secs(1));
    let cases = [
        (
            recycling(RecycleReason::Connections { connections: 1010, limit: 1009 }),
            "api.2 (pid 4711) is to be replaced: it has taken 1010 connections, its limit is 1009",
        ),
        (
            recycling(RecycleReason::Age { age: second, limit: second }),
            "api.2 (pid 4711) is to be replaced: it is 1 s old, its limit is 1 s",
        ),
        (
            recycling(RecycleReason::Memory { resident_bytes: 3 << 29, limit_bytes: 200 << 20 }),
            "api.2 (pid 4711) is to be replaced: it has 1.5 GB of resident memory, its limit is 200 MB",
        ),
        (recycling(RecycleReason::Asked), "api.2 (pid 4711) is to be replaced: it asked for a successor"),
        (
            recycle_failed(Some(second)),
            "api.2 is not replaced: why; the old one goes on, and the next try is in 1 s",
        ),
        (recycle_failed(None), "api.2 is not replaced: why; the old one has ended meanwhile"),
        (
            Event::Paused { worker, in_rotation: 1, slots: 2 },
            "api.2 (pid 4711) is paused; 1 of 2 workers take connections",
        ),
        (
            Event::Paused { worker, in_rotation: 0, slots: 2 },
            "api.2 (pid 4711) is paused; nobody takes connections now, they wait",
        ),
        (
            Event::Resumed { worker, in_rotation: 2, slots: 2 },
            "api.2 (pid 4711) is resumed; 2 of 2 workers take connections",
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(Narrator::new(false).tell(&record(event)).as_deref(), Some(expected));
    }
}

#[test]
fn an_end_tells_what_it_cut() {
    let cause = ExitCause { status: ExitStatus::Signal(15), voluntary: true, stderr: Vec::new() };
    for (cut, told) in [
        (None, ""),
        (Some(0), ""),
        (Some(1), "; 1 connection was cut"),
        (Some(1234), "; 1\u{202f}234 connections were cut"),
    ] {
        let exit =
            Event::Exit { worker: worker(), cause: cause.clone(), uptime: Duration::from_secs(1), cut };
        let expected = format!("api.2 (pid 4711) was ended by SIGTERM after 1 s{told}");
        assert_eq!(Narrator::new(false).tell(&record(exit)), Some(expected));
    }
}

#[test]
fn normal_life_is_not_told() {
    let mut narrator = Narrator::new(false);
    assert_eq!(narrator.tell(&record(Event::Forked { worker: worker() })), None);
    assert_eq!(narrator.tell(&record(Event::Online { worker: worker() })), None);
    let draining = Event::Draining { worker: worker(), cause: DrainCause::Stop };
    assert_eq!(narrator.tell(&record(draining)), None);
    let listening = |address: &str| {
        record(Event::Listening { worker: worker(), address: address.to_owned(), port: None })
    };
    assert!(narrator.tell(&listening("a")).is_some());
    assert_eq!(narrator.tell(&listening("a")), None, "an address is announced once");
    assert!(narrator.tell(&listening("b")).is_some());
    let bound = Event::Bound { address: "c".to_owned(), port: None };
    assert_eq!(narrator.tell(&record(bound)), None, "the opening line says it");
    assert_eq!(narrator.tell(&listening("c")), None);
}

#[test]
fn a_slot_that_is_given_up_shows_its_last_words() {
    let mut narrator = Narrator::new(false);
    let told = narrator.tell(&record(exit(ExitStatus::Code(1), false))).unwrap();
    assert!(!told.contains("no database"), "it was printed just before");
    let told = narrator.tell(&record(Event::Errored { slot: Slot(2), failures: 16 })).unwrap();
    assert!(told.ends_with("\n  | Error: no database"), "{told}");
}

#[test]
fn an_end_by_worksong_is_no_riddle() {
    let mut narrator = Narrator::new(false);
    let kill = Event::Signalled { worker: worker(), signal: "SIGKILL", why: "why".to_owned() };
    assert!(narrator.tell(&record(kill)).is_some());
    let told = narrator.tell(&record(exit(ExitStatus::Signal(9), false))).unwrap();
    assert_eq!(told, "api.2 (pid 4711) was ended by SIGKILL after 1.2 s");
}

#[test]
fn long_messages_are_shortened() {
    let body = RawValue::from_string(format!("\"{}\"", "\u{e9}".repeat(500))).unwrap();
    let told = Narrator::new(true).tell(&record(Event::Message { worker: worker(), body })).unwrap();
    assert!(told.len() < 300 && told.ends_with("… (1002 bytes)"), "{told}");
}

#[test]
fn spans_read_naturally() {
    for (milliseconds, expected) in [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (1250, "1.2 s"),
        (59_999, "59.9 s"),
        (60_000, "1 min"),
        (185_000, "3 min 5 s"),
        (7_800_000, "2 h 10 min"),
    ] {
        assert_eq!(Span(Duration::from_millis(milliseconds)).to_string(), expected);
    }
}
