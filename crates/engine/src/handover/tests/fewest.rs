//! Who gets the next connection where it goes by who has least to do.

use std::collections::BTreeMap;

use super::super::progress::LATE_AFTER;
use super::*;

/// For how many milliseconds a worker has a core before others get it.
const SLICE: u64 = 4;

fn desk(workers: usize) -> (Desk, LineId) {
    Desk::with_workers_by(Choice::Least, workers)
}

#[test]
fn equals_take_turns() {
    let (mut desk, line) = desk(3);
    desk.connect(line, 6);
    assert_eq!(desk.told(), "1→A 2→B 3→C 4→A 5→B 6→C");
}

#[test]
fn whoever_has_fewest_connections_is_next_unanswered_or_not() {
    let (mut desk, line) = desk(3);
    desk.connect(line, 5);
    desk.accept(A);
    desk.accept(A);
    desk.accept(B);
    desk.told();
    // A has two open, B one and one unanswered, C one unanswered.
    desk.connect(line, 1);
    assert_eq!(desk.told(), "6→C");
    desk.connect(line, 3);
    assert_eq!(desk.told(), "7→A 8→B 9→C");
}

#[test]
fn a_worker_that_blocks_gets_nothing_after_some_milliseconds() {
    let (mut desk, line) = desk(3);
    desk.connect(line, 3);
    desk.accept(B);
    desk.accept(C);
    desk.connect(line, 1);
    assert_eq!(desk.told(), "1→A 2→B 3→C 4→A", "it may be on its way");
    desk.pass(LATE_AFTER);
    for _ in 0..20 {
        desk.connect(line, 1);
        let (seat, _) = *desk.post.out.last().expect("it was handed over");
        assert_ne!(seat, A);
        desk.accept(seat);
        desk.pass(milliseconds(1));
    }
    desk.accept(A);
    desk.accept(A);
    desk.told();
    desk.connect(line, 5);
    assert_eq!(desk.told(), "25→A 26→A 27→A 28→A 29→A", "it has fewest, and answers again");
}

#[test]
fn of_equals_the_quicker_one_is_next() {
    let (mut desk, line) = desk(2);
    desk.connect(line, 2);
    desk.accept(B);
    desk.pass(milliseconds(9));
    desk.accept(A);
    desk.told();
    // A took 9 ms for its answer, and both have one connection.
    desk.connect(line, 1);
    assert_eq!(desk.told(), "3→B");
    desk.connect(line, 1);
    assert_eq!(desk.told(), "4→A", "it has one less");
}

#[test]
fn a_new_worker_gets_no_more_than_a_second_of_all() {
    let (mut desk, line) = desk(1);
    for _ in 0..5_000 {
        desk.connect(line, 1);
        desk.accept(A);
        desk.pass(milliseconds(1));
    }
    desk.add_worker(line, WINDOW);
    let mut row = 0;
    loop {
        desk.connect(line, 1);
        let (seat, _) = *desk.post.out.last().expect("it was handed over");
        desk.accept(seat);
        if seat == A {
            break;
        }
        row += 1;
        desk.pass(milliseconds(1));
    }
    assert!(row < 1_000, "{row} in a row: what was taken long ago is no more, as far as we know");
}

#[test]
fn whoever_answers_first_does_not_get_everything() {
    let (mut desk, line) = desk(4);
    for time in 0..100 {
        for _ in 0..4 {
            desk.connect(line, 1);
            while desk.board.unanswered(A) > 0 {
                desk.accept(A);
            }
        }
        if time % 3 == 2 {
            for seat in [B, C, SeatId(3)] {
                while desk.board.unanswered(seat) > 0 {
                    desk.accept(seat);
                }
            }
        }
        desk.wait(milliseconds(1));
    }
    let of_a = desk.told().matches("→A").count();
    assert!((95..=105).contains(&of_a), "{of_a} of 400 went to one of four");
}

#[test]
fn what_workers_report_is_believed() {
    let (mut desk, line) = desk(2);
    desk.connect(line, 10);
    for seat in [A, B] {
        (0..5).for_each(|_| desk.accept(seat));
        desk.board.counted(seat, 5, desk.now, &mut desk.post);
    }
    desk.told();
    // Time changes nothing for workers that count; ends do.
    desk.wait(Duration::from_mins(1));
    desk.board.counted(B, 2, desk.now, &mut desk.post);
    desk.connect(line, 5);
    assert_eq!(desk.told(), "11→B 12→B 13→B 14→A 15→B");
}

#[test]
fn of_connections_that_stay_each_worker_gets_its_share_however_quickly_they_come() {
    // Two of them have a core at a time, for a slice of 4 ms each; the primary hands over as fast as it can.
    for workers in [2, 3, 4, 8] {
        for per_millisecond in [1, 2, 5, 20] {
            let shares = flood(workers, 100 * workers as u64, per_millisecond);
            let (most, least) = (shares.values().max(), shares.values().min());
            assert!(
                most.zip(least).is_some_and(|(most, least)| most - least <= SLICE * per_millisecond),
                "{workers} workers, {per_millisecond} in a millisecond: {shares:?}"
            );
        }
    }
}

/// Lets many connections come at once that stay open, and returns who has how many.
fn flood(workers: usize, connections: u64, per_millisecond: u64) -> BTreeMap<SeatId, u64> {
    let (mut desk, line) = desk(workers);
    let mut shares: BTreeMap<SeatId, u64> = (0..workers).map(|index| (SeatId(index), 0)).collect();
    let mut queued = connections;
    let mut time: u64 = 0;
    while shares.values().sum::<u64>() < connections {
        while queued > 0 && desk.board.can_accept(line, desk.now) {
            desk.connect(line, 1);
            queued -= 1;
        }
        let slice = (time / SLICE * 2) as usize;
        for running in [SeatId(slice % workers), SeatId((slice + 1) % workers)] {
            for _ in 0..per_millisecond {
                if desk.board.unanswered(running) > 0 {
                    desk.accept(running);
                    *shares.entry(running).or_default() += 1;
                }
            }
        }
        time += 1;
        desk.wait(milliseconds(1));
        assert!(time < 10_000, "{shares:?}");
    }
    shares
}
