//! Acknowledgements and answers: whose they are, and what they free.

use super::*;

#[test]
fn what_a_worker_took_is_closed_here_and_counted_once() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 2);
    assert!(desk.ack(A), "an acknowledgement alone ends nothing");
    assert!(!desk.is_closed(1));
    let seq = desk.next_out(A);
    assert!(desk.reply(A, seq, true));
    assert!(desk.is_closed(1) && !desk.is_closed(2));
    assert_eq!(desk.tally(), (1, 0, 0, 0));
}

#[test]
fn numbers_count_up_and_only_what_was_sent_uses_one() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 1);
    desk.post.full.insert(B);
    desk.connect(line, 2);
    let numbers: Vec<u64> = desk.post.out.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn an_answer_to_nothing_is_told_and_changes_nothing() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 2);
    let (first, second) = (desk.next_out(A), desk.next_out(B));
    assert!(!desk.reply(A, second, true), "the other worker's");
    assert!(!desk.reply(A, 99, false), "nobody's");
    assert!(!desk.reply(SeatId(7), first, true), "nobody there");
    assert!(desk.reply(A, first, true));
    assert!(!desk.reply(A, first, true) && !desk.reply(A, first, false), "answered before");
    assert_eq!(desk.tally(), (1, 0, 0, 0));
    assert_eq!((desk.board.unanswered(A), desk.board.unanswered(B)), (0, 1));
}

#[test]
fn a_worker_in_a_reused_seat_cannot_answer_for_the_one_before() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 1);
    let old = desk.next_out(A);
    desk.end(A);
    assert_eq!(desk.add_worker(line, WINDOW), A, "the seat is reused");
    desk.connect(line, 1);
    assert_eq!(desk.told(), "1→A 1→B 2→A");
    assert!(!desk.reply(A, old, true) && !desk.reply(A, old, false));
    assert_eq!(desk.tally(), (0, 0, 0, 1));
}

#[test]
fn answers_may_come_in_another_order() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.connect(line, 3);
    for seq in [2, 0, 1] {
        assert!(desk.reply(A, seq, true));
    }
    assert_eq!(desk.tally(), (3, 0, 0, 0));
}

#[test]
fn a_nack_is_about_the_oldest_handle_and_sends_it_elsewhere() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 1);
    desk.board.sent_other(A, desk.now);
    desk.connect(line, 2);
    assert_eq!(desk.told(), "1→A 2→B 3→A");
    assert!(desk.nack(A), "connection 1");
    assert_eq!(desk.told(), "1→B");
    assert!(desk.nack(A), "the other handle");
    assert_eq!(desk.told(), "");
    assert!(desk.nack(A), "connection 3");
    assert_eq!(desk.told(), "3→B");
    assert!(!desk.nack(A) && !desk.ack(A), "nothing is on its way");
    assert!(!desk.nack(SeatId(7)) && !desk.ack(SeatId(7)), "nobody there");
    assert_eq!(desk.tally(), (0, 0, 2, 2));
}

#[test]
fn acknowledgements_are_matched_in_order_whatever_was_answered() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 4);
    assert_eq!(desk.told(), "1→A 2→B 3→A 4→B");
    assert!(desk.ack(A), "connection 1");
    assert!(desk.reply(A, 2, true), "connection 3, before its acknowledgement");
    assert!(desk.nack(A), "connection 3 again: it was taken, so this is no failure");
    assert_eq!(desk.told(), "");
    assert_eq!(desk.tally(), (1, 0, 0, 0));
    assert_eq!(desk.board.unanswered(A), 1);
}

#[test]
fn room_that_a_nack_frees_is_used_by_other_lines_at_once() {
    let mut desk = Desk::new();
    let (web, api) = (desk.board.add_line(Choice::InTurn), desk.board.add_line(Choice::InTurn));
    desk.add_worker(web, 1);
    desk.join(api, A);
    desk.connect(web, 1);
    desk.connect(api, 1);
    desk.told();
    assert!(desk.nack(A));
    assert_eq!(desk.told(), "2→A");
}

#[test]
fn any_handle_on_its_way_fills_a_window_of_one() {
    let mut desk = Desk::new();
    let line = desk.board.add_line(Choice::InTurn);
    desk.add_worker(line, 1);
    desk.board.sent_other(A, desk.now);
    desk.connect(line, 1);
    assert_eq!(desk.told(), "");
    assert!(desk.ack(A));
    assert_eq!(desk.told(), "1→A");
}

#[test]
fn a_worker_that_answers_and_never_acknowledges_is_stopped_by_the_window() {
    let (mut desk, line) = Desk::with_workers(1);
    for _ in 0..WINDOW {
        desk.connect(line, 1);
        let seq = desk.next_out(A);
        assert!(desk.reply(A, seq, true));
    }
    desk.told();
    desk.connect(line, 1);
    assert_eq!(desk.told(), "");
    while desk.board.next_deadline().is_some() {
        desk.ring();
    }
    assert!(matches!(desk.notices()[..], [Notice::Overdue(A, _)]), "and it is told as overdue");
}
