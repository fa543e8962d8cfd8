//! Seeded schedules of faults and commands; a failing seed replays with `WORKSONG_SEED=<seed>`, and `WORKSONG_SEEDS=20000`
//! runs so many.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::recycle::Wish;
use super::world::{Dice, World};
use super::*;
use crate::ids::Slot;

const SEEDS: u64 = 512;
/// The longest storm.
const STEPS: u64 = 600;

/// The limit of connections and of memory.
const MANY: u64 = 1_000;

/// What the simulated kernel needs to show an end, with room for late ticks.
const ROOM: Duration = Duration::from_secs(3);

/// What has to happen somewhere in a full run; otherwise the simulation proves less than it says.
const MUST_HAPPEN: [&str; 37] = [
    "SIGKILL",
    "SIGTERM",
    "apps errored",
    "cuts",
    "disconnects",
    "ends of paused workers",
    "ends without a cut",
    "ends without a worker's end",
    "failed probes",
    "falls",
    "hangs",
    "late starts",
    "pauses",
    "recycles by age",
    "recycles by connections",
    "recycles by memory",
    "recycles by request",
    "recycles done",
    "recycles failed",
    "recycles superseded",
    "reloads done",
    "reloads failed",
    "reloads stopped",
    "reloads superseded",
    "resizes",
    "restarts",
    "resumes",
    "slots errored",
    "spawns",
    "spawns failed",
    "stand-stills",
    "stop signals",
    "stops in the storm",
    "stray channels",
    "survivals",
    "unknown cuts",
    "waits until idle",
];

#[test]
fn random_schedules_keep_every_promise() {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let replayed = number("WORKSONG_SEED");
    let seeds = replayed.map_or(0..number("WORKSONG_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    let mut total: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(tally) => tally.into_iter().for_each(|(what, count)| *total.entry(what).or_default() += count),
            Err(panic) => {
                println!("failed with seed {seed}: replay with WORKSONG_SEED={seed}");
                resume_unwind(panic);
            }
        }
    }
    println!("{count} schedules run: {total:?}");
    if replayed.is_none() {
        for what in MUST_HAPPEN {
            assert!(total.contains_key(what), "no schedule has seen: {what}");
        }
    }
}

fn random_settings(dice: &mut Dice) -> Settings {
    let has_channel = dice.percent(75);
    let sees_listening = !has_channel && dice.percent(50);
    let ready = match dice.below(6) {
        0 if has_channel => Ready::Message,
        1 => Ready::Started,
        2 if has_channel || sees_listening => Ready::Listening,
        3 => Ready::Observed,
        4 => Ready::Probe(Probe::Tcp),
        _ => Ready::Auto,
    };
    let ready = match (ready, has_channel || sees_listening) {
        (Ready::Auto, true) => Ready::Listening,
        (Ready::Auto, false) => Ready::Started,
        (resolved, _) => resolved,
    };
    Settings {
        instances: 1 + dice.below(5) as u32,
        has_channel,
        sees_listening,
        hands_over: has_channel && !sees_listening,
        ready,
        deadlines: Deadlines {
            ready: seconds(1 + dice.below(6)),
            drain: seconds(dice.below(6)),
            kill: seconds(dice.below(3)),
            hung: seconds(1 + dice.below(4)),
            hold: seconds(0),
        },
        stop_signal: if dice.percent(30) { own_signal() } else { StopSignal::TERMINATE },
        restart: RestartPolicy {
            min_delay: Duration::from_millis(100),
            max_delay: seconds(2),
            stable_after: seconds(8),
            max_failures: 2 + dice.below(5) as u32,
        },
        replacement: Replacement {
            surge: 1 + dice.below(3) as u32,
            parallel: dice.percent(50).then(|| 1 + dice.below(4) as u32),
        },
        recycle: RecycleLimits {
            max_connections: Some(MANY),
            max_age: dice.percent(30).then(|| seconds(15 + dice.below(20))),
            max_memory_bytes: Some(MANY),
        },
        same_addresses: dice.percent(80),
    }
}

/// Runs one schedule: a storm, perhaps a calm after it, and the end.
fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut dice = Dice::new(seed ^ 0x5eed);
    let mut world = World::new(random_settings(&mut dice), seed);
    world.tell(Input::Start);
    let mut request = 0;
    // Some are about one thing, others about all of them.
    let (reloads, resizes, steering) = (1 + dice.below(100), 1 + dice.below(50), 1 + dice.below(150));
    for _ in 0..STEPS / 4 + dice.below(STEPS * 3 / 4) {
        world.step();
        if dice.below(1_000) < reloads {
            request += 1;
            world.tell(Input::Reload { request });
        }
        if dice.below(2_000) < resizes {
            // Of a slot that is no more, so that nobody takes it for a successor.
            world.tell(Input::Rescue { slot: Slot(90), traffic: Traffic::Connections });
        }
        if dice.below(1_000) < resizes {
            world.tell(Input::Resize(dice.below(6) as u32));
        }
        if dice.below(1_000) < steering {
            steer_one(&mut world, &mut dice);
        }
        match dice.below(200) {
            0..3 => world.tell(Input::Tick),
            3..11 => tell_nonsense(&mut world, &mut dice),
            11 => world.stand_still(),
            _ => {}
        }
    }
    if dice.percent(60) {
        calm_down(&mut world);
    } else {
        world.ledger.count("stops in the storm");
    }
    end(&mut world, &mut dice);
    world.ledger.tally
}

/// Facts and commands about one worker, whatever it does.
fn steer_one(world: &mut World, dice: &mut Dice) {
    let Some(worker) = world.any_worker() else { return };
    world.tell(match dice.below(8) {
        0..2 => Input::Pause { worker },
        2..4 => Input::Resume { worker },
        4 => Input::AsksForSuccessor { worker },
        5 => Input::TookEnough { worker, connections: MANY * 9 / 10 + dice.below(MANY / 5) },
        _ => Input::Resident { worker, bytes: MANY * 9 / 10 + dice.below(MANY / 5) },
    });
}

/// Facts that come too late, or about nobody.
fn tell_nonsense(world: &mut World, dice: &mut Dice) {
    let forgotten = world.ledger.entries.iter().filter(|(_, entry)| entry.forgotten);
    let number = forgotten.map(|(number, _)| *number).next_back().unwrap_or(9_999);
    let worker = worker(number);
    world.tell(match dice.below(9) {
        0 => Input::Spawned { worker, pid: 1 },
        1 => Input::SpawnFailed { worker, reason: "late".to_owned(), blame: Blame::Program },
        2 => Input::Listening { worker, address: "late".to_owned(), port: None },
        3 => Input::Leaving { worker },
        4 => Input::ChannelClosed { worker, open: Some(9) },
        5 => Input::Exited { worker, status: ExitStatus::Code(0), stderr: Vec::new() },
        6 => Input::Overdue { worker, waiting: seconds(9) },
        7 => Input::Probed { worker, result: Ok(()) },
        _ => Input::ReadyMessage { worker },
    });
}

fn calm_down(world: &mut World) {
    world.calm_down();
    let (begun, deadline) = (world.now, world.now + seconds(600));
    // With a limit of age there is always something to wait for: it is looked at between two recycles.
    let recycles_for_ever = world.supervisor.settings.recycle.max_age.is_some();
    while world.step() {
        assert!(world.now < deadline, "the world is calm and the supervisor is not: {:?}", world.supervisor);
        let snapshot = world.supervisor.snapshot();
        let is_between = snapshot.leaving.is_empty() && snapshot.slots.iter().all(is_settled);
        if recycles_for_ever && is_between && world.now > begun + seconds(60) {
            break;
        }
    }
    let snapshot = world.supervisor.snapshot();
    if !recycles_for_ever {
        let unheard = world.supervisor.workers.values().find(|worker| worker.wish != Wish::Stay);
        assert!(unheard.is_none(), "it was never recycled: {unheard:?}");
    }
    assert!(snapshot.leaving.is_empty() && snapshot.reloading_to.is_none(), "left over: {snapshot:?}");
    assert!(world.ledger.unanswered.is_empty(), "unanswered reloads: {:?}", world.ledger.unanswered);
    for slot in &snapshot.slots {
        assert!(is_settled(slot), "a slot is not filled: {slot:?}");
    }
    let served = snapshot.slots.iter().filter(|slot| matches!(slot.state, SlotState::Filled(_))).count();
    assert_eq!(world.ledger.in_rotation(), served, "who fills a slot is in rotation, and nobody else");
}

fn is_settled(slot: &SlotView) -> bool {
    let settled = match slot.state {
        SlotState::Filled(view) => view.state == WorkerState::Ready,
        SlotState::BackingOff { .. } => false,
        SlotState::Errored => true,
    };
    settled && slot.successor.is_none()
}

fn end(world: &mut World, dice: &mut Dice) {
    let Deadlines { drain, kill, .. } = world.supervisor.settings.deadlines;
    let deadline = world.now + drain + kill + kill.max(seconds(1)) + ROOM;
    let at_once = dice.percent(25);
    world.tell(if at_once { Input::StopNow } else { Input::Stop { reason: "SIGTERM".to_owned() } });
    let killed_at = dice.percent(20).then(|| dice.below(10));
    for step in 0.. {
        if killed_at == Some(step) {
            world.tell(Input::StopNow);
        }
        if world.ledger.finished.contains(&Outcome::Stopped) {
            break;
        }
        assert!(world.step(), "stopping, and nothing would ever happen: {:?}", world.supervisor);
        assert!(world.now < deadline, "not stopped in time: {:?}", world.supervisor);
    }
    while world.step() {}
    let stops = world.ledger.finished.iter().filter(|outcome| **outcome == Outcome::Stopped).count();
    assert_eq!(stops, 1, "an app ends once");
    let errored = world.ledger.finished.len() - stops;
    (0..errored).for_each(|_| world.ledger.count("apps errored"));
    assert!(world.ledger.unanswered.is_empty(), "unanswered reloads: {:?}", world.ledger.unanswered);
    let left = world.ledger.entries.values().find(|entry| entry.is_left());
    assert!(left.is_none(), "a worker is left: {left:?}");
}
