//! How many connections wait for an app.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use worksong_engine::engine::{Engine, EngineOptions};
use worksong_engine::event::Event;
use worksong_engine::spec::{CaptureAddress, Dialect, NodeFlavour, Policy, Spread};
use worksong_testkit::{Folder, fixture, node, process};

use crate::serving::{Serving, next_of};
use crate::{in_time, run, spec};

/// Starts an app of two workers, and pauses them both: connections wait then.
async fn assert_counted(policy: Policy) {
    let engine = Engine::start(EngineOptions::default()).unwrap();
    let mut events = engine.subscribe();
    let mut web =
        spec("web", node("24"), [fixture("node/http.js").into()], 2, Dialect::Node(NodeFlavour::Node));
    web.policies = policy.into();
    let serving = Serving::start(&engine, &mut events, web).await;
    for slot in serving.app.snapshot().await.unwrap().slots {
        if let worksong_engine::supervise::SlotState::Filled(view) = slot.state {
            serving.app.pause(view.worker.id).await.unwrap();
        }
    }
    // Its answer comes after everything that the data plane was told before.
    engine.tally().await;
    let clients: Vec<TcpStream> =
        (0..5).map(|_| TcpStream::connect(("127.0.0.1", serving.port)).unwrap()).collect();
    // A client's own end is open a moment before the kernel has put the other one into the queue.
    let all_wait = async {
        loop {
            let queues = serving.app.queues().await;
            let waiting = queues.iter().map(|queue| queue.queued).sum::<u32>();
            assert!(waiting <= 5, "{queues:?}");
            if waiting == 5 {
                break queues;
            }
            tokio::task::yield_now().await;
        }
    };
    let queues = in_time("five that wait", all_wait).await;
    assert!(queues.iter().all(|queue| queue.backlog > 100), "{queues:?}");
    let port = format!(":{}", serving.port);
    assert!(queues.iter().all(|queue| queue.address.ends_with(&port)), "{queues:?}");
    drop(clients);
    serving.app.stop("the test is over").await;
    serving.app.finished().await.unwrap();
    assert!(serving.app.queues().await.is_empty());
}

#[test]
fn connections_that_wait_are_counted() {
    run(async {
        assert_counted(Policy::RoundRobin).await;
        assert_counted(Policy::Kernel(Spread::Hash)).await;
    });
}

#[test]
fn connections_that_wait_at_a_captured_path_are_counted() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let folder = Folder::new();
        let path = folder.join("x.sock");
        let program = folder.write("path.cjs", "require('node:net').createServer().listen(process.argv[2]);");
        let arguments = [program.into(), path.clone().into()];
        let mut web = spec("web", node("24"), arguments, 2, Dialect::Capture { channel: false });
        web.capture = vec![CaptureAddress::Unix(path.clone())];
        let app = engine.add(web, None).await.unwrap();
        let mut pids = Vec::new();
        while pids.len() < 2 {
            if let Event::Ready { worker, .. } = next_of(&mut events, "web").await {
                pids.push(worker.pid);
            }
        }
        for pid in pids {
            process::freeze(pid);
        }
        let _clients: Vec<_> = (0..5).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let [queue] = &app.queues().await[..] else { panic!("one for all") };
        assert_eq!((queue.address.as_str(), queue.worker, queue.queued), (path.to_str().unwrap(), None, 5));
        assert!(queue.backlog > 100, "{queue:?}");
        app.stop_now().await;
        in_time("its end", app.finished()).await.unwrap();
    });
}
