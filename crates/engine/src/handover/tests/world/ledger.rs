//! The book-keeper of the simulation: where each connection is, as seen from outside the switchboard.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::*;

/// A connection, whose descriptor is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) number: u32,
    closings: Rc<RefCell<Vec<u32>>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closings.borrow_mut().push(self.number);
    }
}

/// Where every connection is that has not ended.
#[derive(Default)]
pub(crate) struct Ledger {
    open: BTreeMap<u32, Entry>,
    closings: Rc<RefCell<Vec<u32>>>,
    removed_lines: BTreeSet<LineId>,
    /// How the workers of each line share its connections.
    choices: BTreeMap<LineId, Choice>,
    accepted: u64,
    moved: u64,
    handed_over: u64,
    dropped: u64,
    turned_away: u64,
    refused: u64,
    pub(crate) count: Count,
}

#[derive(Debug)]
struct Entry {
    line: LineId,
    home: Home,
    is_moved: bool,
    place: Place,
    /// The worker that gave it to its program.
    taken_by: Option<u32>,
    deliveries: u32,
    /// How often it came back: refusals, NACKs and deaths.
    returns: u32,
}

/// Where a connection belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Anywhere,
    Owner(Key),
    Slot(Slot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// With the switchboard.
    Held,
    /// To be closed: nobody was ready for too long.
    GivenUp,
    /// On its way to this worker, or with it and unanswered.
    Out(u32),
    /// The primary was told that it is taken.
    Taken,
}

impl Ledger {
    pub(super) fn open(&mut self, line: LineId, key: Option<Key>) -> Connection {
        self.accepted += 1;
        self.hold(line, key.map_or(Home::Anywhere, Home::Owner), false)
    }

    /// A worker gives back what it had taken: for the switchboard it is one more connection.
    pub(super) fn open_again(&mut self, line: LineId, slot: Option<Slot>) -> Connection {
        self.moved += 1;
        self.count("moved");
        self.hold(line, slot.map_or(Home::Anywhere, Home::Slot), true)
    }

    fn hold(&mut self, line: LineId, home: Home, is_moved: bool) -> Connection {
        let number = (self.accepted + self.moved) as u32;
        let entry =
            Entry { line, home, is_moved, place: Place::Held, taken_by: None, deliveries: 0, returns: 0 };
        self.open.insert(number, entry);
        Connection { number, closings: Rc::clone(&self.closings) }
    }

    fn entry(&mut self, connection: u32) -> &mut Entry {
        self.open.get_mut(&connection).expect("a connection that has ended is touched")
    }

    pub(super) fn deliver(&mut self, connection: u32, line: LineId, worker: u32) {
        let entry = self.entry(connection);
        assert_eq!(entry.line, line, "it belongs to another listener");
        assert_eq!(entry.place, Place::Held, "two workers have connection {connection}");
        assert_eq!(entry.taken_by, None, "connection {connection} was taken before");
        entry.place = Place::Out(worker);
        entry.deliveries += 1;
        assert_eq!(entry.deliveries, entry.returns + 1, "one delivery, and one for each return");
    }

    /// The worker gives the connection to its program.
    pub(super) fn take(&mut self, connection: u32, worker: u32) {
        let entry = self.entry(connection);
        assert_eq!(entry.place, Place::Out(worker), "it is not with worker {worker}");
        assert_eq!(entry.taken_by, None, "it is taken twice");
        entry.taken_by = Some(worker);
    }

    /// The primary is told that the worker took it.
    pub(super) fn hear_taken(&mut self, connection: u32) {
        self.entry(connection).place = Place::Taken;
        self.count("taken");
    }

    /// The primary is told of a refusal or a NACK.
    pub(super) fn hear_refused(&mut self, connection: u32, what: &'static str) {
        self.refused += 1;
        self.bring_back(connection, what);
    }

    /// The connection did not stay with the worker.
    pub(super) fn bring_back(&mut self, connection: u32, what: &'static str) {
        let entry = self.entry(connection);
        assert_eq!(entry.taken_by, None, "it is taken, and that answer is lost");
        entry.place = Place::Held;
        entry.returns += 1;
        self.count(what);
    }

    pub(super) fn add_line(&mut self, line: LineId, choice: Choice) {
        let heir = self.open.values().find(|entry| entry.line == line);
        assert!(heir.is_none(), "a new listener inherits a connection: {heir:?}");
        self.removed_lines.remove(&line);
        self.choices.insert(line, choice);
    }

    pub(super) fn is_by_key(&self, line: LineId) -> bool {
        self.choices.get(&line) == Some(&Choice::ByKey)
    }

    /// Returns true when it depends on the workers alone who gets a connection of this line.
    pub(super) fn is_by_worker(&self, line: LineId) -> bool {
        matches!(self.choices.get(&line), Some(Choice::InTurn | Choice::Least))
    }

    /// Returns where a connection belongs.
    pub(super) fn home_of(&self, connection: u32) -> Home {
        self.open.get(&connection).map_or(Home::Anywhere, |entry| entry.home)
    }

    pub(super) fn is_moved(&self, connection: u32) -> bool {
        self.open.get(&connection).is_some_and(|entry| entry.is_moved)
    }

    /// Returns true when the worker that has it gave it to its program.
    pub(super) fn is_taken(&self, connection: u32) -> bool {
        self.open.get(&connection).is_some_and(|entry| entry.taken_by.is_some())
    }

    /// A connection was accepted and closed: there is no room for it.
    pub(super) fn turn_away(&mut self) {
        self.accepted += 1;
        self.turned_away += 1;
        self.count("turned away");
    }

    /// Returns line and home of every connection that waits where keys choose.
    pub(super) fn held_by_key(&self) -> impl Iterator<Item = (LineId, Home)> {
        let waits = |entry: &&Entry| entry.place == Place::Held && self.is_by_key(entry.line);
        self.open.values().filter(waits).map(|entry| (entry.line, entry.home))
    }

    pub(super) fn remove_line(&mut self, line: LineId) {
        self.removed_lines.insert(line);
        self.count("lines removed");
    }

    /// Draws the conclusions from what was closed since the last call.
    pub(super) fn settle(&mut self) {
        let closed: Vec<u32> = self.closings.borrow_mut().drain(..).collect();
        for connection in closed {
            let entry = self.open.remove(&connection).expect("it is closed twice");
            match entry.place {
                Place::Taken => self.handed_over += 1,
                Place::Held => {
                    assert!(self.removed_lines.contains(&entry.line), "a held connection is lost: {entry:?}");
                    self.dropped += 1;
                    self.count("dropped");
                }
                Place::GivenUp => self.dropped += 1,
                Place::Out(_) => panic!("it is closed before its answer: {entry:?}"),
            }
        }
        for entry in self.open.values() {
            assert_ne!(entry.place, Place::Taken, "it is taken, and still open here");
            assert_ne!(entry.place, Place::GivenUp, "it was not closed");
            let is_doomed = entry.place == Place::Held && self.removed_lines.contains(&entry.line);
            assert!(!is_doomed, "its listener is gone, and it is still open here");
        }
    }

    pub(super) fn failed_deliveries(&self) -> u64 {
        ["channels full", "channels broken"].iter().filter_map(|what| self.count.get(what)).sum()
    }

    /// Returns the worker that was given the connection, if one was.
    pub(super) fn worker_of(&self, connection: u32) -> Option<u32> {
        match self.open.get(&connection)?.place {
            Place::Out(worker) => Some(worker),
            Place::Held | Place::GivenUp | Place::Taken => None,
        }
    }

    /// Returns the line of every connection that waits at the switchboard.
    pub(super) fn held(&self) -> impl Iterator<Item = LineId> {
        self.open.values().filter(|entry| entry.place == Place::Held).map(|entry| entry.line)
    }

    pub(super) fn held_lines(&self) -> BTreeSet<LineId> {
        self.held().collect()
    }

    /// What waits for this line is to be closed now. Returns how many that are.
    pub(super) fn give_up(&mut self, line: LineId) -> u64 {
        let held = self.open.values_mut().filter(|entry| entry.place == Place::Held && entry.line == line);
        held.map(|entry| entry.place = Place::GivenUp).count() as u64
    }

    pub(crate) fn has_ended_all(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn compare(&self, tally: Tally) {
        let Tally { accepted, moved, handed_over, dropped, turned_away, refused, redispatched: _ } = tally;
        let (counted, seen) = (
            (accepted, moved, handed_over, dropped, turned_away, refused),
            (self.accepted, self.moved, self.handed_over, self.dropped, self.turned_away, self.refused),
        );
        assert_eq!(
            counted, seen,
            "accepted, moved, handed over, dropped, turned away, refused: counted and seen"
        );
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.count.entry(what).or_default() += 1;
    }
}
