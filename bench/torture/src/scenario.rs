//! What is done to a system while its clients go on.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use worksong_testkit::{Signal, eventually, process};

use crate::ledger::Ledger;
use crate::population::{Plan, Population};
use crate::random::Random;
use crate::system::System;

/// Clients have their connections before anything is done to the system.
const BEFORE: Duration = Duration::from_secs(1);
/// Mean of the pauses between the end of one step and the begin of the next.
const BETWEEN: Duration = Duration::from_millis(400);
/// The longest time in which somebody has to be served again.
const SERVED_AGAIN: Duration = Duration::from_mins(1);
/// The number of the generator that pauses are drawn from; clients have others.
const STREAM: u64 = u64::MAX;

/// What is done, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing, for this long.
    Idle(Duration),
    /// So many reloads, each after the end of the one before.
    Reload(u32),
    /// So many times, all workers are killed at once, each time after somebody was served again.
    KillAll(u32),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened to the clients.
    pub ledger: Ledger,
    /// How long each step took: a reload until its end, a kill until somebody was served.
    pub steps: Vec<Duration>,
    /// How many connections the system says that its reloads have cut, if it counts them.
    pub cut: Option<u64>,
    /// What the system says of workers that ended or stood still without being asked to.
    pub incidents: Vec<String>,
    /// Why it ended early, if it did.
    pub ended_by: Option<String>,
}

impl Scenario {
    /// Runs clients against a system and does this to it; `after` is how long the clients go on after the last step.
    ///
    /// A message, or the end, of `interrupt` ends it early.
    pub fn run(
        self,
        system: &mut dyn System,
        plan: &Plan,
        after: Duration,
        interrupt: Option<&Receiver<()>>,
    ) -> Outcome {
        let mut plan = plan.clone();
        plan.crowd = system.crowd(plan.crowd);
        let population = Population::start(&plan, &system.target());
        let mut steps = Vec::new();
        let ended_by = self.steps(system, &population, plan.seed, after, interrupt, &mut steps).err();
        let ledger = population.finish();
        let cut = if ended_by.is_none() { system.cut() } else { None };
        Outcome { ledger, steps, cut, incidents: system.incidents(), ended_by }
    }

    fn steps(
        self,
        system: &mut dyn System,
        population: &Population,
        seed: u64,
        after: Duration,
        interrupt: Option<&Receiver<()>>,
        steps: &mut Vec<Duration>,
    ) -> Result<(), String> {
        let mut random = Random::new(seed, STREAM);
        let all = system.workers().len();
        rest(interrupt, BEFORE)?;
        let count = match self {
            Self::Idle(duration) => return rest(interrupt, duration),
            Self::Reload(count) | Self::KillAll(count) => count,
        };
        for number in 1..=count {
            let begun = Instant::now();
            match self {
                Self::Idle(_) => {}
                Self::Reload(_) => {
                    population.begin(format!("reload {number}"));
                    system.reload()?;
                    steps.push(begun.elapsed());
                    population.begin(format!("the time after reload {number}"));
                }
                Self::KillAll(_) => {
                    population.begin(format!("kill {number}"));
                    kill(system, all)?;
                    // Whoever connects from now on finds nobody.
                    if !population.wait_served(Instant::now(), SERVED_AGAIN) {
                        return Err(format!("nobody was served for {SERVED_AGAIN:?} after kill {number}"));
                    }
                    steps.push(begun.elapsed());
                }
            }
            rest(interrupt, random.around(BETWEEN))?;
        }
        rest(interrupt, after)
    }
}

/// Kills all workers at once with what they have started, as soon as there are so many again.
fn kill(system: &dyn System, all: usize) -> Result<(), String> {
    if all == 0 {
        return Err("which processes are its workers is not known".to_owned());
    }
    let workers = eventually("all workers", || Some(system.workers()).filter(|workers| workers.len() >= all));
    let started: Vec<_> = workers.iter().flat_map(|worker| process::descendants(*worker)).collect();
    for worker in workers {
        process::kill(worker, Signal::KILL);
    }
    for process in started {
        process.signal(Signal::KILL);
    }
    Ok(())
}

fn rest(interrupt: Option<&Receiver<()>>, time: Duration) -> Result<(), String> {
    let (_never, nothing) = std::sync::mpsc::sync_channel(0);
    match interrupt.unwrap_or(&nothing).recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Err("interrupted".to_owned()),
    }
}
