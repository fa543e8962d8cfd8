//! Where connections with keys go, and whom they wait for.

use super::arrivals::MOST_WAITING;
use super::choice::EXPECTED_FOR;
use super::*;
use crate::ids::AppId;

const D: SeatId = SeatId(3);

impl Desk {
    /// Returns a desk with one line by key, and a worker in rotation in each of so many slots.
    fn with_slots(count: u32) -> (Self, LineId) {
        let mut desk = Self::new();
        let line = desk.board.add_line(Choice::ByKey);
        for slot in 0..count {
            desk.fill(line, slot, slot);
        }
        (desk, line)
    }

    /// Adds a worker in rotation in a slot.
    fn fill(&mut self, line: LineId, slot: u32, rank: u32) -> SeatId {
        let seat = self.board.add_seat(WINDOW, rank, Slot(slot));
        self.join(line, seat);
        self.rotate(seat, true);
        seat
    }

    /// Connects a client with this key, numbered like all.
    fn come(&mut self, line: LineId, key: Key) {
        let connection = Rc::new(self.connections.len() as u32 + 1);
        self.connections.push(Rc::downgrade(&connection));
        self.board.connect(line, Arrival::new(connection, Some(key)), self.now, &mut self.post);
    }

    /// Connects a client with this key, and returns the worker that takes it.
    fn goes_to(&mut self, line: LineId, key: Key) -> SeatId {
        self.come(line, key);
        let (seat, _) = *self.post.out.last().expect("it is handed over");
        self.accept(seat);
        seat
    }
}

fn keys(count: u32) -> impl Iterator<Item = Key> {
    (0..count).map(|user| Key::of(format!("user-{user}").as_bytes()))
}

/// Returns a key that wants these of the first three slots in this order.
fn wanting(first: u32, second: u32) -> Key {
    let order = |key: &Key| {
        let mut slots = [0, 1, 2];
        slots.sort_by_key(|slot| std::cmp::Reverse(key.weight(*slot)));
        slots
    };
    keys(1000).find(|key| order(key)[..2] == [first, second]).expect("one of so many does")
}

#[test]
fn a_key_goes_to_one_slot() {
    let (mut desk, line) = Desk::with_slots(4);
    let first: Vec<SeatId> = keys(200).map(|key| desk.goes_to(line, key)).collect();
    for _ in 0..3 {
        let again: Vec<SeatId> = keys(200).map(|key| desk.goes_to(line, key)).collect();
        assert_eq!(again, first);
    }
    let all: BTreeSet<SeatId> = first.into_iter().collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn a_slot_more_moves_only_what_comes_to_it_and_a_slot_less_only_what_was_there() {
    let (mut desk, line) = Desk::with_slots(4);
    let four: Vec<SeatId> = keys(500).map(|key| desk.goes_to(line, key)).collect();
    let fifth = desk.fill(line, 4, 9);
    let five: Vec<SeatId> = keys(500).map(|key| desk.goes_to(line, key)).collect();
    let moved: Vec<SeatId> =
        four.iter().zip(&five).filter(|(before, now)| before != now).map(|(_, now)| *now).collect();
    assert!(moved.iter().all(|now| *now == fifth));
    assert!((70..130).contains(&moved.len()), "{} of 500", moved.len());
    desk.rotate(fifth, false);
    desk.end(fifth);
    assert!(keys(500).map(|key| desk.goes_to(line, key)).eq(four), "they are back");
}

#[test]
fn a_busy_owner_holds_up_nobody_else() {
    let (mut desk, line) = Desk::with_slots(3);
    let (for_a, for_b) = (wanting(0, 1), wanting(1, 0));
    (0..WINDOW + 2).for_each(|_| desk.come(line, for_a));
    desk.told();
    assert!(desk.board.can_accept(line, desk.now));
    desk.come(line, for_b);
    desk.come(line, for_a);
    assert_eq!(desk.told(), "19→B");
    desk.accept(B);
    assert_eq!(desk.told(), "", "what waits for A waits for A");
    (0..3).for_each(|_| desk.accept(A));
    assert_eq!(desk.told(), "17→A 18→A 20→A");
}

#[test]
fn those_that_wait_for_a_busy_owner_are_in_the_way_of_its_slot_only() {
    let (mut desk, line) = Desk::with_slots(3);
    (0..=WINDOW).for_each(|_| desk.come(line, wanting(0, 1)));
    assert_eq!([0, 1, 2].map(|slot| desk.board.is_congested(line, Slot(slot))), [true, false, false]);
    for seat in [A, B, C] {
        desk.rotate(seat, false);
    }
    desk.come(line, wanting(1, 2));
    assert!(!desk.board.is_congested(line, Slot(1)), "nobody is there who would take what one gives");
}

#[test]
fn so_many_wait_and_no_more() {
    let (mut desk, line) = Desk::with_slots(3);
    let for_a = wanting(0, 1);
    (0..WINDOW + MOST_WAITING - 1).for_each(|_| desk.come(line, for_a));
    assert!(desk.board.can_accept(line, desk.now));
    desk.come(line, for_a);
    assert!(!desk.board.can_accept(line, desk.now), "the kernel keeps what comes now");
    desk.accept(A);
    assert!(desk.board.can_accept(line, desk.now));
}

#[test]
fn an_overdue_owner_is_passed_by_until_it_answers() {
    let (mut desk, line) = Desk::with_slots(3);
    let for_a = wanting(0, 2);
    (0..=WINDOW).for_each(|_| desk.come(line, for_a));
    desk.told();
    desk.wait(OVERDUE_AFTER.saturating_sub(CHECK_EVERY));
    assert_eq!(desk.told(), "");
    desk.wait(CHECK_EVERY * 2);
    assert_eq!(desk.told(), "17→C");
    desk.come(line, for_a);
    assert_eq!(desk.told(), "18→C");
    (0..WINDOW).for_each(|_| desk.accept(A));
    desk.come(line, for_a);
    assert_eq!(desk.told(), "19→A");
}

#[test]
fn a_refusing_owner_is_passed_by_for_a_moment() {
    let (mut desk, line) = Desk::with_slots(3);
    let for_a = wanting(0, 2);
    desk.come(line, for_a);
    desk.refuse(A);
    assert_eq!(desk.told(), "1→A 1→C");
    desk.wait(FIRST_BACK_OFF);
    desk.come(line, for_a);
    assert_eq!(desk.told(), "2→A");
    desk.come(line, for_a);
    assert_eq!(desk.told(), "3→C", "one shows whether it still refuses");
    desk.accept(A);
    desk.come(line, for_a);
    assert_eq!(desk.told(), "4→A");
}

#[test]
fn one_that_closes_its_server_is_waited_for_no_more() {
    let (mut desk, line) = Desk::with_slots(3);
    (0..=WINDOW).for_each(|_| desk.come(line, wanting(0, 2)));
    desk.told();
    desk.leave(line, A);
    assert_eq!(desk.told(), "17→C");
}

#[test]
fn one_whose_channel_breaks_is_passed_by() {
    let (mut desk, line) = Desk::with_slots(3);
    let for_a = wanting(0, 2);
    (0..WINDOW + 2).for_each(|_| desk.come(line, for_a));
    desk.told();
    desk.post.broken.insert(A);
    desk.accept(A);
    assert_eq!(desk.told(), "17→C 18→C", "those behind the first one, too");
}

#[test]
fn the_next_worker_of_one_that_ended_suddenly_is_waited_for() {
    let (mut desk, line) = Desk::with_slots(3);
    let (for_a, for_b) = (wanting(0, 1), wanting(1, 0));
    desk.come(line, for_a);
    desk.end(A);
    desk.come(line, for_a);
    desk.come(line, for_b);
    assert_eq!(desk.told(), "1→A 3→B", "others need not wait");
    desk.pass(milliseconds(1900));
    let heir = desk.fill(line, 0, 7);
    assert_eq!((heir, desk.told().as_str()), (A, "1→A 2→A"));
    desk.end(B);
    desk.come(line, for_b);
    assert_eq!(desk.told(), "", "the next end is waited for as well");
}

#[test]
fn one_that_does_not_come_is_waited_for_so_long() {
    let (mut desk, line) = Desk::with_slots(3);
    let for_a = wanting(0, 2);
    desk.end(A);
    desk.come(line, for_a);
    let (waited, told) = desk.ring_until_told();
    assert_eq!((waited, told.as_str()), (EXPECTED_FOR, "1→C"));
    desk.come(line, for_a);
    assert_eq!(desk.told(), "2→C");
    desk.fill(line, 0, 7);
    desk.come(line, for_a);
    assert_eq!(desk.told(), "3→A", "it comes late, and has what is its own");
}

#[test]
fn the_last_worker_is_waited_for_as_well() {
    let (mut desk, line) = Desk::with_slots(1);
    desk.end(A);
    assert!(!desk.board.can_accept(line, desk.now), "the kernel keeps what comes now");
    desk.come(line, wanting(0, 1));
    desk.wait(EXPECTED_FOR * 2);
    assert_eq!(desk.told(), "");
    desk.fill(line, 0, 7);
    assert_eq!(desk.told(), "1→A");
}

#[test]
fn nobody_is_waited_for_after_one_that_was_told_to_leave() {
    let (mut desk, line) = Desk::with_slots(3);
    let for_a = wanting(0, 2);
    desk.rotate(A, false);
    desk.come(line, for_a);
    desk.end(A);
    desk.come(line, for_a);
    assert_eq!(desk.told(), "1→C 2→C");
    assert_eq!(desk.board.next_deadline().map(|at| at - desk.now), Some(CHECK_EVERY));
}

#[test]
fn a_reload_moves_none_to_another_slot() {
    let (mut desk, line) = Desk::with_slots(3);
    let before: Vec<SeatId> = keys(100).map(|key| desk.goes_to(line, key)).collect();
    let heir = desk.fill(line, 0, 7);
    let renewed = |seat: SeatId| if seat == A { heir } else { seat };
    let beside: Vec<SeatId> = keys(100).map(|key| desk.goes_to(line, key)).collect();
    assert!(before.iter().map(|seat| renewed(*seat)).eq(beside.iter().copied()), "the newer one of a slot");
    desk.rotate(A, false);
    desk.end(A);
    assert!(keys(100).map(|key| desk.goes_to(line, key)).eq(beside));
}

#[test]
fn what_a_worker_gives_back_stays_with_its_slot() {
    let (mut desk, line) = Desk::with_slots(3);
    let heir = desk.fill(line, 1, 7);
    desk.fill(line, 2, 8);
    desk.rotate(B, false);
    (0..3).for_each(|_| desk.give_back(line, B));
    assert_eq!((heir, desk.told().as_str()), (D, "1→D 2→D 3→D"));
    // Without one that could take it, it goes to anybody rather than nowhere.
    desk.rotate(heir, false);
    desk.give_back(line, B);
    assert!(desk.told().starts_with("4→"));
}

#[test]
fn what_a_worker_gives_back_waits_for_its_slot() {
    let (mut desk, line) = Desk::with_slots(3);
    let heir = desk.fill(line, 1, 7);
    desk.rotate(B, false);
    (0..WINDOW).for_each(|_| desk.come(line, wanting(1, 0)));
    desk.told();
    desk.give_back(line, B);
    assert_eq!(desk.told(), "", "its worker is busy");
    desk.accept(heir);
    assert_eq!(desk.told(), "17→D");
    (0..WINDOW).for_each(|_| desk.accept(heir));
    desk.end(heir);
    desk.give_back(line, B);
    assert_eq!(desk.told(), "", "its worker is to come");
    desk.fill(line, 1, 9);
    assert_eq!(desk.told(), "18→D");
}

#[test]
fn without_keys_workers_take_turns() {
    let (mut desk, line) = Desk::with_slots(2);
    desk.connect(line, 3);
    assert_eq!(desk.told(), "1→A 2→B 3→A");
}

#[test]
fn a_connection_that_is_looked_at_is_accounted_for() {
    let (mut desk, line) = Desk::with_slots(3);
    let look_at = |desk: &mut Desk| desk.board.look_at(line);
    look_at(&mut desk);
    look_at(&mut desk);
    assert!(desk.board.has_unfinished(line) && !desk.board.is_waiting(line));
    let connection = Rc::new(1);
    desk.board.connect(line, Arrival::looked_at(connection, Some(wanting(2, 0))), desk.now, &mut desk.post);
    assert_eq!(desk.told(), "1→C");
    desk.accept(C);
    assert!(desk.board.has_unfinished(line), "one is still looked at");
    assert_eq!(desk.board.remove_line(line), 1);
    let Tally { accepted, handed_over, dropped, .. } = desk.board.tally();
    assert_eq!((accepted, handed_over, dropped), (2, 1, 1));
}

#[test]
fn a_worker_that_another_line_shows_to_be_broken_is_waited_for_no_more() {
    let (mut desk, web) = Desk::with_slots(2);
    let api = desk.board.add_line(Choice::InTurn);
    let key = wanting(0, 1);
    let limits = Limits { app: AppId(0), per_worker: Some(1), per_app: None };
    desk.board.limit_seat(A, limits);
    desk.come(web, key);
    desk.come(web, key);
    assert_eq!(desk.told(), "1→A", "the second one waits for it");
    desk.post.broken.insert(A);
    desk.join(api, A);
    // What moves is kept out by no limit, and finds the channel broken.
    desk.give_back(api, B);
    assert_eq!(desk.told(), "2→B");
}
