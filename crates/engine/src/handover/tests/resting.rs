//! Workers that refuse, and workers that do not answer.

use super::*;

#[test]
fn a_refused_connection_goes_to_another_worker() {
    let (mut desk, line) = Desk::with_workers(3);
    desk.connect(line, 1);
    desk.refuse(A);
    desk.refuse(B);
    assert_eq!(desk.told(), "1→A 1→B 1→C");
    desk.accept(C);
    assert_eq!(desk.tally(), (1, 0, 2, 2));
}

#[test]
fn a_worker_that_refused_rests_from_that_line_only() {
    let (mut desk, web) = Desk::with_workers(1);
    let api = desk.board.add_line(Choice::InTurn);
    desk.join(api, A);
    desk.connect(web, 1);
    desk.refuse(A);
    assert!(!desk.board.can_accept(web, desk.now) && desk.board.can_accept(api, desk.now));
    desk.connect(api, 1);
    assert_eq!(desk.told(), "1→A 2→A");
}

#[test]
fn what_everybody_refuses_is_tried_again_at_growing_distances() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 1);
    desk.told();
    desk.refuse(A);
    desk.refuse(B);
    let mut back_off = FIRST_BACK_OFF;
    for _ in 0..12 {
        desk.told();
        let (waited, told) = desk.ring_until_told();
        assert_eq!((waited, told.as_str()), (back_off, "1→A"));
        desk.refuse(A);
        assert_eq!(desk.told(), "1→B", "its back-off is over as well");
        desk.refuse(B);
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
    assert_eq!(back_off, LONGEST_BACK_OFF);
}

#[test]
fn a_connection_of_a_resting_worker_wakes_nobody_too_early() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 1);
    desk.refuse(A);
    desk.told();
    desk.pass(FIRST_BACK_OFF / 2);
    desk.board.tick(desk.now, &mut desk.post);
    assert_eq!(desk.told(), "");
    assert_eq!(desk.ring(), FIRST_BACK_OFF / 2);
    assert_eq!(desk.told(), "1→A");
}

#[test]
fn after_a_back_off_one_connection_decides() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 3);
    desk.refuse(A);
    desk.accept(A);
    desk.accept(A);
    desk.connect(line, 4);
    desk.told();
    assert_eq!(desk.ring_until_told().1, "1→A");
    desk.refuse(A);
    assert_eq!(desk.ring_until_told(), (FIRST_BACK_OFF * 2, "4→A".to_owned()));
    assert!(!desk.board.can_accept(line, desk.now));
    desk.accept(A);
    assert_eq!(desk.told(), "5→A 6→A 7→A 1→A", "it takes again, so it gets all");
    desk.refuse(A);
    assert_eq!(desk.ring_until_told().0, FIRST_BACK_OFF, "and its refusals are forgotten");
}

#[test]
fn a_burst_of_refusals_counts_as_one() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, WINDOW);
    desk.told();
    (0..WINDOW).for_each(|_| desk.refuse(A));
    assert_eq!(desk.ring_until_told(), (FIRST_BACK_OFF, "1→A".to_owned()));
}

#[test]
fn what_was_sent_before_a_refusal_decides_nothing_after_it() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 3);
    desk.refuse(A);
    desk.told();
    assert_eq!(desk.ring_until_told().1, "1→A", "on trial, while 2 and 3 are as before");
    desk.connect(line, 1);
    desk.accept(A);
    assert_eq!(desk.told(), "", "that it took 2 is no news");
    desk.refuse(A);
    desk.accept(A);
    assert_eq!(desk.told(), "4→A 3→A", "that it refused 3 neither; that it took 1 is");
}

#[test]
fn one_connection_that_all_refuse_does_not_stand_in_the_way_of_others() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 1);
    desk.refuse(A);
    desk.connect(line, 2);
    desk.told();
    assert_eq!(desk.ring_until_told().1, "1→A");
    desk.refuse(A);
    assert_eq!(desk.ring_until_told().1, "2→A");
    desk.accept(A);
    assert_eq!(desk.told(), "3→A 1→A");
}

#[test]
fn a_worker_that_opens_its_server_again_is_forgiven() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 1);
    desk.refuse(A);
    desk.told();
    desk.join(line, A);
    assert_eq!(desk.told(), "1→A");
    desk.connect(line, 1);
    assert_eq!(desk.told(), "2→A", "it joined twice and is there once");
}

#[test]
fn a_refusal_of_a_worker_that_closed_its_server_needs_no_back_off() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 1);
    desk.leave(line, A);
    desk.refuse(A);
    assert_eq!(desk.told(), "1→A 1→B");
}

#[test]
fn an_overdue_worker_gets_nothing_until_it_has_caught_up() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 4);
    desk.accept(B);
    desk.accept(B);
    desk.told();
    let begin = desk.now;
    while desk.board.next_deadline().is_some() {
        desk.ring();
    }
    let waited = desk.now - begin;
    assert!(waited >= OVERDUE_AFTER && waited <= OVERDUE_AFTER + CHECK_EVERY, "{waited:?}");
    assert_eq!(desk.notices(), [Notice::Overdue(A, waited)], "told once, and no further wake-ups");
    desk.connect(line, 2);
    assert_eq!(desk.told(), "5→B 6→B");
    desk.accept(A);
    assert_eq!(desk.notices(), [], "its second one is as old");
    desk.accept(A);
    assert_eq!(desk.notices(), [Notice::Answering(A)]);
    desk.connect(line, 1);
    assert_eq!(desk.told(), "7→A");
}

#[test]
fn what_waits_is_served_when_an_overdue_worker_has_caught_up() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 1);
    desk.wait(OVERDUE_AFTER);
    desk.connect(line, 1);
    assert_eq!(desk.told(), "1→A");
    desk.accept(A);
    assert_eq!(desk.told(), "2→A");
    desk.wait(OVERDUE_AFTER);
    assert_eq!(
        desk.notices(),
        [Notice::Overdue(A, OVERDUE_AFTER), Notice::Answering(A), Notice::Overdue(A, OVERDUE_AFTER)]
    );
}

#[test]
fn a_worker_that_never_answers_keeps_its_connections_until_it_is_removed() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 2);
    desk.accept(B);
    desk.wait(Duration::from_mins(10));
    desk.told();
    assert_eq!(desk.board.unanswered(A), 1, "it may still take it: nobody else may");
    desk.end(A);
    assert_eq!(desk.told(), "1→B");
}

#[test]
fn a_worker_out_of_rotation_is_not_judged_until_it_is_in() {
    let mut desk = Desk::new();
    let line = desk.board.add_line(Choice::InTurn);
    let seat = desk.board.add_seat(WINDOW, 0, Slot(0));
    desk.join(line, seat);
    desk.board.sent_other(seat, desk.now);
    desk.wait(Duration::from_secs(9));
    assert_eq!(desk.notices(), [], "it may take its time to start");
    assert_eq!(desk.board.next_deadline(), None);
    desk.rotate(seat, true);
    desk.wait(OVERDUE_AFTER);
    assert_eq!(desk.notices(), [Notice::Overdue(A, OVERDUE_AFTER)], "as if it had begun now");
}

#[test]
fn an_overdue_worker_that_was_out_of_rotation_is_judged_anew() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 1);
    desk.wait(OVERDUE_AFTER);
    assert_eq!(desk.notices(), [Notice::Overdue(A, OVERDUE_AFTER)]);
    desk.rotate(A, false);
    desk.wait(Duration::from_secs(9));
    desk.connect(line, 1);
    assert_eq!(desk.told(), "1→A");
    desk.rotate(A, true);
    assert_eq!((desk.told().as_str(), desk.notices()), ("2→A", vec![Notice::Answering(A)]));
    desk.wait(OVERDUE_AFTER);
    assert_eq!(desk.notices(), [Notice::Overdue(A, OVERDUE_AFTER)], "and is told again");
}

#[test]
fn what_a_worker_has_taken_is_told_once() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.board.count_to(A, 2);
    desk.connect(line, 4);
    desk.accept(A);
    assert_eq!(desk.notices(), []);
    desk.refuse(A);
    assert_eq!(desk.notices(), [], "a refusal counts for nothing");
    desk.accept(A);
    assert_eq!(desk.notices(), [Notice::TookEnough(A, 2)]);
    desk.accept(A);
    assert_eq!(desk.notices(), []);
}

#[test]
fn a_connection_that_another_worker_had_taken_is_nothing_new() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.board.count_to(B, 1);
    desk.rotate(A, false);
    desk.give_back(line, A);
    assert_eq!(desk.told(), "1→B");
    desk.refuse(B);
    desk.ring_until_told();
    desk.accept(B);
    assert_eq!((desk.notices(), desk.board.tally().moved), (Vec::new(), 1));
    desk.connect(line, 1);
    desk.accept(B);
    assert_eq!(desk.notices(), [Notice::TookEnough(B, 1)]);
}

#[test]
fn time_in_which_the_primary_did_not_run_does_not_count() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 1);
    desk.pass(Duration::from_mins(10));
    desk.ring();
    assert_eq!(desk.notices(), [], "the worker may have been frozen as well");
    desk.wait(OVERDUE_AFTER);
    assert_eq!(desk.notices(), [Notice::Overdue(A, OVERDUE_AFTER)]);
}
