//! Messages of workers for other workers: one copy of each, and no more of them than a worker may leave unread.

use worksong_channel::outbox::MAX_QUEUED;

use super::*;
use crate::plane::peer::Credits;

/// Far more than a socket holds.
const LENGTH: usize = 1024 * 1024;

impl Trial {
    fn relay(&mut self, to: &[&Member], message: &Arc<[u8]>) {
        let to = to.iter().map(|member| member.worker).collect();
        let credit = Credits::new(self.plane.poll.waker()).take(message.len());
        self.plane.on_command(Command::Relay { to, message: Arc::clone(message), credit });
    }

    /// Lets these workers read what they were sent, until no more comes; returns what that was.
    fn read_by(&mut self, member: &mut Member) -> Vec<String> {
        for _ in 0..20 {
            member.read();
            self.run_after(Duration::ZERO);
        }
        member.read();
        std::mem::take(&mut member.told)
    }

    fn queued(&self) -> Vec<usize> {
        self.plane.peers.iter().flatten().map(|peer| peer.channel.outbox().queued_bytes()).collect()
    }
}

fn message() -> Arc<[u8]> {
    let body = serde_json::value::to_raw_value(&"x".repeat(LENGTH)).expect("a text");
    encode::user(&body).into()
}

#[test]
fn a_message_for_many_is_in_memory_once() {
    let mut trial = Trial::new();
    let mut members = [1, 2, 3].map(|number| trial.member(number));
    let message = message();
    let [first, second, silent] = &members;
    trial.relay(&[first, second, silent], &message);
    assert!(trial.queued().iter().all(|queued| *queued > LENGTH / 2), "{:?}", trial.queued());
    assert_eq!(Arc::strong_count(&message), 4, "nobody has a copy of its own");
    for member in &mut members[..2] {
        assert_eq!(trial.read_by(member), [format!("{} bytes", LENGTH + 2)]);
    }
    assert_eq!(Arc::strong_count(&message), 2, "it waits for the third");
    trial.plane.on_command(Command::Forget { worker: members[2].worker });
    assert_eq!(Arc::strong_count(&message), 1);
}

#[test]
fn who_reads_nothing_loses_what_is_too_much_and_nobody_else_does() {
    let mut trial = Trial::new();
    let (mut reading, silent) = (trial.member(1), trial.member(2));
    let message = message();
    for _ in 0..40 {
        trial.relay(&[&reading, &silent], &message);
        assert_eq!(trial.read_by(&mut reading).len(), 1);
    }
    let queued = trial.queued();
    assert_eq!(queued[0], 0);
    assert!((MAX_QUEUED - LENGTH..=MAX_QUEUED).contains(&queued[1]), "{queued:?}");
    assert_eq!(Arc::strong_count(&message), 1 + MAX_QUEUED / LENGTH, "what waits is no copy");
}
