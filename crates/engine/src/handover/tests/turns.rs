//! Who gets the next connection, and what waits when nobody can.

use super::*;

#[test]
fn workers_take_turns() {
    let (mut desk, line) = Desk::with_workers(3);
    desk.connect(line, 7);
    assert_eq!(desk.told(), "1→A 2→B 3→C 4→A 5→B 6→C 7→A");
}

#[test]
fn idle_workers_share_evenly_whatever_their_number() {
    for workers in 1..=9 {
        for connections in 0..=40 {
            for answers in [true, false] {
                let (mut desk, line) = Desk::with_workers(workers);
                let mut shares = vec![0; workers];
                for _ in 0..connections.min(workers * WINDOW) {
                    desk.connect(line, 1);
                    let (seat, _) = *desk.post.out.last().expect("it was handed over");
                    shares[seat.0] += 1;
                    if answers {
                        desk.accept(seat);
                        desk.post.out.clear();
                    }
                }
                let spread = shares.iter().max().unwrap_or(&0) - shares.iter().min().unwrap_or(&0);
                assert!(spread <= 1, "{workers} workers, {connections} connections, {answers}: {shares:?}");
            }
        }
    }
}

#[test]
fn turns_go_on_where_they_were_when_workers_come_and_go() {
    let (mut desk, line) = Desk::with_workers(3);
    desk.connect(line, 2);
    desk.leave(line, A);
    desk.connect(line, 2);
    assert_eq!(desk.told(), "1→A 2→B 3→C 4→B");
    desk.join(line, A);
    desk.connect(line, 3);
    assert_eq!(desk.told(), "5→C 6→A 7→B");
    desk.leave(line, B);
    desk.leave(line, C);
    desk.connect(line, 2);
    assert_eq!(desk.told(), "8→A 9→A");
}

#[test]
fn lines_have_turns_of_their_own() {
    let (mut desk, web) = Desk::with_workers(2);
    let api = desk.board.add_line(Choice::InTurn);
    desk.join(api, A);
    desk.join(api, B);
    desk.connect(web, 1);
    desk.connect(api, 1);
    desk.connect(web, 1);
    desk.connect(api, 1);
    assert_eq!(desk.told(), "1→A 2→A 3→B 4→B");
}

#[test]
fn a_blocked_worker_is_passed_over_when_it_is_much_busier() {
    let (mut desk, line) = Desk::with_workers(2);
    for _ in 0..50 {
        desk.connect(line, 1);
        if desk.post.out.iter().any(|(seat, _)| *seat == B) {
            desk.accept(B);
        }
    }
    assert_eq!((desk.board.unanswered(A), desk.board.unanswered(B)), (SLACK + 1, 0));
}

#[test]
fn busy_workers_are_compared_with_the_least_busy_one() {
    let (mut desk, line) = Desk::with_workers(3);
    desk.connect(line, 30);
    (0..3).for_each(|_| desk.accept(A));
    (0..4).for_each(|_| desk.accept(B));
    // A has 7, B has 6, C has 10: all within the slack, so in turn; then C is 5 above B.
    desk.told();
    desk.connect(line, 3);
    assert_eq!(desk.told(), "31→A 32→B 33→C");
    desk.accept(B);
    desk.connect(line, 5);
    assert_eq!(desk.told(), "34→A 35→B 36→C 37→A 38→B");
    (0..4).for_each(|_| desk.accept(B));
    desk.connect(line, 2);
    assert_eq!(desk.told(), "39→B 40→B", "C has 12, A has 9, B has 4");
}

#[test]
fn a_full_window_keeps_the_next_connection_waiting_until_an_answer() {
    let (mut desk, line) = Desk::with_workers(1);
    assert!(desk.board.can_accept(line, desk.now));
    desk.connect(line, WINDOW);
    assert!(!desk.board.can_accept(line, desk.now), "the kernel keeps what comes now");
    desk.connect(line, 2);
    assert_eq!(desk.board.unanswered(A), WINDOW);
    desk.told();
    desk.accept(A);
    assert_eq!(desk.told(), "17→A");
    assert!(!desk.board.can_accept(line, desk.now), "one still waits");
    desk.refuse(A);
    assert_eq!(desk.told(), "", "it refuses: nothing for it now");
}

#[test]
fn a_window_of_nothing_counts_as_one() {
    let mut desk = Desk::new();
    let line = desk.board.add_line(Choice::InTurn);
    desk.add_worker(line, 0);
    desk.connect(line, 2);
    assert_eq!(desk.told(), "1→A");
}

#[test]
fn without_a_ready_worker_connections_are_held_in_order() {
    let mut desk = Desk::new();
    let line = desk.board.add_line(Choice::InTurn);
    assert!(!desk.board.has_members(line) && !desk.board.can_accept(line, desk.now));
    desk.connect(line, 2);
    let seat = desk.board.add_seat(WINDOW, 0, Slot(0));
    desk.join(line, seat);
    desk.connect(line, 1);
    assert!(desk.board.has_members(line), "out of rotation or not");
    assert_eq!(desk.told(), "");
    assert_eq!(desk.board.next_deadline(), None, "only a worker can change anything");
    desk.rotate(seat, true);
    assert_eq!(desk.told(), "1→A 2→A 3→A");
}

#[test]
fn a_worker_in_rotation_is_served_as_soon_as_it_listens() {
    let (mut desk, web) = Desk::with_workers(1);
    let api = desk.board.add_line(Choice::InTurn);
    desk.connect(api, 2);
    assert_eq!(desk.told(), "", "it does not listen there");
    desk.connect(web, 1);
    desk.join(api, A);
    assert_eq!(desk.told(), "3→A 1→A 2→A");
}

#[test]
fn out_of_rotation_a_worker_gets_nothing_and_answers_what_it_has() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.connect(line, 2);
    desk.rotate(A, false);
    desk.connect(line, 2);
    assert_eq!(desk.told(), "1→A 2→B 3→B 4→B");
    assert_eq!(desk.board.unanswered(A), 1);
    desk.accept(A);
    assert_eq!(desk.tally(), (1, 0, 0, 0));
    assert_eq!(desk.notices(), [], "it is nobody's business how long it takes for the rest");
}

#[test]
fn a_full_channel_is_passed_over_until_it_is_writable() {
    let (mut desk, line) = Desk::with_workers(2);
    desk.post.full.insert(A);
    desk.connect(line, 2);
    assert_eq!(desk.told(), "1→B 2→B");
    desk.post.full.insert(B);
    desk.connect(line, 2);
    assert_eq!((desk.told().as_str(), desk.post.turned_away), ("", 2), "each is asked once");
    desk.post.full.clear();
    desk.board.writable(A, desk.now, &mut desk.post);
    assert_eq!(desk.told(), "3→A 4→A");
}

#[test]
fn a_full_channel_is_tried_again_when_its_worker_is_heard_from() {
    for acknowledges in [true, false] {
        let (mut desk, line) = Desk::with_workers(1);
        desk.connect(line, 1);
        desk.post.full.insert(A);
        desk.connect(line, 1);
        desk.told();
        desk.post.full.clear();
        if acknowledges {
            assert!(desk.ack(A));
        } else {
            let seq = desk.next_out(A);
            assert!(desk.reply(A, seq, true));
        }
        assert_eq!(desk.told(), "2→A");
    }
}

#[test]
fn a_full_channel_is_tried_again_at_the_next_check_in_any_case() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.post.full.insert(A);
    desk.connect(line, 1);
    for _ in 0..8 {
        assert_eq!(desk.ring(), CHECK_EVERY);
    }
    assert_eq!(desk.post.turned_away, 9, "once at first, once at each check");
    desk.post.full.clear();
    desk.ring();
    assert_eq!(desk.told(), "1→A");
}

#[test]
fn a_broken_channel_is_never_tried_again() {
    let (mut desk, line) = Desk::with_workers(1);
    desk.post.broken.insert(A);
    desk.connect(line, 2);
    desk.board.writable(A, desk.now, &mut desk.post);
    desk.ring();
    assert_eq!((desk.told().as_str(), desk.post.turned_away), ("", 1));
    assert_eq!(desk.board.next_deadline(), None, "only its removal can change anything");
    desk.end(A);
    desk.post.broken.clear();
    desk.add_worker(line, WINDOW);
    assert_eq!(desk.told(), "1→A 2→A");
}

#[test]
fn an_idle_switchboard_never_wakes() {
    let (mut desk, line) = Desk::with_workers(4);
    assert_eq!(desk.board.next_deadline(), None);
    desk.connect(line, 4);
    for seat in [A, B, C, SeatId(3)] {
        desk.accept(seat);
    }
    assert_eq!(desk.ring(), CHECK_EVERY);
    assert_eq!(desk.board.next_deadline(), None);
}
