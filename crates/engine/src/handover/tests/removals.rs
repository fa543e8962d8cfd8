//! Workers and listeners that go while connections are on their way.

use super::*;

#[test]
fn what_a_dead_worker_had_goes_to_others_in_order_and_before_what_waits() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, WINDOW + 2);
    desk.accept(A);
    desk.told();
    desk.end(A);
    assert_eq!(desk.told(), "", "nobody is there");
    desk.add_worker(line, WINDOW);
    let expected: Vec<String> = (2..=17).map(|number| format!("{number}→A")).collect();
    assert_eq!(desk.told(), expected.join(" "));
    desk.accept(A);
    assert_eq!(desk.told(), "18→A");
    assert_eq!(desk.tally(), (2, 0, 0, 16));
}

#[test]
fn a_dead_worker_is_no_member_of_anything() {
    let (mut desk, web) = Desk::with_workers(1);
    let api = desk.board.add_line(Choice::InTurn);
    desk.join(api, A);
    desk.end(A);
    assert!(!desk.board.has_members(web) && !desk.board.has_members(api));
    desk.join(api, A);
    assert!(!desk.board.has_members(api), "a late message of a worker that is gone");
    desk.end(A);
    desk.rotate(A, true);
    desk.board.writable(A, desk.now, &mut desk.post);
    desk.board.sent_other(A, desk.now);
    assert_eq!(desk.board.next_deadline(), None);
}

#[test]
fn what_waits_for_a_removed_line_is_closed_and_counted() {
    let mut desk = Desk::new();
    let (web, api) = (desk.board.add_line(Choice::InTurn), desk.board.add_line(Choice::InTurn));
    desk.connect(web, 2);
    desk.connect(api, 1);
    desk.board.remove_line(web);
    assert!(desk.is_closed(1) && desk.is_closed(2) && !desk.is_closed(3));
    assert_eq!(desk.tally(), (0, 2, 0, 0));
    desk.connect(web, 1);
    desk.board.remove_line(web);
    assert!(desk.is_closed(4), "accepted just before, with nobody to go to");
    assert_eq!(desk.tally(), (0, 3, 0, 0));
    assert_eq!(desk.board.tally().accepted, 4);
}

#[test]
fn what_was_handed_over_is_still_answered_after_its_line_is_removed() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 6);
    desk.board.remove_line(line);
    assert_eq!(desk.tally(), (0, 0, 0, 0), "the workers may still take all of them");
    assert!(!desk.is_closed(1));
    desk.accept(A);
    desk.refuse(A);
    assert!(desk.nack(B));
    desk.end(B);
    assert_eq!(desk.tally(), (1, 4, 2, 0), "taken; refused, not delivered, and two of a dead worker");
    assert_eq!(desk.board.unanswered(A), 1);
}

#[test]
fn a_new_line_never_gets_the_connections_of_an_old_one() {
    let (mut desk, old) = Desk::with_workers(2);
    desk.connect(old, 1);
    desk.board.remove_line(old);
    let new = desk.board.add_line(Choice::InTurn);
    desk.join(new, A);
    desk.join(new, B);
    desk.told();
    desk.refuse(A);
    assert_eq!(desk.told(), "");
    assert!(desk.is_closed(1));
    assert!(desk.board.can_accept(new, desk.now));
    desk.connect(new, 2);
    assert_eq!(desk.told(), "2→A 3→B", "and a refusal of the old one is no mark against it");
    assert_eq!(
        desk.board.add_line(Choice::InTurn),
        old,
        "its number is free when nothing is on its way for it"
    );
}

#[test]
fn lines_and_seats_that_are_gone_are_no_error() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.board.remove_line(line);
    desk.join(line, A);
    desk.leave(line, A);
    assert!(!desk.board.has_members(line) && !desk.board.can_accept(line, desk.now));
    assert_eq!(desk.board.unanswered(SeatId(9)), 0);
}

#[test]
fn what_a_worker_gives_back_goes_to_a_newer_one() {
    let (mut desk, line) = Desk::with_workers(2);
    let newer = desk.board.add_seat(WINDOW, 1, Slot(0));
    desk.join(line, newer);
    desk.rotate(newer, true);
    for _ in 0..3 {
        desk.give_back(line, A);
    }
    assert_eq!(desk.told(), "1→C 2→C 3→C", "whosever turn it is");
    desk.give_back(line, newer);
    assert_eq!(desk.told(), "4→A", "to any when there is no newer one");
    assert_eq!((desk.board.tally().accepted, desk.board.tally().moved), (0, 4));
}

#[test]
fn what_a_worker_gives_back_goes_to_its_successor_first() {
    let (mut desk, line) = Desk::with_workers(1);
    for (rank, slot) in [(1, 3), (2, 0)] {
        let newer = desk.board.add_seat(1, rank, Slot(slot));
        desk.join(line, newer);
        desk.rotate(newer, true);
    }
    for _ in 0..3 {
        desk.give_back(line, A);
    }
    assert_eq!(desk.told(), "1→C 2→B 3→A", "of its slot, newer, any");
}

#[test]
fn what_a_worker_gives_back_waits_when_nobody_takes_it() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.rotate(A, false);
    desk.give_back(line, A);
    assert_eq!(desk.told(), "");
    assert!(!desk.is_closed(1));
    desk.add_worker(line, WINDOW);
    assert_eq!(desk.told(), "1→B");
    desk.board.remove_line(line);
    desk.give_back(line, A);
    assert!(desk.is_closed(2), "its listener is gone");
    assert_eq!(desk.board.tally().dropped, 1);
}
