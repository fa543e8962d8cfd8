//! Listeners of one program, each under a policy of its own.

use std::collections::BTreeSet;

use serde_json::json;
use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{Folder, NODE_VERSIONS, eventually, free_port};

use crate::{ours, reports, start, stop};

/// Returns who answers so many new connections, one after the other.
fn answers(address: impl Into<http::Address>, connections: usize) -> Vec<u32> {
    let address = address.into();
    (0..connections).map(|_| http::get(address.clone(), "/").unwrap().json_pid()).collect()
}

/// Opens connections that stay, and returns who has them.
fn hold(port: u16, connections: usize) -> Vec<(Connection, u32)> {
    let held = (0..connections).map(|_| {
        let mut connection = Connection::open(port).unwrap();
        let pid = connection.get("/").as_ref().map(Response::json_pid).unwrap();
        (connection, pid)
    });
    held.collect()
}

#[test]
fn each_listener_goes_by_its_own_policy() {
    for version in NODE_VERSIONS {
        let folder = Folder::new();
        let path = folder.join("shared.sock");
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let [turns, kernel, sticky, least] = ports;
        let forms = json!([
            { "port": turns, "host": "127.0.0.1" },
            { "port": kernel, "host": "127.0.0.1" },
            { "port": sticky },
            { "port": least, "host": "127.0.0.1" },
            { "path": path },
        ]);
        let policies = [
            format!("{kernel}=kernel:ip"),
            format!("{sticky}=sticky:ip"),
            format!("127.0.0.1:{least}=least"),
            format!("{}=shared", path.display()),
        ];
        let options: Vec<&str> = policies.iter().flat_map(|policy| ["--policy", policy]).collect();
        let worksong = start(ours(&options).node(version), &forms);
        // The worker can tell by its handle whether it accepts by itself.
        let reports = reports(&worksong, &forms);
        let kinds: Vec<[&str; 2]> = reports
            .iter()
            .map(|both| both.each_ref().map(|report| report["kind"].as_str().unwrap()))
            .collect();
        assert_eq!(
            kinds,
            [["Object"; 2], ["TCP"; 2], ["Object"; 2], ["Object"; 2], ["Pipe"; 2]],
            "Node {version}"
        );

        let pids = worksong.wait_ready(2);
        let in_turn = answers(turns, 20);
        assert!(in_turn.windows(2).all(|two| two[0] != two[1]), "Node {version}: {in_turn:?}");
        for (one_for_an_address, what) in [(kernel, "kernel:ip"), (sticky, "sticky:ip")] {
            // One that a busy machine leaves waiting is passed by meanwhile. By chance all would be one worker's once in
            // 2^39 times.
            eventually(&format!("one worker for one address, Node {version}, {what}"), || {
                let answered: BTreeSet<u32> = answers(one_for_an_address, 40).into_iter().collect();
                (answered.len() == 1).then_some(())
            });
        }
        // One that a busy machine leaves waiting is passed by here, too: then the other one has them all.
        let mut held = eventually("connections that both hold", || {
            let held = hold(least, 40);
            let first = held[0].1;
            (held.iter().filter(|(_, pid)| *pid != first).count() >= 15).then_some(held)
        });
        let freed = held[0].1;
        held.retain(|(_, pid)| *pid != freed);
        eventually("who has fewest gets all", || {
            answers(least, 5).into_iter().all(|pid| pid == freed).then_some(())
        });
        assert!(answers(path.as_path(), 5).iter().all(|pid| pids.contains(pid)));
        let note = worksong.lines().into_iter().find(|line| line.text.contains("in 2 workers")).unwrap();
        let said =
            format!("kernel:ip at port {kernel}, sticky:ip at port {sticky}, least at 127.0.0.1:{least}");
        assert!(note.text.contains(&said), "{note:?}");
        stop(&worksong);
    }
}
