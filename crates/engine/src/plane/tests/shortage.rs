//! What is told while the system is short of something, and what becomes of connections.

use rustix::io::Errno;

use super::*;
use crate::plane::port::EntranceId;
use crate::shortage::Shortage;

/// Returns what was told of shortages since the last call.
fn told(trial: &mut Trial) -> String {
    let facts = trial.facts();
    let told = facts.iter().filter_map(|fact| match fact {
        Fact::Shortage { of, limit } => Some(format!("{of:?}, limit {}", limit.is_some())),
        Fact::ShortageOver { of, took } => Some(format!("no more {of:?}, {took:?}")),
        _ => None,
    });
    told.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_connection_that_there_is_no_memory_for_stays_in_the_queue() {
    let mut trial = Trial::new();
    let mut member = trial.listening_member(1);
    let at = EntranceId { line: LineId(0), index: 0 };
    trial.plane.starve(at, Errno::NOMEM);
    let _client = trial.connect(1);
    assert_eq!((member.accept_all(), told(&mut trial).as_str()), (0, "Memory, limit false"));
    trial.run_after(Duration::from_millis(10));
    assert_eq!(member.accept_all(), 0, "it is not asked for all the time");
    trial.run_after(Duration::from_millis(10));
    assert_eq!(member.accept_all(), 1);
}

#[test]
fn a_shortage_is_told_once_however_often_something_is_missed() {
    let mut trial = Trial::new();
    for _ in 0..10 {
        trial.plane.on_command(Command::NoteShortage { of: Shortage::Descriptors });
        trial.run_after(Duration::from_millis(500));
    }
    trial.plane.on_command(Command::NoteShortage { of: Shortage::Processes });
    assert_eq!(told(&mut trial), "Descriptors, limit true");
    trial.run_after(Duration::from_millis(999));
    assert_eq!(told(&mut trial), "");
    trial.run_after(Duration::from_millis(1));
    assert_eq!(told(&mut trial), "no more Descriptors, 6s");
    assert_eq!(trial.plane.next_shortage_look(), None);

    // A descriptor that is lost on its way to us takes the spare one with it.
    trial.plane.spare = None;
    trial.plane.on_command(Command::NoteShortage { of: Shortage::SystemDescriptors });
    trial.run_after(Duration::from_secs(1));
    assert_eq!(told(&mut trial), "SystemDescriptors, limit false, no more SystemDescriptors, 1s");

    trial.plane.on_command(Command::NoteShortage { of: Shortage::Processes });
    trial.run_after(Duration::from_secs(19));
    assert_eq!(told(&mut trial), "Processes, limit false", "the next try to start a worker may take so long");
    trial.run_after(Duration::from_secs(1));
    assert_eq!(told(&mut trial), "no more Processes, 20s");
}
