//! Which worker the next client is sent to: the pure core of `GET /assign`.
//!
//! The load of a worker is the number of open connections at its port, and of clients that were sent there and are not seen yet: between
//! two looks at the kernel's table a burst of clients would all be sent to one worker otherwise. Of equal workers each has its turn.
//! Nobody is sent to a worker that does not listen yet, however little it has to do.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::connections::Found;

/// How old the counts may be.
pub(crate) const COUNTS_LAST: Duration = Duration::from_millis(100);
/// How long a client that was sent to a worker is waited for.
const CLIENT_COMES_WITHIN: Duration = Duration::from_secs(1);
/// How many clients of a worker are waited for. More are not counted, which matters to nobody who is so busy.
const MOST_EXPECTED: usize = 10_000;

/// What is known of the loads of ports.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    ports: BTreeMap<u16, Load>,
    looked_at: Option<Instant>,
    last: Option<u16>,
}

#[derive(Debug, Default)]
struct Load {
    found: Found,
    /// When the clients were sent there that are not seen yet, the first one first.
    expected: VecDeque<Instant>,
}

impl Load {
    fn total(&self) -> u64 {
        self.found.connections + self.expected.len() as u64
    }
}

impl Loads {
    /// Returns true when the connections have to be counted before a choice.
    pub(crate) fn is_old(&self, now: Instant) -> bool {
        self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= COUNTS_LAST)
    }

    /// Learns what there is at these ports; at one that is left out there is nothing. Other ports are forgotten.
    pub(crate) fn count(&mut self, ports: &[u16], all: &BTreeMap<u16, Found>, now: Instant) {
        self.ports.retain(|port, _| ports.contains(port));
        for port in ports {
            let load = self.ports.entry(*port).or_default();
            let found = all.get(port).copied().unwrap_or_default();
            // Those that have come since the last look are the clients that were sent there, as far as one can tell. The latest are
            // crossed out: whoever has come and gone in between is forgotten soon, however many follow.
            let come = found.connections.saturating_sub(load.found.connections);
            let come = usize::try_from(come).unwrap_or(usize::MAX);
            load.expected.truncate(load.expected.len().saturating_sub(come));
            load.found = found;
        }
        self.looked_at = Some(now);
        self.forget_who_does_not_come(now);
    }

    /// Chooses the port with the least load of those where somebody listens, and returns it with that load.
    pub(crate) fn choose(&mut self, ports: &[u16], now: Instant) -> Option<(u16, u64)> {
        self.forget_who_does_not_come(now);
        let listens = |port: &u16| self.ports.get(port).is_some_and(|load| load.found.listens);
        let load_of = |port: u16| self.ports.get(&port).map_or(0, Load::total);
        // The first one after the last one that was chosen.
        let order = |port: u16| (self.last.is_some_and(|last| port <= last), port);
        let open = ports.iter().copied().filter(listens);
        let port = open.min_by_key(|port| (load_of(*port), order(*port)))?;
        let load = load_of(port);
        self.last = Some(port);
        let expected = &mut self.ports.entry(port).or_default().expected;
        if expected.len() < MOST_EXPECTED {
            expected.push_back(now);
        }
        Some((port, load))
    }

    fn forget_who_does_not_come(&mut self, now: Instant) {
        let is_late = |at: &mut Instant| now.saturating_duration_since(*at) >= CLIENT_COMES_WITHIN;
        for load in self.ports.values_mut() {
            while load.expected.pop_front_if(is_late).is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [u16; 3] = [3001, 3002, 3003];

    struct Trial {
        loads: Loads,
        now: Instant,
    }

    impl Trial {
        fn new(connections: [u64; 3]) -> Self {
            let mut trial = Self { loads: Loads::default(), now: Instant::now() };
            trial.count(connections);
            trial
        }

        fn count(&mut self, connections: [u64; 3]) {
            let found = connections.map(|connections| Found { listens: true, connections });
            self.loads.count(&PORTS, &PORTS.into_iter().zip(found).collect(), self.now);
        }

        fn choose(&mut self, times: usize) -> Vec<u16> {
            (0..times).filter_map(|_| Some(self.loads.choose(&PORTS, self.now)?.0)).collect()
        }
    }

    #[test]
    fn who_has_least_gets_the_next() {
        assert_eq!(Trial::new([5, 3, 4]).choose(1), [3002]);
        let mut trial = Trial::new([5, 3, 4]);
        assert_eq!(trial.choose(6), [3002, 3003, 3002, 3003, 3001, 3002], "also between two looks");
    }

    #[test]
    fn equals_have_their_turns() {
        assert_eq!(Trial::new([0, 0, 0]).choose(7), [3001, 3002, 3003, 3001, 3002, 3003, 3001]);
    }

    #[test]
    fn a_client_is_counted_once_when_it_has_come() {
        let mut trial = Trial::new([0, 0, 2]);
        assert_eq!(trial.choose(2), [3001, 3002]);
        trial.count([1, 1, 2]);
        assert_eq!(trial.choose(2), [3001, 3002]);
        // These two are late: they count until they have come.
        trial.count([1, 1, 2]);
        assert_eq!(trial.choose(1), [3003], "all have two, and it is its turn");
        trial.now += CLIENT_COMES_WITHIN;
        assert_eq!(trial.loads.choose(&PORTS, trial.now), Some((3001, 1)), "they do not come");
    }

    #[test]
    fn who_has_come_and_gone_unseen_is_forgotten_however_many_follow() {
        let mut trial = Trial::new([0, 9, 9]);
        assert_eq!(trial.choose(9), [3001; 9]);
        // All nine have left again. From now on one client comes between two looks, and stays.
        for connections in 0..10 {
            trial.now += COUNTS_LAST;
            trial.count([connections, 9, 9]);
            trial.loads.choose(&PORTS[..1], trial.now);
        }
        trial.now += COUNTS_LAST;
        trial.count([10, 9, 9]);
        assert_eq!(trial.loads.choose(&PORTS[..1], trial.now), Some((3001, 10)));
    }

    #[test]
    fn only_those_that_are_there_are_chosen() {
        let mut trial = Trial::new([0, 9, 9]);
        assert_eq!(trial.loads.choose(&PORTS[1..], trial.now), Some((3002, 9)));
        assert_eq!(trial.loads.choose(&[], trial.now), None);
        assert_eq!(trial.loads.choose(&[4000], trial.now), None, "nothing is known of it");
    }

    #[test]
    fn nobody_is_sent_where_nobody_listens() {
        let mut trial = Trial::new([9, 9, 9]);
        let of = |listens, connections| Found { listens, connections };
        let all = [(3001, of(true, 9)), (3002, of(false, 0))];
        trial.loads.count(&PORTS, &BTreeMap::from(all), trial.now);
        assert_eq!(
            trial.choose(3),
            [3001; 3],
            "the second has not begun, the third is unknown to the kernel"
        );
        trial.loads.count(&PORTS, &BTreeMap::new(), trial.now);
        assert_eq!(trial.loads.choose(&PORTS, trial.now), None);
    }

    #[test]
    fn counts_last_a_moment() {
        let trial = Trial::new([0, 0, 0]);
        assert!(!trial.loads.is_old(trial.now));
        assert!(trial.loads.is_old(trial.now + COUNTS_LAST));
        assert!(Loads::default().is_old(trial.now));
    }
}
