//! What `docs/events.md` says of events is what is written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::ids::AppId;

const TIME: Duration = Duration::from_secs(1);

/// Returns each event, with everything in it that may be left out; several of those whose fields depend on something.
fn examples() -> Vec<Event> {
    let id = WorkerId { app: AppId(1), number: 1 };
    let (slot, generation) = (Slot(0), Generation(1));
    let worker = WorkerRef { id, slot, generation, pid: 1 };
    let text = || "text".to_owned();
    let (address, reason, stderr) = (text, text, || vec![text()]);
    let mut events = vec![
        Event::Forked { worker },
        Event::SpawnFailed { worker, reason: reason() },
        Event::Online { worker },
        Event::Bound { address: address(), port: Some(1) },
        Event::Listening { worker, address: address(), port: Some(1) },
        Event::ListenFailed { worker, address: address(), reason: reason() },
        Event::NotCaptured { worker, reason: reason() },
        Event::Ready { worker, after: TIME },
        Event::NotReady { worker, after: TIME, reason: reason() },
        Event::Message { worker, body: RawValue::from_string("{}".to_owned()).expect("JSON") },
        Event::MessageDropped { worker, length: 1 },
        Event::RecycleFailed { slot, worker: id, reason: reason(), stderr: stderr(), retry: Some(TIME) },
        Event::Paused { worker, in_rotation: 1, slots: 1 },
        Event::Resumed { worker, in_rotation: 1, slots: 1 },
        Event::Garbage { worker, reason: reason() },
        Event::ListenerLost { address: address(), reason: reason() },
        Event::Dropped { address: address(), count: 1 },
        Event::Orphaned { address: address(), count: 1 },
        Event::Unbound { address: address(), count: 1 },
        Event::HeldTooLong { address: address(), count: 1, hold: TIME },
        Event::PolicyFailed { address: address(), reason: reason() },
        Event::Shed { count: 1 },
        Event::Overloaded { open: 1, per_worker: Some(1), per_app: Some(1), overload: Overload::Wait },
        Event::OverloadOver { took: TIME, turned_away: 1 },
        Event::Uncounted { worker },
        Event::QueueFills { address: address(), queued: 1, backlog: 1 },
        Event::QueueOver { address: address(), took: TIME, most: 1, overflows: Some(1) },
        Event::Disconnect { worker },
        Event::Unresponsive { worker, waiting: TIME },
        Event::Responsive { worker },
        Event::Signalled { worker, signal: "SIGTERM", why: reason() },
        Event::Unkillable { worker, after: TIME },
        Event::Restart { slot, failures: 1, delay: TIME },
        Event::Errored { slot, failures: 1 },
        Event::ReloadStarted { generation },
        Event::ReloadDone { generation, took: TIME },
        Event::ReloadReport {
            generation,
            workers: 1,
            took: TIME,
            handed_over: Some(1),
            moved: Some(1),
            redispatched: Some(1),
            turned_away: Some(1),
            cut: Some(1),
        },
        Event::ReloadFailed { generation, worker: Some(id), reason: reason(), stderr: stderr() },
        Event::NoAgent { reason: reason() },
        Event::EngineFailed { reason: reason() },
        Event::Stopping { reason: reason() },
        Event::Stopped { cut: Some(1) },
    ];
    let causes = [
        DrainCause::Reload,
        DrainCause::Stop,
        DrainCause::Resize,
        DrainCause::NotReady,
        DrainCause::Asked,
        DrainCause::Recycle,
        DrainCause::Rescued,
        DrainCause::Superseded,
    ];
    events.extend(causes.map(|cause| Event::Draining { worker, cause }));
    let reasons = [
        RecycleReason::Connections { connections: 1, limit: 1 },
        RecycleReason::Age { age: TIME, limit: TIME },
        RecycleReason::Memory { resident_bytes: 1, limit_bytes: 1 },
        RecycleReason::Asked,
    ];
    events.extend(reasons.map(|reason| Event::Recycling { worker, reason }));
    for of in [Shortage::Descriptors, Shortage::SystemDescriptors, Shortage::Memory, Shortage::Processes] {
        events.extend([Event::Shortage { of, limit: Some(1) }, Event::ShortageOver { of, took: TIME }]);
    }
    events.extend([ExitStatus::Code(1), ExitStatus::Signal(9)].map(|status| {
        let cause = ExitCause { status, voluntary: true, stderr: stderr() };
        Event::Exit { worker, cause, uptime: TIME, cut: Some(1) }
    }));
    events
}

/// A table of the page, and what stands below it.
struct Part<'a>(&'a str);

impl<'a> Part<'a> {
    fn find(page: &'a str, title: &str) -> Self {
        let (_, rest) = page.split_once(&format!("\n## {title}\n")).expect("the page has this part");
        Self(rest.split_once("\n## ").map_or(rest, |(part, _)| part))
    }

    /// Returns the names in the first column.
    fn names(&self) -> BTreeSet<&'a str> {
        self.0.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
    }

    /// Returns what is said of an event: its row, and the paragraph that begins with its name.
    fn about(&self, name: &str) -> String {
        let row = self.0.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("{name} has no row"));
        let paragraph = self.0.split("\n\n").find(|part| part.starts_with(&format!("`{name}` has ")));
        format!("{row}\n{}", paragraph.unwrap_or_default())
    }
}

/// Returns an event as it is written: its name, and its fields beside those that the page says of all.
fn written(event: &Event) -> (String, bool, Vec<(String, Value)>) {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(event) else { panic!("{event:?} is no object") };
    let Some(Value::String(name)) = fields.remove("event") else { panic!("{event:?} has no name") };
    let is_about_worker = fields.remove("pid").is_some();
    if is_about_worker {
        for common in ["worker", "slot", "generation"] {
            assert!(fields.remove(common).is_some(), "{name} has no {common}");
        }
    }
    (name, is_about_worker, fields.into_iter().collect())
}

#[test]
fn the_page_of_events_has_each_of_them_with_all_its_fields() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/events.md");
    let page = fs::read_to_string(page).expect("docs/events.md is there");
    let (of_worker, of_app) =
        (Part::find(&page, "About a worker"), Part::find(&page, "About a slot, or the app"));
    let mut names = BTreeSet::new();
    for event in examples() {
        let (name, is_about_worker, fields) = written(&event);
        let about = if is_about_worker { of_worker.about(&name) } else { of_app.about(&name) };
        for (field, value) in fields {
            assert!(about.contains(&format!("`{field}`")), "{name} does not say what {field} is");
            let word = value.as_str().filter(|word| !matches!(*word, "text" | "SIGKILL" | "SIGTERM"));
            assert!(word.is_none_or(|word| page.contains(&format!("`{word}`"))), "{name}: {value}");
        }
        names.insert(name);
    }
    let described: BTreeSet<_> =
        of_worker.names().union(&of_app.names()).copied().map(str::to_owned).collect();
    assert_eq!(names, described, "the page tells of others, or an event has no example here");
    assert_eq!(names, declared());
}

/// Returns the names of the variants, as they are written.
fn declared() -> BTreeSet<String> {
    let (_, variants) = include_str!("../event.rs").split_once("pub enum Event {").expect("it is there");
    let name = |line: &str| Some(line.strip_prefix("    ")?.strip_suffix(" {")?.to_owned());
    let names = variants.lines().filter_map(name).filter(|name| name.starts_with(char::is_uppercase));
    names.map(|name| snake_case(&name)).collect()
}

fn snake_case(name: &str) -> String {
    let letter = |(at, letter): (usize, char)| {
        let before = (at > 0 && letter.is_uppercase()).then_some('_');
        before.into_iter().chain(letter.to_lowercase())
    };
    name.char_indices().flat_map(letter).collect()
}
