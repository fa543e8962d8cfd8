//! Lines whose workers somebody else chooses.

use super::*;

impl Desk {
    /// Returns a desk with one line that asks, and a worker in rotation in each of so many slots.
    fn asking(slots: u32) -> (Self, LineId) {
        let mut desk = Self::new();
        let line = desk.board.add_line(Choice::Asked);
        for slot in 0..slots {
            let seat = desk.board.add_seat(WINDOW, slot, Slot(slot));
            desk.join(line, seat);
            desk.rotate(seat, true);
        }
        (desk, line)
    }

    fn asked(&mut self) -> String {
        std::mem::take(&mut self.post.asked).join(" ")
    }
}

#[test]
fn the_one_that_is_chosen_gets_it() {
    let (mut desk, line) = Desk::asking(3);
    desk.post.advice = Some(2);
    desk.connect(line, 2);
    // The one whose turn it is comes first.
    assert_eq!(desk.asked(), "1?[0, 1, 2] 2?[0, 1, 2]");
    assert_eq!(desk.told(), "1→C 2→C");
    desk.post.advice = Some(0);
    desk.connect(line, 3);
    assert_eq!(desk.asked(), "3?[0, 1, 2] 4?[1, 2, 0] 5?[2, 0, 1]");
    assert_eq!(desk.told(), "3→A 4→B 5→C");
}

#[test]
fn without_an_answer_that_can_be_used_they_take_turns() {
    let (mut desk, line) = Desk::asking(2);
    for advice in [None, Some(2), Some(usize::MAX)] {
        desk.post.advice = advice;
        desk.connect(line, 2);
        assert!(desk.told().ends_with("→B"), "{advice:?}");
    }
}

#[test]
fn only_those_that_take_one_are_asked_about() {
    let (mut desk, line) = Desk::asking(3);
    desk.rotate(A, false);
    desk.post.full.insert(B);
    desk.post.advice = Some(0);
    desk.connect(line, 1);
    assert_eq!(desk.asked(), "1?[1, 2] 1?[2]", "its channel is full, which is seen when it is tried");
    assert_eq!(desk.told(), "1→C");
    desk.end(C);
    assert_eq!((desk.asked().as_str(), desk.told().as_str()), ("", ""), "nobody takes it now");
    desk.rotate(A, true);
    assert_eq!((desk.asked().as_str(), desk.told().as_str()), ("1?[0]", "1→A"));
}

#[test]
fn a_connection_that_is_refused_is_asked_about_again() {
    let (mut desk, line) = Desk::asking(2);
    desk.post.advice = Some(0);
    desk.connect(line, 1);
    desk.refuse(A);
    assert_eq!((desk.asked().as_str(), desk.told().as_str()), ("1?[0, 1] 1?[1]", "1→A 1→B"));
}

#[test]
fn a_connection_that_is_given_back_goes_to_a_newer_one_whoever_is_chosen() {
    let (mut desk, line) = Desk::asking(3);
    desk.post.advice = Some(1);
    desk.give_back(line, A);
    assert_eq!((desk.asked().as_str(), desk.told().as_str()), ("1?[1, 2]", "1→C"));
}
