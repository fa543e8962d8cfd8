//! Kills and stops workers at random moments, and never all of them at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Instant;

use worksong_testkit::{Signal, Worksong, process};

use crate::client::Client;

/// A worker stands still for at most so many times the longest pause between two blows.
const STANDSTILL: u32 = 16;

/// What will be done to the workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attack {
    /// SIGKILLs, also of workers that are stopped.
    pub(crate) kills: usize,
    /// SIGSTOPs; most are followed by SIGCONT, the others by SIGKILL.
    pub(crate) stops: usize,
    pub(crate) seed: u64,
    /// At most so many connections are opened between two blows.
    pub(crate) pause: u32,
}

/// What was done to the workers.
#[derive(Debug, Default)]
pub(crate) struct Casualties {
    /// The pids of the killed workers, with the time right before.
    pub(crate) killed: HashMap<u32, Instant>,
    stops: usize,
    killed_while_stopped: usize,
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kills and {} stops by seed {}", self.kills, self.stops, self.seed)
    }
}

impl fmt::Display for Casualties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} killed, {} of them while stopped", self.killed.len(), self.killed_while_stopped)
    }
}

impl Attack {
    /// Does it, while the client goes on; `last_look` is called with the pid before each kill.
    pub(crate) fn run(
        self,
        cluster: &Worksong,
        client: &Client,
        mut last_look: impl FnMut(u32),
    ) -> Casualties {
        let mut random = Random(self.seed);
        let mut done = Casualties::default();
        // Pids, with the number of connections after which it goes on.
        let mut stopped: BTreeMap<u32, u32> = BTreeMap::new();
        let mut kill = |pid: u32, done: &mut Casualties| {
            last_look(pid);
            done.killed.insert(pid, Instant::now());
            assert!(process::kill(pid, Signal::KILL), "worker {pid} has ended before it was killed");
            cluster.wait_event("exit", |event| event.pid() == pid);
        };
        while done.killed.len() < self.kills || done.stops < self.stops || !stopped.is_empty() {
            client.wait_for_more(1 + random.below(self.pause));
            let due = client.opened();
            while let Some(pid) = stopped.iter().find(|(_, until)| **until <= due).map(|(pid, _)| *pid) {
                stopped.remove(&pid);
                if random.below(3) == 0 && done.killed.len() < self.kills {
                    kill(pid, &mut done);
                    done.killed_while_stopped += 1;
                } else {
                    process::kill(pid, Signal::CONT);
                }
            }
            let mut running = cluster.wait_ready(1);
            running.retain(|pid| !stopped.contains_key(pid));
            if running.len() < 2 {
                continue;
            }
            let victim = random.below(running.len() as u32) as usize;
            let Some(victim) = running.into_iter().nth(victim) else { continue };
            let (kills, stops) = (self.kills - done.killed.len(), self.stops - done.stops);
            if (random.below((kills + stops).max(1) as u32) as usize) < stops {
                process::kill(victim, Signal::STOP);
                done.stops += 1;
                stopped.insert(victim, client.opened() + random.below(self.pause * STANDSTILL));
            } else if kills > 0 {
                kill(victim, &mut done);
            }
        }
        done
    }
}

/// Random numbers by their seed (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// Returns a number from 0 to `limit - 1`.
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits % u64::from(limit)) as u32
    }
}
