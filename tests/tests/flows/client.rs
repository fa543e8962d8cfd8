//! Clients that send datagrams and count on an answer to each.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use worksong_testkit::{eventually, patience};

/// Who answers a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) slot: u32,
    pub(crate) pid: u32,
}

/// Sockets of their own, each of them a flow.
pub(crate) struct Clients(Vec<UdpSocket>);

impl Clients {
    pub(crate) fn new(port: u16, count: usize) -> Self {
        let client = |_| {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a socket");
            socket.connect(("127.0.0.1", port)).expect("a local address");
            socket.set_read_timeout(Some(patience())).expect("a timeout");
            socket
        };
        Self((0..count).map(client).collect())
    }

    /// Sends a datagram of each.
    pub(crate) fn send(&self) {
        for client in &self.0 {
            client.send(b"?").expect("somebody has the port");
        }
    }

    /// Waits until each of these processes has some of them and none changes its place any more, and returns who has which.
    #[track_caller]
    pub(crate) fn wait_homes(&self, pids: &BTreeSet<u32>) -> Vec<Home> {
        let mut before = Vec::new();
        eventually("datagrams for all workers", || {
            // A worker may enter rotation between two of the questions.
            let homes = self.ask();
            let answering: BTreeSet<u32> = homes.iter().map(|home| home.pid).collect();
            let is_settled = answering == *pids && homes == before;
            before.clone_from(&homes);
            is_settled.then_some(homes)
        })
    }

    /// Waits for the answer that each has still to get.
    #[track_caller]
    pub(crate) fn receive(&self) -> Vec<Home> {
        let receive = |client: &UdpSocket| {
            let mut buffer = [0; 64];
            let count = client.recv(&mut buffer).expect("no datagram is lost");
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let mut words = text.split_whitespace().map(|word| word.parse().ok());
            let (Some(Some(slot)), Some(Some(pid))) = (words.next(), words.next()) else {
                panic!("{text:?} names no slot and process")
            };
            Home { slot, pid }
        };
        self.0.iter().map(receive).collect()
    }

    #[track_caller]
    pub(crate) fn ask(&self) -> Vec<Home> {
        self.send();
        self.receive()
    }
}
