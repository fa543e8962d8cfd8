//! Limits of open connections, one by one.

use super::*;
use crate::ids::AppId;

const APP: AppId = AppId(1);

impl Desk {
    /// Returns a desk with one line and this many workers on it, all of which count, and may have so many connections.
    fn with_limits(count: usize, per_worker: Option<u64>, per_app: Option<u64>) -> (Self, LineId) {
        Self::limited(Choice::InTurn, count, per_worker, per_app)
    }

    fn limited(
        choice: Choice,
        count: usize,
        per_worker: Option<u64>,
        per_app: Option<u64>,
    ) -> (Self, LineId) {
        let mut desk = Self::new();
        let limits = Limits { app: APP, per_worker, per_app };
        let line = desk.board.add_line(choice);
        desk.board.limit_line(line, limits);
        for slot in 0..count {
            let seat = desk.board.add_seat(WINDOW, 0, Slot(slot as u32));
            desk.join(line, seat);
            desk.rotate(seat, true);
            desk.board.limit_seat(seat, limits);
            desk.board.will_count(seat);
        }
        (desk, line)
    }

    fn report(&mut self, seat: SeatId, open: u64) {
        self.board.counted(seat, open, self.now, &mut self.post);
    }

    fn can_accept(&self, line: LineId) -> bool {
        self.board.can_accept(line, self.now)
    }

    fn is_overloaded(&self, line: LineId) -> bool {
        self.board.is_overloaded(line, self.now)
    }

    fn connect_with(&mut self, line: LineId, key: Key) {
        let connection = Rc::new(self.connections.len() as u32 + 1);
        self.connections.push(Rc::downgrade(&connection));
        self.board.connect(line, Arrival::new(connection, Some(key)), self.now, &mut self.post);
    }
}

#[test]
fn a_full_worker_gets_nothing_until_it_says_that_it_has_room() {
    let (mut desk, line) = Desk::with_limits(2, Some(1), None);
    desk.connect(line, 2);
    assert_eq!(desk.told(), "1→A 2→B");
    assert!(!desk.can_accept(line) && desk.is_overloaded(line), "what is unanswered counts");
    desk.accept(A);
    assert!(!desk.can_accept(line), "what it took counts on");
    desk.connect(line, 1);
    assert_eq!(desk.told(), "", "one that came all the same waits");
    desk.report(A, 1);
    assert!(!desk.can_accept(line));
    desk.report(A, 0);
    assert_eq!(desk.told(), "3→A");
}

#[test]
fn all_workers_together_have_no_more_than_they_may() {
    let (mut desk, line) = Desk::with_limits(3, None, Some(2));
    desk.connect(line, 3);
    assert_eq!(desk.told(), "1→A 2→B");
    assert_eq!(desk.board.engaged(APP), 2);
    desk.accept(A);
    desk.report(A, 0);
    assert_eq!(desk.told(), "3→C");
    desk.end(B);
    assert_eq!(desk.told(), "2→A", "what the dead one had not taken is no new one");
}

#[test]
fn what_moves_is_not_refused() {
    let (mut desk, line) = Desk::with_limits(1, Some(1), Some(1));
    desk.connect(line, 1);
    desk.accept(A);
    desk.give_back(line, A);
    assert_eq!(desk.told(), "1→A 2→A");
    desk.connect(line, 1);
    desk.accept(A);
    desk.report(A, 1);
    assert_eq!(desk.told(), "");
    desk.give_back(line, A);
    assert_eq!(desk.told(), "4→A", "although one waits in front of it");
}

#[test]
fn only_limits_are_an_overload() {
    let (mut desk, line) = Desk::with_limits(1, Some(100), None);
    assert!(!desk.is_overloaded(line));
    desk.connect(line, WINDOW);
    assert!(!desk.can_accept(line) && !desk.is_overloaded(line), "it is busy, and not full");
    desk.report(A, 100);
    assert!(desk.is_overloaded(line));
    desk.rotate(A, false);
    assert!(!desk.is_overloaded(line), "nobody is there");
}

#[test]
fn workers_that_say_nonsense_are_full_and_nothing_else_happens() {
    let (mut desk, line) = Desk::with_limits(2, None, Some(10));
    desk.report(A, u64::MAX);
    desk.report(B, u64::MAX);
    desk.connect(line, 1);
    assert_eq!(desk.told(), "");
    desk.report(A, 1);
    desk.end(B);
    assert_eq!(desk.told(), "1→A");
}

#[test]
fn whoever_does_not_count_is_told_and_not_limited() {
    let (mut desk, line) = Desk::with_limits(1, Some(2), None);
    desk.board.counts_no_more(A);
    desk.connect(line, 2);
    desk.accept(A);
    assert_eq!(desk.notices(), [Notice::Uncounted(A)]);
    desk.accept(A);
    assert_eq!(desk.notices(), [], "once");
    desk.connect(line, 5);
    assert_eq!(desk.told(), "1→A 2→A 3→A 4→A 5→A 6→A 7→A");
}

#[test]
fn those_who_wait_for_a_full_worker_are_few_and_do_not_wait_for_ever() {
    let (mut desk, line) = Desk::limited(Choice::ByKey, 2, Some(1), None);
    let keys: Vec<Key> = (0..50_u64).map(|number| Key::of(&number.to_ne_bytes())).collect();
    let slot_of = |key: &Key| u32::from(key.weight(1) > key.weight(0));
    let ofs = |slot: u32| keys.iter().copied().find(|key| slot_of(key) == slot).expect("there are some");
    let (first, second) = (ofs(0), ofs(1));
    let reception = |desk: &Desk, key| desk.board.reception(line, key, desk.now);
    assert_eq!(reception(&desk, first), Reception::Free);
    desk.connect_with(line, first);
    assert_eq!((desk.told().as_str(), reception(&desk, first)), ("1→A", Reception::Full));
    let begin = desk.now;
    let mut waiting = 0;
    while reception(&desk, first) == Reception::Full {
        desk.connect_with(line, first);
        waiting += 1;
    }
    assert!(waiting < MOST_WAITING, "{waiting} wait");
    assert!(desk.can_accept(line), "the other one has room");
    desk.connect_with(line, second);
    assert_eq!(desk.told(), format!("{}→B", waiting + 2));
    assert_eq!(desk.board.kept_out_since(line), Some(begin));
    desk.pass(Duration::from_secs(1));
    assert_eq!(desk.board.drop_kept_out(line, begin), waiting as u64);
    assert_eq!((desk.board.kept_out_since(line), reception(&desk, first)), (None, Reception::Full));
}

#[test]
fn a_rest_ends_by_itself_and_what_waited_is_handed_over() {
    let (mut desk, line) = Desk::with_workers(1);
    assert!(!desk.board.has_other_taker(line, A, desk.now), "it is alone");
    desk.board.rest(A, desk.now + milliseconds(50));
    desk.connect(line, 1);
    assert_eq!(desk.told(), "");
    assert_eq!(desk.ring(), milliseconds(50));
    assert_eq!(desk.told(), "1→A");
}
