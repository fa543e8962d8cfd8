//! Events as sentences for people.

mod words;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use worksong_engine::event::{DrainCause, Event, ExitCause, ExitStatus, Record, RecycleReason, WorkerRef};
use worksong_engine::ids::{Slot, WorkerId};
use worksong_engine::shortage::Shortage;
use worksong_engine::spec::Overload;

use self::words::{Size, Span, connections, connections_were, datagrams, grouped, shortened};

/// Tells what happens, and leaves out what only repeats what was said.
#[derive(Debug, Default)]
pub(crate) struct Narrator {
    verbose: bool,
    /// Addresses that were announced: with N workers each is listened on N times.
    announced: HashSet<String>,
    /// What the last worker of a slot said on stderr before it failed.
    last_words: HashMap<Slot, Vec<String>>,
    /// Workers that were sent SIGKILL, so that their end needs no guess.
    killed: HashSet<WorkerId>,
}

impl Narrator {
    /// Returns a narrator that leaves out normal life unless it is `verbose`.
    pub(crate) fn new(verbose: bool) -> Self {
        Self { verbose, ..Self::default() }
    }

    /// Returns what people should read about an event; `None` when it is not worth a line.
    pub(crate) fn tell(&mut self, record: &Record) -> Option<String> {
        let told = match &record.event {
            Event::Forked { .. }
            | Event::Online { .. }
            | Event::Disconnect { .. }
            | Event::Message { .. }
            | Event::Draining { cause: DrainCause::Stop, .. } => self.verbose,
            // The opening line has said it.
            Event::Bound { address, .. } => {
                self.announced.insert(address.clone());
                self.verbose
            }
            Event::Listening { address, .. } => self.announced.insert(address.clone()) || self.verbose,
            Event::Signalled { worker, signal: "SIGKILL", .. } => {
                self.killed.insert(worker.id);
                true
            }
            Event::Exit { worker, cause, .. } => {
                self.last_words.insert(worker.slot, cause.stderr.clone());
                true
            }
            _ => true,
        };
        let mut sentence = told.then(|| sentence(record))?;
        if let Event::Exit { worker, cause, .. } = &record.event
            && !self.killed.remove(&worker.id)
        {
            sentence.push_str(suspicion(cause));
        }
        let last_words = match &record.event {
            Event::Errored { slot, .. } => self.last_words.remove(slot).unwrap_or_default(),
            Event::ReloadFailed { stderr, .. } | Event::RecycleFailed { stderr, .. } => stderr.clone(),
            _ => Vec::new(),
        };
        for line in last_words {
            sentence.push_str("\n  | ");
            sentence.push_str(&line);
        }
        Some(sentence)
    }
}

/// Returns one sentence for any event, without a full stop.
#[expect(clippy::too_many_lines, reason = "one arm for each event")]
fn sentence(record: &Record) -> String {
    let app = &record.app;
    let name = |worker: &WorkerRef| format!("{app}.{}", worker.slot);
    let name_pid = |worker: &WorkerRef| format!("{app}.{} (pid {})", worker.slot, worker.pid);
    match &record.event {
        Event::Forked { worker } => format!("{} started", name_pid(worker)),
        Event::SpawnFailed { worker, reason } => format!("{} could not be started: {reason}", name(worker)),
        Event::Online { worker } => format!("{} is up and loads its program", name_pid(worker)),
        Event::Bound { address, .. } => format!("{app} has opened {address}"),
        Event::Listening { address, .. } => format!("{app} listens on {address}"),
        Event::ListenFailed { worker, address, reason } => {
            format!("{} could not listen on {address}: {reason}", name(worker))
        }
        Event::NotCaptured { worker, reason } => format!(
            "{} binds by itself, so no other worker can have its port: what it does cannot be seen, {reason}; run worksong \
             as the user that the program changes to, or as root",
            name_pid(worker)
        ),
        Event::Ready { worker, after } => format!("{} is ready after {}", name_pid(worker), Span(*after)),
        Event::NotReady { worker, after, reason } => format!(
            "{} is still not ready after {}: {reason}; it goes on (--ready-timeout gives more time, --ready says what to wait for)",
            name_pid(worker),
            Span(*after)
        ),
        Event::Message { worker, body } => format!("{} sent {}", name_pid(worker), shortened(body.get())),
        Event::MessageDropped { worker, length } => format!(
            "{} sent a message of {length} bytes, which was dropped: messages are read too slowly",
            name_pid(worker)
        ),
        Event::Draining { worker, cause } => {
            format!("{} finishes what it has: {}", name_pid(worker), drain_reason(*cause))
        }
        Event::Recycling { worker, reason } => {
            format!("{} is to be replaced: {}", name_pid(worker), recycle_reason(reason))
        }
        Event::RecycleFailed { slot, reason, retry, .. } => {
            format!("{app}.{slot} is not replaced: {reason}; {}", after_failed_recycle(*retry))
        }
        Event::Paused { worker, in_rotation, slots } => {
            format!("{} is paused; {}", name_pid(worker), capacity(*in_rotation, *slots))
        }
        Event::Resumed { worker, in_rotation, slots } => {
            format!("{} is resumed; {}", name_pid(worker), capacity(*in_rotation, *slots))
        }
        Event::Garbage { worker, reason } => {
            format!("{} sent what is not the protocol; it was skipped: {reason}", name_pid(worker))
        }
        Event::NoAgent { reason } => format!(
            "{app} runs without the agent: connections are closed when a worker leaves, not moved: {reason}; set \
             XDG_RUNTIME_DIR to a folder of yours, or say --no-agent"
        ),
        Event::ListenerLost { address, reason } => format!(
            "the listener on {address} takes no connections any more: {reason}; reload the app to open it again"
        ),
        Event::Dropped { address, count } => {
            format!("{} closed: no worker was left to take them", connections_were(*count, address))
        }
        // How many datagrams wait at a socket nobody can say.
        Event::Orphaned { address, .. } if are_datagrams(address) => {
            format!("datagrams to {address} wait for a worker that is gone: one more starts for them")
        }
        Event::Orphaned { address, count } => {
            let wait = if *count == 1 { "waits" } else { "wait" };
            let waiting = connections(u64::from(*count));
            format!(
                "{waiting} to {address} {wait} for a worker that is gone: one more worker starts for that"
            )
        }
        Event::Unbound { address, count: 0 } => {
            format!("{address} is closed: no worker has it bound any more")
        }
        Event::Unbound { address, count } if are_datagrams(address) => format!(
            "{address} is closed, with {} that waited there: no worker has it bound any more",
            datagrams(*count)
        ),
        Event::Unbound { address, count } => format!(
            "{address} is closed, with {} that waited there: no worker has it bound any more",
            connections(*count)
        ),
        Event::HeldTooLong { address, count, hold } if are_datagrams(address) => {
            let (were, them) = if *count == 1 { ("was", "it") } else { ("were", "them") };
            let (datagrams, hold) = (datagrams(*count), Span(*hold));
            format!(
                "{datagrams} to {address} {were} thrown away: no worker could read {them} for more than {hold} (--hold-timeout)"
            )
        }
        Event::HeldTooLong { address, count, hold } => format!(
            "{} closed: no worker could take them for more than {} (--hold-timeout)",
            connections_were(*count, address),
            Span(*hold)
        ),
        Event::PolicyFailed { address, reason } => format!(
            "the policy of the listener on {address} has panicked: {reason}; its connections go to the workers in turn \
             from now on"
        ),
        Event::Shortage { of, limit } => short_of(app, *of, *limit),
        Event::ShortageOver { of, took } => {
            format!("{app} has {} again after {}", what_was_short(*of), Span(*took))
        }
        Event::Shed { count } => {
            let were = if *count == 1 { "was" } else { "were" };
            let closed = connections(*count);
            format!("no free descriptors for a second: {closed} {were} closed; raise the limit (ulimit -n)")
        }
        Event::QueueFills { address, queued, backlog } => {
            format!(
                "{} wait at {address}, of {backlog} that may: workers accept too slowly",
                connections(u64::from(*queued))
            )
        }
        Event::QueueOver { address, took, most, overflows } => {
            let lost = match overflows {
                Some(0) | None => String::new(),
                Some(count) => {
                    format!("; {} found a full queue, and try again by themselves", grouped(*count))
                }
            };
            format!("few connections wait at {address} again after {}, {most} at most{lost}", Span(*took))
        }
        Event::Overloaded { open, overload, .. } => {
            format!(
                "{app} has as many open connections as it may ({}): {}",
                grouped(*open),
                kept_out(*overload)
            )
        }
        Event::OverloadOver { took, turned_away } => match turned_away {
            0 => format!("{app} takes all connections again after {}", Span(*took)),
            count => format!(
                "{app} takes all connections again after {}; {} were turned away",
                Span(*took),
                grouped(*count)
            ),
        },
        Event::Uncounted { worker } => format!(
            "{} does not say how many connections it has open, so --max-open is not kept for it; a Rust program does \
             with worksong::serve",
            name_pid(worker)
        ),
        Event::Disconnect { worker } => format!("{} closed its channel", name_pid(worker)),
        Event::Unresponsive { worker, waiting } => format!(
            "{} has not answered for {}; new connections go to other workers",
            name_pid(worker),
            Span(*waiting)
        ),
        Event::Responsive { worker } => format!("{} answers again", name_pid(worker)),
        Event::Signalled { worker, signal, why } => format!("{} got {signal}: {why}", name_pid(worker)),
        Event::Unkillable { worker, after } => format!(
            "{} has not ended {} after SIGKILL: the kernel holds it, mostly for a disk or a file server that does not \
             answer (see /proc/{}/stack); its slot is filled without it",
            name_pid(worker),
            Span(*after),
            worker.pid
        ),
        Event::Exit { worker, cause, uptime, cut } => {
            format!("{} {} after {}{}", name_pid(worker), end(cause), Span(*uptime), loss(*cut))
        }
        Event::Restart { slot, failures, delay } => match failures {
            0 => format!("{app}.{slot} starts again in {}", Span(*delay)),
            1 => format!("{app}.{slot} starts again in {} (first failure)", Span(*delay)),
            _ => format!("{app}.{slot} starts again in {} (failure {failures} in a row)", Span(*delay)),
        },
        Event::Errored { slot, failures } => {
            format!(
                "{app}.{slot} is given up after {failures} failures in a row, until the next reload (SIGHUP)"
            )
        }
        Event::ReloadStarted { generation } => format!("{app} reloads: generation {generation} starts"),
        Event::ReloadDone { generation, took } => {
            format!("{app} is reloaded: generation {generation} serves after {}", Span(*took))
        }
        Event::ReloadReport {
            generation,
            workers,
            took,
            handed_over,
            moved,
            redispatched,
            turned_away,
            cut,
        } => {
            let counts = [
                ("handed over", handed_over),
                ("moved", moved),
                ("re-dispatched", redispatched),
                ("turned away", turned_away),
                ("cut", cut),
            ];
            let known = counts.into_iter().filter_map(|(what, count)| {
                let count = grouped((*count)?);
                Some(format!(" · {what} {count}"))
            });
            let known: String = known.collect();
            let plural = if *workers == 1 { "" } else { "s" };
            let number = generation.0.saturating_sub(1);
            format!("reload {number} of {app}: {workers} worker{plural} in {}{known}", Span(*took))
        }
        Event::ReloadFailed { generation, reason, .. } => {
            format!("{app} is not reloaded, the old workers go on: generation {generation} failed, {reason}")
        }
        Event::EngineFailed { reason } => format!(
            "{app} is ended at once: {reason}; this is a fault of worksong, please report it with the lines above"
        ),
        Event::Stopping { reason } => format!("{app} stops: {reason}"),
        Event::Stopped { cut } => match cut {
            Some(cut) => format!("{app} has stopped · cut {}", grouped(*cut)),
            None => format!("{app} has stopped"),
        },
        // Events that a newer engine adds are better seen raw than not at all.
        other => format!("{app}: {}", serde_json::to_string(other).unwrap_or_else(|_| format!("{other:?}"))),
    }
}

/// Returns whether what comes to an address are datagrams.
fn are_datagrams(address: &str) -> bool {
    address.starts_with("udp ")
}

/// Returns what a shortage does, and what helps.
fn short_of(app: &str, of: Shortage, limit: Option<u64>) -> String {
    let effect = "new connections wait, and no worker can be started";
    match (of, limit) {
        (Shortage::Descriptors, Some(limit)) => {
            format!(
                "{app} has no free descriptors, of {limit} that may be open: {effect}; raise the limit (ulimit -n)"
            )
        }
        (Shortage::Descriptors, None) => {
            format!("{app} has no free descriptors: {effect}; raise the limit (ulimit -n)")
        }
        (Shortage::SystemDescriptors, _) => {
            format!("the system has no free descriptors: {effect}; raise the limit (sysctl fs.file-max)")
        }
        (Shortage::Memory, _) => {
            format!("the system has no memory for {app}: {effect}; see dmesg, and sysctl net.ipv4.tcp_mem")
        }
        (Shortage::Processes, _) => {
            format!(
                "no worker of {app} can be started: there are as many processes as may be (ulimit -u, pids.max)"
            )
        }
        // What a newer engine may lack is better seen raw than not at all.
        (other, _) => format!("the system is short of something for {app}: {other:?}"),
    }
}

fn what_was_short(of: Shortage) -> &'static str {
    match of {
        Shortage::Descriptors | Shortage::SystemDescriptors => "free descriptors",
        Shortage::Memory => "memory",
        Shortage::Processes => "room for processes",
        _ => "what was short",
    }
}

fn kept_out(overload: Overload) -> &'static str {
    match overload {
        Overload::Wait => "new ones wait",
        Overload::Reset => "new ones are reset",
        Overload::Unavailable => "new ones are answered 503",
    }
}

fn drain_reason(cause: DrainCause) -> &'static str {
    match cause {
        DrainCause::Reload => "a new worker took its slot",
        DrainCause::Stop => "the app stops",
        DrainCause::Resize => "the app has fewer slots now",
        DrainCause::NotReady => "it was not ready in time",
        DrainCause::Asked => "it asked to leave",
        DrainCause::Recycle => "its successor is ready",
        DrainCause::Rescued => "it was started for what waits for it",
        DrainCause::Superseded => "it is not needed as a successor any more",
    }
}

fn after_failed_recycle(retry: Option<Duration>) -> String {
    match retry {
        Some(delay) => format!("the old one goes on, and the next try is in {}", Span(delay)),
        None => "the old one has ended meanwhile".to_owned(),
    }
}

fn capacity(in_rotation: u32, slots: u32) -> String {
    match in_rotation {
        0 => "nobody takes connections now, they wait".to_owned(),
        _ => format!("{in_rotation} of {slots} workers take connections"),
    }
}

fn recycle_reason(reason: &RecycleReason) -> String {
    match reason {
        RecycleReason::Connections { connections, limit } => {
            format!("it has taken {connections} connections, its limit is {limit}")
        }
        RecycleReason::Age { age, limit } => {
            format!("it is {} old, its limit is {}", Span(*age), Span(*limit))
        }
        RecycleReason::Memory { resident_bytes, limit_bytes } => {
            format!(
                "it has {} of resident memory, its limit is {}",
                Size(*resident_bytes),
                Size(*limit_bytes)
            )
        }
        RecycleReason::Asked => "it asked for a successor".to_owned(),
        // Reasons that a newer engine adds are better seen raw than not at all.
        other => format!("{other:?}"),
    }
}

fn end(cause: &ExitCause) -> String {
    match (cause.status, cause.voluntary) {
        (ExitStatus::Code(0), true) => "ended".to_owned(),
        (ExitStatus::Code(code), _) => format!("exited with code {code}"),
        (ExitStatus::Signal(_), _) => format!("was ended by {}", cause.status),
    }
}

/// Returns what ended with a worker that had to be ended.
fn loss(cut: Option<u64>) -> String {
    match cut {
        Some(0) | None => String::new(),
        Some(1) => "; 1 connection was cut".to_owned(),
        Some(count) => format!("; {} were cut", connections(count)),
    }
}

/// What an end that nobody asked for often means.
fn suspicion(cause: &ExitCause) -> &'static str {
    const SIGKILL: i32 = 9;
    match (cause.status, cause.voluntary) {
        (ExitStatus::Signal(SIGKILL), false) => "; not by worksong: perhaps it ran out of memory (see dmesg)",
        (ExitStatus::Code(0), false) => "; a server should go on until it is told to leave",
        (ExitStatus::Code(_) | ExitStatus::Signal(_), _) => "",
    }
}

#[cfg(test)]
mod tests;
