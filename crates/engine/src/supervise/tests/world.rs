//! The simulated world: processes that start, serve, crash, hang, lie and refuse to die, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::Ledger;
use super::*;

/// Everything random of one schedule.
pub(super) struct Dice(Jitter);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Jitter::new(seed))
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0.next() % limit
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn milliseconds(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// Something that a process does, unless it has ended before.
#[derive(Clone, Debug)]
enum Act {
    Start,
    FailToStart,
    Say(Input),
    /// A fault, which does not happen once the world is calm.
    Fault(Fault),
    End(ExitStatus),
    /// What the kernel shows of an end, after the process has gone.
    Show(Input),
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    Hang,
    CloseChannel,
    Leave,
}

/// One process of the world.
#[expect(clippy::struct_excessive_bools, reason = "independent traits of a made-up process")]
struct Process {
    worker: WorkerId,
    alive: bool,
    ignores_disconnect: bool,
    ignores_terminate: bool,
    silent: bool,
    /// Where it listens, beside where all do.
    port: u16,
    /// It waits inside the kernel for so long, and SIGKILL does not end it before.
    survives: Option<Duration>,
}

/// A supervisor among processes.
pub(super) struct World {
    pub(super) supervisor: Supervisor,
    pub(super) ledger: Ledger,
    pub(super) now: Instant,
    pub(super) dice: Dice,
    has_channel: bool,
    sees_listening: bool,
    calm: bool,
    bad_generations: BTreeSet<Generation>,
    /// Those that listen on another port.
    elsewhere: BTreeSet<Generation>,
    judged: Generation,
    processes: BTreeMap<u32, Process>,
    agenda: BTreeMap<(Instant, u64), (u32, Act)>,
    appointments: u64,
}

impl World {
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        Self {
            ledger: Ledger::new(&settings),
            has_channel: settings.has_channel,
            sees_listening: settings.sees_listening,
            supervisor: Supervisor::new(AppId(0), settings, seed),
            now: Instant::now(),
            dice: Dice::new(seed),
            calm: false,
            bad_generations: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            judged: Generation(1),
            processes: BTreeMap::new(),
            agenda: BTreeMap::new(),
            appointments: 0,
        }
    }

    /// Gives the supervisor an input, checks what it wants, and does it.
    pub(super) fn tell(&mut self, input: Input) {
        let before = self.ledger.in_rotation();
        self.ledger.note_input(&input, self.now);
        let mut effects = Vec::new();
        let told = input.clone();
        self.supervisor.on(input, self.now, &mut effects);
        for effect in &effects {
            self.ledger.take(effect, self.now);
            self.perform(effect);
            if let Effect::ReloadEnded { outcome: ReloadOutcome::Done { generation, .. }, .. } = effect {
                self.check_done(*generation);
            }
        }
        let may_lower_capacity = match told {
            Input::Tick => {
                let next = self.supervisor.next_deadline();
                assert!(
                    next.is_none_or(|at| at > self.now),
                    "a deadline that a tick does not settle: a busy loop"
                );
                true
            }
            Input::Reload { .. }
            | Input::Rescue { .. }
            | Input::Spawned { .. }
            | Input::SpawnFailed { .. }
            | Input::Online { .. }
            | Input::Listening { .. }
            | Input::Captured { .. }
            | Input::DoesNotWait { .. }
            | Input::Idle { .. }
            | Input::ReadyMessage { .. }
            | Input::Probed { .. }
            | Input::Start
            | Input::Overdue { .. }
            | Input::Answering { .. }
            | Input::TookEnough { .. }
            | Input::Resident { .. }
            | Input::AsksForSuccessor { .. }
            | Input::Resume { .. } => false,
            Input::Pause { .. }
            | Input::Resize(_)
            | Input::Stop { .. }
            | Input::StopNow
            | Input::Leaving { .. }
            | Input::ChannelClosed { .. }
            | Input::Exited { .. } => true,
        };
        assert!(may_lower_capacity || self.ledger.in_rotation() >= before, "{told:?} lowered capacity");
        self.ledger.check_consequences();
        assert!(self.ledger.is_one_per_slot(), "two workers of a slot are in rotation after {told:?}");
        self.check_pending();
    }

    fn check_done(&self, generation: Generation) {
        for slot in self.supervisor.snapshot().slots {
            let served = match slot.state {
                SlotState::Filled(view) => {
                    let was_ready = match view.state {
                        WorkerState::Ready | WorkerState::Unresponsive | WorkerState::Paused => true,
                        WorkerState::Spawning
                        | WorkerState::Starting
                        | WorkerState::Leaving
                        | WorkerState::Unkillable
                        | WorkerState::Exited => false,
                    };
                    was_ready && view.worker.generation == generation
                }
                SlotState::BackingOff { .. } | SlotState::Errored => false,
            };
            assert!(served, "reloaded to {generation}, but a slot is not: {slot:?}");
        }
    }

    fn check_pending(&self) {
        let is_held = |slot: &SlotView| matches!(slot.state, SlotState::Filled(view) if view.state == WorkerState::Unkillable);
        let held = self.supervisor.snapshot().slots.into_iter().find(is_held);
        assert!(held.is_none(), "who cannot be killed keeps a slot: {held:?}");
        if self.supervisor.next_deadline().is_some() {
            return;
        }
        let waits = self.ledger.on_its_way_out();
        assert!(waits.is_none(), "a worker leaves without a deadline: {waits:?}");
        let slots = self.supervisor.snapshot().slots;
        // A successor may wait for a slot whose worker only the shell or the kernel can say more of.
        let is_asked_for = |slot: &SlotView| match slot.state {
            SlotState::Filled(view) => {
                matches!(view.state, WorkerState::Spawning | WorkerState::Leaving | WorkerState::Exited)
            }
            SlotState::BackingOff { .. } | SlotState::Errored => false,
        };
        let waits_for_others = slots.iter().any(is_asked_for);
        for slot in slots {
            let starts = slot.successor.is_some_and(|view| view.state == WorkerState::Starting);
            let waits = matches!(slot.state, SlotState::BackingOff { .. }) && slot.successor.is_none();
            assert!((!starts || waits_for_others) && !waits, "a slot waits without a deadline: {slot:?}");
        }
    }

    /// Lets the next thing happen; returns false when nothing ever would.
    pub(super) fn step(&mut self) -> bool {
        let act = self.agenda.keys().next().copied();
        let alarm = self.supervisor.next_deadline();
        match (act, alarm) {
            (None, None) => false,
            (Some(key), alarm) if alarm.is_none_or(|at| key.0 < at) => {
                self.now = self.now.max(key.0);
                if let Some((number, act)) = self.agenda.remove(&key) {
                    self.play(number, act);
                }
                true
            }
            (_, alarm) => {
                let late = if self.dice.percent(10) { self.dice.milliseconds(300) } else { Duration::ZERO };
                self.now = self.now.max(alarm.unwrap_or(self.now)) + late;
                self.tell(Input::Tick);
                true
            }
        }
    }

    /// Nothing runs for a while, neither the supervisor nor its workers. It is longer than any deadline, which is nobody's
    /// fault.
    pub(super) fn stand_still(&mut self) {
        self.tell(Input::Tick);
        let pause = Duration::from_secs(15) + self.dice.milliseconds(600_000);
        self.now += pause;
        let agenda = std::mem::take(&mut self.agenda);
        self.agenda = agenda.into_iter().map(|((at, nth), act)| ((at + pause, nth), act)).collect();
        let before = self.ledger.signals();
        self.tell(Input::Tick);
        assert_eq!(self.ledger.signals(), before, "it was no time that the workers had");
        self.ledger.count("stand-stills");
    }

    /// From now on nothing goes wrong that has not gone wrong yet.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        let silent: Vec<u32> = self
            .processes
            .values()
            .filter(|process| process.alive)
            .map(|process| process.worker.number)
            .collect();
        for number in silent {
            let worker = worker(number);
            if self.processes[&number].silent {
                self.plan_readiness(worker);
            }
            self.plan(number, Duration::from_millis(5), Act::Say(Input::Answering { worker }));
            self.plan(number, Duration::from_millis(5), Act::Say(Input::Resume { worker }));
        }
    }

    /// Returns some process that runs.
    pub(super) fn any_worker(&mut self) -> Option<WorkerId> {
        let alive: Vec<WorkerId> =
            self.processes.values().filter(|process| process.alive).map(|process| process.worker).collect();
        let chosen = self.dice.below(alive.len().max(1) as u64) as usize;
        alive.get(chosen).copied()
    }

    fn plan(&mut self, number: u32, delay: Duration, act: Act) {
        self.appointments += 1;
        self.agenda.insert((self.now + delay, self.appointments), (number, act));
    }

    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Spawn { worker, generation, .. } => self.plan_birth(*worker, *generation),
            Effect::Disconnect { worker } | Effect::AskBySignal { worker, .. } => {
                if !self.processes[&worker.number].ignores_disconnect {
                    let delay = self.dice.milliseconds(5_000);
                    self.plan(worker.number, delay, Act::End(ExitStatus::Code(0)));
                }
            }
            Effect::Signal { worker, signal } => {
                let process = &self.processes[&worker.number];
                if *signal == libc::SIGKILL || !process.ignores_terminate {
                    let survives = process.survives.filter(|_| *signal == libc::SIGKILL);
                    let delay = self.dice.milliseconds(400) + survives.unwrap_or_default();
                    self.plan(worker.number, delay, Act::End(ExitStatus::Signal(*signal)));
                }
            }
            Effect::AwaitIdle { worker } => {
                let worker = *worker;
                let delay = self.dice.milliseconds(8_000);
                self.plan(worker.number, delay, Act::Show(Input::Idle { worker }));
            }
            Effect::Probe { worker } => self.plan_answer(*worker),
            Effect::EnterRotation { .. }
            | Effect::LeaveRotation { .. }
            | Effect::Forget { .. }
            | Effect::Emit(_)
            | Effect::ReloadEnded { .. }
            | Effect::Finished { .. } => {}
        }
    }

    fn plan_birth(&mut self, worker: WorkerId, generation: Generation) {
        if generation > self.judged {
            self.judged = generation;
            if self.dice.percent(35) {
                self.bad_generations.insert(generation);
                if self.dice.percent(20) {
                    self.elsewhere.insert(generation);
                }
            }
        }
        let chaos = !self.calm;
        let bad = chaos && self.bad_generations.contains(&generation);
        let process = Process {
            worker,
            alive: true,
            ignores_disconnect: chaos && self.dice.percent(20),
            ignores_terminate: chaos && self.dice.percent(20),
            silent: chaos && self.dice.percent(if bad { 40 } else { 5 }),
            port: if self.elsewhere.contains(&generation) { 81 } else { 80 },
            survives: (chaos && self.dice.percent(8)).then(|| self.dice.milliseconds(60_000)),
        };
        let is_silent = process.silent;
        self.processes.insert(worker.number, process);
        let delay = self.dice.milliseconds(30);
        if chaos && self.dice.percent(if bad { 20 } else { 5 }) {
            self.plan(worker.number, delay, Act::FailToStart);
            return;
        }
        self.plan(worker.number, delay, Act::Start);
        if !is_silent {
            self.plan_readiness(worker);
        }
        for (fault, chance) in
            [(Fault::Crash, 40), (Fault::Hang, 20), (Fault::CloseChannel, 10), (Fault::Leave, 15)]
        {
            if chaos && self.dice.percent(chance) {
                let delay = Duration::from_millis(30) + self.dice.milliseconds(15_000);
                self.plan(worker.number, delay, Act::Fault(fault));
            }
        }
        if bad && self.dice.percent(60) {
            let delay = Duration::from_millis(30) + self.dice.milliseconds(1_500);
            let fault = if self.dice.percent(30) { Fault::Leave } else { Fault::Crash };
            self.plan(worker.number, delay, Act::Fault(fault));
        }
    }

    fn plan_readiness(&mut self, worker: WorkerId) {
        let online = Duration::from_millis(30) + self.dice.milliseconds(300);
        self.plan(worker.number, online, Act::Say(Input::Online { worker }));
        let listening = online + self.dice.milliseconds(1_500);
        let port = self.processes[&worker.number].port;
        for port in [port, 8080] {
            let address = format!("0.0.0.0:{port}");
            let delay = listening + self.dice.milliseconds(200);
            let port = Some(port);
            let input = if self.sees_listening {
                Input::Captured { worker, address, port }
            } else {
                Input::Listening { worker, address, port }
            };
            self.plan(worker.number, delay, Act::Say(input));
        }
        let ready = listening + self.dice.milliseconds(500);
        self.plan(worker.number, ready, Act::Say(Input::ReadyMessage { worker }));
    }

    /// A probe always has an answer, also when the process does not.
    fn plan_answer(&mut self, worker: WorkerId) {
        let is_silent = !self.calm && self.processes[&worker.number].silent;
        let result =
            if is_silent || self.dice.percent(30) { Err("it answers 503".to_owned()) } else { Ok(()) };
        let delay = self.dice.milliseconds(1_000);
        self.plan(worker.number, delay, Act::Show(Input::Probed { worker, result }));
    }

    fn play(&mut self, number: u32, act: Act) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let worker = process.worker;
        match act {
            Act::Show(input) => self.tell(input),
            _ if !process.alive => {}
            Act::Start => self.tell(Input::Spawned { worker, pid: 1_000 + number }),
            Act::FailToStart => {
                process.alive = false;
                let blame = if number.is_multiple_of(2) { Blame::System } else { Blame::Program };
                self.tell(Input::SpawnFailed { worker, reason: "out of memory".to_owned(), blame });
            }
            Act::Say(input) => self.tell(input),
            Act::Fault(_) if self.calm => {}
            Act::Fault(Fault::Crash) => self.end(worker, ExitStatus::Signal(libc::SIGSEGV)),
            Act::Fault(Fault::Hang) => {
                let waiting = Duration::from_secs(1);
                if self.dice.percent(50) {
                    let delay = self.dice.milliseconds(4_000);
                    self.plan(number, delay, Act::Say(Input::Answering { worker }));
                }
                self.tell(Input::Overdue { worker, waiting });
            }
            Act::Fault(Fault::CloseChannel) if self.has_channel => {
                self.tell(Input::ChannelClosed { worker, open: None });
                if self.dice.percent(50) {
                    self.plan(number, Duration::from_millis(50), Act::End(ExitStatus::Code(0)));
                }
            }
            Act::Fault(Fault::Leave) if self.has_channel => {
                if self.dice.percent(70) {
                    let delay = self.dice.milliseconds(3_000);
                    self.plan(number, delay, Act::End(ExitStatus::Code(0)));
                }
                self.tell(Input::Leaving { worker });
            }
            Act::Fault(Fault::CloseChannel | Fault::Leave) => {}
            Act::End(status) => self.end(worker, status),
        }
    }

    /// The process ends; the kernel shows that by two facts in either order, and sometimes shows one twice.
    fn end(&mut self, worker: WorkerId, status: ExitStatus) {
        if let Some(process) = self.processes.get_mut(&worker.number) {
            process.alive = false;
        }
        let exited = Input::Exited { worker, status, stderr: vec!["last words".to_owned()] };
        let mut facts = vec![exited];
        // A stray child holds the other end open: the channel's end is never seen.
        if self.has_channel && !self.dice.percent(5) {
            let open = self.dice.percent(50).then(|| self.dice.below(3));
            facts.push(Input::ChannelClosed { worker, open });
        }
        if self.dice.percent(30) {
            facts.push(facts[0].clone());
        }
        if self.dice.percent(30) {
            facts.push(Input::Listening { worker, address: "read late".to_owned(), port: None });
        }
        for fact in facts {
            let delay = self.dice.milliseconds(100);
            self.plan(worker.number, delay, Act::Show(fact));
        }
    }
}
