//! When queues are looked at from which workers accept without our hearing of it.

use rustix::net::{SocketFlags, accept_with};

use super::*;

#[test]
fn a_shared_socket_is_looked_at_only_while_connections_wait() {
    let mut trial = Trial::with_policy(Policy::Shared);
    let worker = trial.listening_member(1);
    let listener = worker.sockets.first().expect("it was sent a copy");
    trial.run_after(Duration::from_secs(9));
    assert_eq!(trial.plane.next_depth_look(), None, "nothing has come");
    for _ in 0..2 {
        let clients = trial.connect(3);
        let look_at = trial.plane.next_depth_look().expect("they wait");
        assert_eq!(look_at - trial.now, Duration::from_secs(1));
        trial.run_after(Duration::from_secs(1));
        assert!(trial.plane.next_depth_look().is_some_and(|at| at > trial.now), "they wait still");
        for _ in &clients {
            accept_with(listener, SocketFlags::CLOEXEC).expect("one waits");
        }
        trial.run_after(Duration::from_secs(1));
        assert_eq!(trial.plane.next_depth_look(), None, "all were accepted");
    }
}
