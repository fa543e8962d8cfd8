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

#[test]
fn a_stop_waits_until_workers_have_accepted_what_waits_at_their_shared_socket() {
    for accept in [true, false] {
        let mut trial = Trial::with_policy(Policy::Shared);
        let worker = trial.listening_member(1);
        let listener = worker.sockets.first().expect("it was sent a copy");
        let clients = trial.connect(2);
        let (told, mut drained) = oneshot::channel();
        trial.plane.on_command(Command::CloseApp { app: APP, drained: told });
        for _ in 0..3 {
            trial.run_after(Duration::from_millis(150));
            drained.try_recv().expect_err("two wait");
        }
        if accept {
            for _ in &clients {
                accept_with(listener, SocketFlags::CLOEXEC).expect("one waits");
            }
            trial.run_after(Duration::from_millis(20));
        } else {
            trial.run_after(Duration::from_millis(450));
        }
        drained.try_recv().expect("all were accepted, or it was long enough");
    }
}
