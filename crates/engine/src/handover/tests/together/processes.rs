//! The processes of the simulated app: they start, listen, crash, hang, leave, and refuse to die.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::event::ExitStatus;
use crate::handover::tests::world::traits::Traits;
use crate::ids::WorkerId;

/// Something that a process or a person does.
#[derive(Clone, Debug)]
enum Deed {
    Command(Command),
    Start,
    FailToStart,
    Listen,
    Say(Input),
    Fault(Fault),
    End(ExitStatus),
    /// What the kernel shows of an end, after the process has gone.
    Show(Input),
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Connect,
    Reload,
    Resize(u32),
    PauseOne,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    Hang,
    CloseChannel,
    Leave,
}

#[expect(clippy::struct_excessive_bools, reason = "independent traits of a made-up process")]
struct Process {
    worker: WorkerId,
    slot: Slot,
    is_alive: bool,
    has_started: bool,
    traits: Traits,
    ignores_disconnect: bool,
    ignores_terminate: bool,
}

/// All processes, the people around them, and what they will do.
pub(super) struct Processes {
    dice: Dice,
    now: Instant,
    all: BTreeMap<u32, Process>,
    agenda: BTreeMap<(Instant, u64), (u32, Deed)>,
    appointments: u64,
    bad: BTreeSet<Generation>,
    judged: Generation,
    requests: u64,
    only_reloads: bool,
    is_calm: bool,
}

impl Processes {
    pub(super) fn new(seed: u64, only_reloads: bool) -> Self {
        Self {
            dice: Dice::new(seed ^ 0x1234),
            now: Instant::now(),
            all: BTreeMap::new(),
            agenda: BTreeMap::new(),
            appointments: 0,
            bad: BTreeSet::new(),
            judged: Generation(1),
            requests: 0,
            only_reloads,
            is_calm: false,
        }
    }

    pub(super) fn plan_commands(&mut self, now: Instant, within: Duration) {
        self.now = now;
        let limit = within.as_millis() as u64;
        self.plan(0, Duration::ZERO, Deed::Command(Command::Connect));
        for _ in 0..self.dice.below(7) {
            let delay = self.dice.milliseconds(limit);
            self.plan(0, delay, Deed::Command(Command::Reload));
        }
        for _ in 0..self.dice.below(if self.only_reloads { 1 } else { 3 }) {
            let (delay, size) = (self.dice.milliseconds(limit), self.dice.below(5) as u32);
            self.plan(0, delay, Deed::Command(Command::Resize(size)));
        }
        for _ in 0..self.dice.below(if self.only_reloads { 1 } else { 4 }) {
            let delay = self.dice.milliseconds(limit);
            self.plan(0, delay, Deed::Command(Command::PauseOne));
        }
    }

    pub(super) fn id(&self, number: u32) -> WorkerId {
        self.all[&number].worker
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// From now on nothing goes wrong that has not gone wrong yet, and no further client comes.
    pub(super) fn calm_down(&mut self, world: &World) {
        self.now = world.crowd.now;
        self.is_calm = true;
        let has_channel = |process: &&Process| {
            !process.has_started || world.crowd.workers.contains_key(&process.worker.number)
        };
        let alive = self.all.values().filter(|process| process.is_alive);
        let late: Vec<WorkerId> = alive.filter(has_channel).map(|process| process.worker).collect();
        for worker in late {
            self.plan_readiness(worker);
        }
    }

    fn plan(&mut self, number: u32, delay: Duration, deed: Deed) {
        self.appointments += 1;
        self.agenda.insert((self.now + delay, self.appointments), (number, deed));
    }

    /// Does the part of an effect that a process does.
    pub(super) fn perform(&mut self, effect: &Effect, world: &mut World, line: LineId) {
        self.now = world.crowd.now;
        match effect {
            Effect::Spawn { worker, slot, generation } => self.plan_birth(*worker, *slot, *generation, world),
            Effect::Disconnect { worker } => {
                if !self.all[&worker.number].ignores_disconnect {
                    world.close_server(worker.number, line);
                    let delay = self.dice.milliseconds(3_000);
                    self.plan(worker.number, delay, Deed::End(ExitStatus::Code(0)));
                }
            }
            Effect::Signal { worker, signal } => {
                if *signal == libc::SIGKILL || !self.all[&worker.number].ignores_terminate {
                    let delay = self.dice.milliseconds(200);
                    self.plan(worker.number, delay, Deed::End(ExitStatus::Signal(*signal)));
                }
            }
            // No app of this simulation asks for these.
            Effect::Probe { .. }
            | Effect::AskBySignal { .. }
            | Effect::AwaitIdle { .. }
            | Effect::EnterRotation { .. }
            | Effect::LeaveRotation { .. }
            | Effect::Forget { .. }
            | Effect::Emit(_)
            | Effect::ReloadEnded { .. }
            | Effect::Finished { .. } => {}
        }
    }

    fn plan_birth(&mut self, worker: WorkerId, slot: Slot, generation: Generation, world: &mut World) {
        if generation > self.judged {
            self.judged = generation;
            if self.dice.percent(40) {
                self.bad.insert(generation);
            }
        }
        let is_bad = !self.is_calm && self.bad.contains(&generation);
        if is_bad {
            world.crowd.ledger.count("workers of bad generations");
        }
        let is_wild = !self.is_calm && !self.only_reloads;
        let traits = if is_wild {
            Traits { never_acknowledges: false, ..Traits::random(&mut self.dice) }
        } else {
            Traits::calm()
        };
        self.all.insert(
            worker.number,
            Process {
                worker,
                slot,
                is_alive: true,
                has_started: false,
                traits,
                ignores_disconnect: is_wild && self.dice.percent(15),
                ignores_terminate: is_wild && self.dice.percent(15),
            },
        );
        let delay = self.dice.milliseconds(30);
        if is_bad && self.dice.percent(25) || is_wild && self.dice.percent(3) {
            self.plan(worker.number, delay, Deed::FailToStart);
            return;
        }
        self.plan(worker.number, delay, Deed::Start);
        if !(is_bad && self.dice.percent(70)) {
            self.plan_readiness(worker);
        } else if self.dice.percent(50) {
            let delay = milliseconds(30) + self.dice.milliseconds(1_000);
            self.plan(worker.number, delay, Deed::Fault(Fault::Crash));
        }
        for (fault, chance) in
            [(Fault::Crash, 40), (Fault::Hang, 30), (Fault::CloseChannel, 10), (Fault::Leave, 15)]
        {
            if is_wild && self.dice.percent(chance) {
                let delay = milliseconds(30) + self.dice.milliseconds(12_000);
                self.plan(worker.number, delay, Deed::Fault(fault));
            }
        }
    }

    fn plan_readiness(&mut self, worker: WorkerId) {
        let number = worker.number;
        let online = milliseconds(30) + self.dice.milliseconds(100);
        self.plan(number, online, Deed::Say(Input::Online { worker }));
        let listening = online + self.dice.milliseconds(500);
        self.plan(number, listening, Deed::Listen);
        let ready = listening + self.dice.milliseconds(200);
        self.plan(number, ready, Deed::Say(Input::ReadyMessage { worker }));
    }

    /// Lets the next deed happen, and returns what the supervisor hears of it.
    pub(super) fn play(&mut self, world: &mut World, line: LineId) -> Option<Input> {
        self.now = world.crowd.now;
        let (_, (number, deed)) = self.agenda.pop_first()?;
        if let Deed::Command(command) = deed {
            return self.obey(command, world, line);
        }
        let process = self.all.get_mut(&number)?;
        let worker = process.worker;
        match deed {
            Deed::Command(_) => None,
            Deed::Show(input) => Some(input),
            _ if !process.is_alive => None,
            Deed::Start => {
                process.has_started = true;
                world.add_worker(number, process.slot, process.traits.clone());
                Some(Input::Spawned { worker, pid: 1_000 + number })
            }
            Deed::FailToStart => {
                process.is_alive = false;
                Some(Input::SpawnFailed { worker, reason: "out of memory".to_owned(), blame: Blame::System })
            }
            Deed::Listen => {
                world.open_server(number, line);
                Some(Input::Listening { worker, address: "0.0.0.0:80".to_owned(), port: Some(80) })
            }
            Deed::Say(input) => Some(input),
            Deed::Fault(fault) => (!self.is_calm).then(|| self.fail(worker, fault, world, line))?,
            Deed::End(status) => {
                self.end(worker, status, world);
                None
            }
        }
    }

    fn obey(&mut self, command: Command, world: &mut World, line: LineId) -> Option<Input> {
        match command {
            Command::Connect => {
                if !self.is_calm {
                    let delay = milliseconds(1) + self.dice.milliseconds(250);
                    self.plan(0, delay, Deed::Command(Command::Connect));
                    let count = 1 + self.dice.below(4);
                    world.arrive(line, count);
                }
                None
            }
            Command::Reload => {
                self.requests += 1;
                Some(Input::Reload { request: self.requests })
            }
            Command::Resize(instances) => Some(Input::Resize(instances)),
            Command::PauseOne => {
                let alive = self.all.values().filter(|process| process.is_alive);
                let alive: Vec<WorkerId> = alive.map(|process| process.worker).collect();
                let worker = self.dice.pick(&alive)?;
                let delay = self.dice.milliseconds(3_000);
                self.plan(worker.number, delay, Deed::Say(Input::Resume { worker }));
                Some(Input::Pause { worker })
            }
        }
    }

    fn fail(&mut self, worker: WorkerId, fault: Fault, world: &mut World, line: LineId) -> Option<Input> {
        let number = worker.number;
        match fault {
            Fault::Crash => {
                self.end(worker, ExitStatus::Signal(libc::SIGSEGV), world);
                None
            }
            Fault::Hang => {
                let time = self.dice.milliseconds(6_000);
                world.block(number, time);
                None
            }
            Fault::CloseChannel => {
                world.kill(number);
                None
            }
            Fault::Leave => {
                world.close_server(number, line);
                let delay = self.dice.milliseconds(3_000);
                self.plan(number, delay, Deed::End(ExitStatus::Code(0)));
                Some(Input::Leaving { worker })
            }
        }
    }

    /// The process ends; the kernel shows its exit and the end of its channel, in either order.
    fn end(&mut self, worker: WorkerId, status: ExitStatus, world: &mut World) {
        if let Some(process) = self.all.get_mut(&worker.number) {
            process.is_alive = false;
        }
        if matches!(status, ExitStatus::Signal(libc::SIGKILL | libc::SIGTERM)) {
            world.crowd.ledger.count("killed by a signal");
        }
        // A stray child may hold the channel open.
        if self.dice.percent(10) {
            world.kill_unseen(worker.number);
        } else {
            world.kill(worker.number);
        }
        let delay = self.dice.milliseconds(100);
        self.plan(worker.number, delay, Deed::Show(Input::Exited { worker, status, stderr: Vec::new() }));
    }
}
