//! Workers that leave alone what they were given, while others answer.

use super::super::progress::LATE_AFTER;
use super::*;

/// The choices where a connection belongs to nobody.
const FREE_CHOICES: [Choice; 3] = [Choice::InTurn, Choice::Least, Choice::Asked];

impl Desk {
    /// Everybody but this one answers everything.
    fn accept_all_but(&mut self, blocked: SeatId) {
        while let Some((seat, _)) = self.post.out.iter().copied().find(|(seat, _)| *seat != blocked) {
            self.accept(seat);
        }
    }

    /// Returns how many connections a worker got since the last call of [`told`](Self::told).
    fn given_to(&mut self, seat: SeatId) -> usize {
        let end = format!("→{}", char::from(b'A' + seat.0 as u8));
        self.told().split(' ').filter(|told| told.ends_with(&end)).count()
    }

    /// Lets so many clients come, one after each `pause`; others than the blocked one answer at once.
    fn come_while(&mut self, line: LineId, clients: usize, pause: Duration, blocked: SeatId) {
        for _ in 0..clients {
            self.connect(line, 1);
            self.accept_all_but(blocked);
            self.wait(pause);
        }
    }
}

#[test]
fn a_blocked_worker_gets_one_connection_where_few_come() {
    for choice in FREE_CHOICES {
        let (mut desk, line) = Desk::with_workers_by(choice, 4);
        desk.come_while(line, 200, Duration::from_micros(2_500), A);
        let given = desk.given_to(A);
        assert!((1..=2).contains(&given), "{choice:?}: {given} of 200");
    }
}

#[test]
fn a_blocked_worker_gets_no_more_than_the_slack_where_many_come() {
    for pause in [10, 50, 200, 1_000] {
        let (mut desk, line) = Desk::with_workers(4);
        desk.come_while(line, 500, Duration::from_micros(pause), A);
        let given = desk.given_to(A);
        assert!((1..=SLACK + 1).contains(&given), "every {pause} us: {given} of 500");
    }
}

#[test]
fn one_that_answers_again_gets_its_share() {
    for choice in FREE_CHOICES {
        let (mut desk, line) = Desk::with_workers_by(choice, 4);
        desk.come_while(line, 40, milliseconds(5), A);
        while desk.board.unanswered(A) > 0 {
            desk.accept(A);
        }
        desk.told();
        // Nobody blocks.
        desk.come_while(line, 40, milliseconds(5), SeatId(9));
        let given = desk.given_to(A);
        assert!((10..=20).contains(&given), "{choice:?}: {given} of 40");
    }
}

#[test]
fn where_nobody_answers_nobody_is_late() {
    for choice in FREE_CHOICES {
        let (mut desk, line) = Desk::with_workers_by(choice, 3);
        for _ in 0..3 {
            desk.connect(line, 3);
            desk.pass(LATE_AFTER * 10);
        }
        assert_eq!(desk.told(), "1→A 2→B 3→C 4→A 5→B 6→C 7→A 8→B 9→C", "{choice:?}");
    }
}

#[test]
fn one_that_is_silent_is_late_where_another_one_has_nothing_to_do() {
    let (mut desk, line) = Desk::with_workers_by(Choice::Least, 2);
    // One has more connections all the time: by these alone every new one would be the other one's.
    for _ in 0..20 {
        desk.connect(line, 2);
        desk.accept(A);
        desk.accept(B);
    }
    desk.board.counted(A, 0, desk.now, &mut desk.post);
    desk.board.counted(B, 20, desk.now, &mut desk.post);
    desk.told();
    desk.come_while(line, 40, milliseconds(20), A);
    assert_eq!(desk.given_to(A), 1);
}

#[test]
fn late_workers_are_better_than_none() {
    for choice in FREE_CHOICES {
        let (mut desk, line) = Desk::with_workers_by(choice, 3);
        desk.connect(line, 3);
        desk.accept(C);
        desk.pass(LATE_AFTER);
        desk.connect(line, 1);
        assert_eq!(desk.told(), "1→A 2→B 3→C 4→C", "{choice:?}");
        desk.rotate(C, false);
        desk.connect(line, 2);
        assert_eq!(desk.told(), "5→A 6→B", "{choice:?}");
    }
}

#[test]
fn one_that_works_through_what_it_has_is_not_late() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 8);
    desk.accept_all_but(A);
    // It answers one after the other: the last one after a time for which nobody may be silent.
    for _ in 0..4 {
        desk.pass(LATE_AFTER * 3 / 4);
        desk.accept(A);
        desk.told();
        desk.connect(line, 2);
        assert_eq!(desk.given_to(A), 1);
        desk.accept_all_but(A);
    }
}

#[test]
fn a_worker_that_owes_an_acknowledgement_or_a_pong_alone_is_late_too() {
    for choice in FREE_CHOICES {
        let (mut desk, line) = Desk::with_workers_by(choice, 2);
        desk.board.sent_other(A, desk.now);
        assert!(desk.board.pinged(B, desk.now));
        desk.connect(line, 2);
        for seat in [A, B] {
            let seq = desk.next_out(seat);
            assert!(desk.reply(seat, seq, true));
        }
        desk.told();
        desk.pass(LATE_AFTER);
        desk.connect(line, 2);
        assert_eq!(desk.told(), "3→A 4→B", "{choice:?}: both owe something, and nobody answers");
        let seq = desk.next_out(A);
        assert!(desk.reply(A, seq, true));
        desk.connect(line, 2);
        assert_eq!(desk.told(), "5→A 6→A", "{choice:?}: the other one has been silent");
    }
}

#[test]
fn a_worker_that_leaves_a_ping_alone_gets_nothing_while_others_answer_theirs() {
    for choice in FREE_CHOICES {
        let (mut desk, line) = Desk::with_workers_by(choice, 2);
        assert!(desk.board.pinged(A, desk.now) && desk.board.pinged(B, desk.now));
        desk.board.ponged(B, desk.now, &mut desk.post);
        desk.pass(LATE_AFTER);
        desk.connect(line, 2);
        assert_eq!(desk.told(), "1→B 2→B", "{choice:?}");
        desk.board.ponged(A, desk.now, &mut desk.post);
        desk.connect(line, 2);
        assert_eq!(desk.given_to(A), if choice == Choice::Least { 2 } else { 1 }, "{choice:?}");
    }
}

#[test]
fn what_others_answer_at_one_listener_counts_at_another_one() {
    let (mut desk, busy) = Desk::with_workers(2);
    let quiet = desk.board.add_line(Choice::InTurn);
    desk.join(quiet, A);
    desk.join(quiet, B);
    desk.connect(busy, 2);
    desk.accept(B);
    desk.pass(LATE_AFTER);
    desk.told();
    desk.connect(quiet, 1);
    assert_eq!(desk.told(), "3→B");
}

#[test]
fn where_a_connection_belongs_matters_more() {
    let (mut desk, line) = Desk::with_workers_by(Choice::ByKey, 1);
    let key = Key::of(b"somebody");
    let second = desk.board.add_seat(WINDOW, 0, Slot(1));
    desk.join(line, second);
    desk.rotate(second, true);
    let owner = if key.weight(0) > key.weight(1) { A } else { B };
    desk.connect(line, 2);
    desk.accept_all_but(owner);
    desk.pass(LATE_AFTER);
    desk.told();
    let connection = Rc::new(100);
    desk.board.connect(line, Arrival::new(connection, Some(key)), desk.now, &mut desk.post);
    assert_eq!(desk.given_to(owner), 1);
}
