//! What is seen to now and then. The clock is the test's.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Read;
use std::time::Duration;

use super::*;
use crate::listen::QueueLength;

const HOLD: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);
/// For how long all workers have to be ready before an address is given up.
const GRACE: Duration = Duration::from_secs(5);

/// Says which of these sockets each worker has open.
fn open<'a>(seen: impl IntoIterator<Item = (u32, Vec<&'a OwnedFd>)>) -> OpenSockets {
    let mut open = OpenSockets::default();
    for (number, sockets) in seen {
        let link = |socket| OsString::from(Identity::of(socket).expect("an inode").link());
        open.add(worker(number), Some(sockets.into_iter().map(link).collect()));
    }
    open
}

impl App {
    fn look(&self, now: Instant) -> Look {
        self.slots.attend(now);
        self.slots.look(now)
    }
}

#[test]
fn an_address_that_no_worker_has_open_is_closed_with_what_waits_there() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let socket = app.start(1, 0);
    app.slots.keep(1, HOLD);
    let mut clients = app.connect(3);
    assert!(!app.look(now).has_doubts, "it may bind something yet");
    assert!(app.slots.release(&open([(1, vec![])]), now).is_empty(), "nor is anything closed");
    let settled = now + GRACE;
    assert!(app.look(settled).has_doubts);
    drop(socket);
    let address = app.address.to_string();
    assert!(app.slots.release(&open([(1, vec![])]), settled).is_empty(), "it is looked once more");
    let confirmed = settled + GRACE;
    assert!(app.look(confirmed).has_doubts);
    assert_eq!(app.slots.release(&open([(1, vec![])]), confirmed), [Sight::Unbound { address, count: 3 }]);
    clients[0].read(&mut [0]).expect_err("it is reset");
    TcpStream::connect(app.address).expect_err("nobody listens");
    assert!(app.slots.ports().is_empty());
    TcpStream::connect(app.start(2, 0).local_address()).expect("it can be bound again");
}

#[test]
fn an_address_stays_open_while_somebody_has_it_or_may_come_to_have_it() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let socket = app.start(1, 0);
    let settled = now + GRACE;
    // One of two slots is empty.
    app.slots.keep(2, HOLD);
    assert!(!app.look(now).has_doubts && !app.look(settled).has_doubts);
    assert!(app.slots.release(&open([(1, vec![])]), settled).is_empty());
    // A worker that leaves has it, or one whose descriptors cannot be seen.
    app.slots.keep(1, HOLD);
    app.look(now);
    assert!(app.look(settled).has_doubts);
    assert!(app.slots.release(&open([(1, vec![]), (7, vec![&socket])]), settled).is_empty());
    let mut unseen = open([(1, vec![])]);
    unseen.add(worker(7), Some(HashSet::new()));
    unseen.add(worker(7), None);
    assert!(app.slots.release(&unseen, settled).is_empty());
    TcpStream::connect(app.address).expect("it is open");
}

#[test]
fn nothing_new_comes_to_a_worker_that_has_closed_its_socket() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let (closed, kept) = (app.start(1, 0), app.start(2, 1));
    app.slots.keep(2, HOLD);
    app.look(now);
    let _stuck = app.connect(40);
    let accepted = accept_all(&kept);
    app.slots.attend(now);
    assert!(!app.look(now + SECOND).has_doubts, "it may be late");
    assert!(app.look(now + SECOND * 2).has_doubts);
    for second in [2, 3] {
        let now = now + SECOND * second;
        assert_eq!(app.slots.waiting(worker(1)) as usize, 40 - accepted, "it has it still");
        assert_eq!(app.slots.release(&open([(1, vec![]), (2, vec![&kept])]), now), []);
        assert!(app.look(now + SECOND).has_doubts || second == 3);
    }
    assert_eq!(app.slots.waiting(worker(1)), 0, "it is nobody's");
    let _clients = app.connect(40);
    assert_eq!(accept_all(&kept), 40);
    assert_eq!(accept_all(&closed), 40 - accepted, "what had come before is there for the next one");
}

#[test]
fn nobody_is_held_for_ever() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    drop(app.start(1, 0));
    app.slots.keep(1, HOLD);
    app.slots.remove(worker(1));
    let mut clients = app.connect(3);
    assert!(app.look(now).sights.is_empty());
    assert!(app.look(now + SECOND * 59).sights.is_empty());
    clients.extend(app.connect(2));
    let address = app.address.to_string();
    assert_eq!(app.look(now + HOLD).sights, [Sight::HeldTooLong { address, count: 3 }]);
    assert_eq!(clients[2].read(&mut [0]).expect("its end is seen"), 0);
    assert_eq!(accept_all(&app.start(2, 0)), 2, "those had not waited for so long");
}

#[test]
fn a_limit_of_zero_holds_for_ever() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    drop(app.start(1, 0));
    app.slots.keep(1, Duration::ZERO);
    app.slots.remove(worker(1));
    let _clients = app.connect(3);
    assert!(app.look(now).sights.is_empty());
    assert!(app.look(now + HOLD * 1000).sights.is_empty());
    assert_eq!(accept_all(&app.start(2, 0)), 3);
}

#[test]
fn queues_are_looked_at_only_while_connections_wait() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let socket = app.start(1, 0);
    app.slots.keep(1, HOLD);
    app.look(now);
    app.look(now + GRACE);
    assert_eq!(app.slots.next_look(), None);
    SockRef::from(&socket).listen(4).expect("listen");
    for second in [10, 20] {
        let now = now + SECOND * second;
        let _clients = app.connect(4);
        app.slots.attend(now);
        assert_eq!(app.slots.next_look(), Some(now + SECOND));
        let length = QueueLength { queued: 4, backlog: 4 };
        let address = app.address.to_string();
        assert_eq!(app.slots.queues().iter().map(|queue| queue.queued).sum::<u32>(), 4);
        let fills = Sight::QueueFills { address: address.clone(), length };
        assert_eq!(app.look(now + SECOND).sights, [fills]);
        assert_eq!(accept_all(&socket), 4);
        let over = Sight::QueueOver { address, took: SECOND, most: 4 };
        assert_eq!(app.look(now + SECOND * 2).sights, [over]);
        assert_eq!(app.slots.next_look(), None);
    }
}

#[test]
fn a_worker_that_has_it_after_all_gets_connections_again() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let sockets = [app.start(1, 0), app.start(2, 1)];
    let seen = |of_first| open([(1, of_first), (2, vec![&sockets[1]])]);
    for second in 0..2 {
        app.slots.release(&seen(vec![]), now + SECOND * second);
    }
    app.slots.release(&seen(vec![&sockets[0]]), now + SECOND * 2);
    let _clients = app.connect(40);
    assert!(sockets.iter().map(accept_all).all(|share| share > 5), "both get their share");
}

#[test]
fn rescuers_that_fail_get_rare_and_nobody_waits_for_them_for_ever() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let (victim, _other) = (app.start(1, 1), app.start(2, 0));
    let _clients = app.connect(40);
    app.slots.keep(1, HOLD);
    app.slots.leave(worker(1));
    let count = app.slots.waiting(worker(1));
    drop(victim);
    app.slots.remove(worker(1));
    let address = app.address.to_string();
    let orphaned = Sight::Orphaned { address: address.clone(), count, slot: Slot(1) };
    let (mut asked, mut number) = (Vec::new(), 2);
    for second in 0..=60 {
        let sights = app.look(now + SECOND * second).sights;
        if sights.contains(&orphaned) {
            asked.push(second);
            number += 1;
            // It gets the socket and ends.
            drop(app.start(number, 1));
            app.slots.rotate(worker(number), false);
            app.slots.remove(worker(number));
        } else if second == 60 {
            assert_eq!(sights, [Sight::HeldTooLong { address: address.clone(), count: count.into() }]);
        } else {
            assert_eq!(sights, []);
        }
    }
    assert_eq!(asked, [0, 1, 3, 7, 15, 31]);
}

trait LocalAddress {
    fn local_address(&self) -> SocketAddr;
}

impl LocalAddress for OwnedFd {
    fn local_address(&self) -> SocketAddr {
        SockRef::from(self).local_addr().expect("it is bound").as_socket().expect("it is of the internet")
    }
}
