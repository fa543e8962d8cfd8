//! The server of `tests/cluster.rs`: every hook, and a path for everything that can happen to a worker.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "the test reads it")]

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use worksong::balance::{Balance, Candidate, Connection};
use worksong::{
    BoxError, Builder, Cluster, FromWorker, Policy, Ready, RestartPolicy, SendError, Worker, WorkerId,
};

/// How many messages a flood has; more than subscribers of events may be behind.
const FLOOD: u32 = 20_000;
/// The length of a message that no channel takes at once.
const LARGE: usize = 5 * 1024 * 1024;

fn main() -> worksong::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let workers: usize = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let mode = arguments.next().unwrap_or_default();
    let fails = mode == "fails";
    let children = Rc::new(RefCell::new(Vec::new()));
    let mut counted = 0_u32;
    let mut paused = None;
    let builder = match mode.as_str() {
        "children" => starts_children(false, &children),
        "children-apart" => starts_children(true, &children).reap_orphans(false),
        #[cfg(feature = "multi-thread")]
        "threads" => Cluster::builder().threads(2),
        "message" => Cluster::builder().ready(Ready::Message),
        "panics" => {
            let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
            Cluster::builder().policy_at(anywhere, Policy::custom(|| ThreeAreEnough(0)))
        }
        _ => Cluster::builder(),
    };
    let result = builder
        .name("tested")
        .workers(workers)
        .drain_timeout(Duration::from_secs(20))
        .restart(RestartPolicy {
            min_delay: Duration::from_millis(1),
            max_failures: 3,
            ..RestartPolicy::default()
        })
        .on_event(|_cluster, record| {
            eprintln!("{}", serde_json::to_string(record).expect("a record is JSON"));
        })
        .on_message(move |message| {
            if steer(&message, &mut paused) {
                return;
            }
            if let Ok(number) = message.parse::<u32>() {
                counted += 1;
                if number == FLOOD {
                    message.reply(&counted).expect("the cluster runs");
                }
                return;
            }
            let answer = format!("{} said {}", message.worker().id.number, message.as_json());
            message.reply(&answer).expect("the cluster runs");
            message.cluster().broadcast(&"to all").expect("the cluster runs");
        })
        .run(async move |worker| {
            if fails {
                return Err("the database is not there".into());
            }
            println!("worker {} prints", worker.id());
            serve(worker, mode == "message").await
        });
    report(children.take());
    result
}

/// A policy that sends three connections to slot 0, and panics over the next one.
struct ThreeAreEnough(u32);

impl Balance for ThreeAreEnough {
    fn choose(&mut self, _: &Connection<'_>, workers: &[Candidate]) -> Option<usize> {
        assert!(self.0 < 3, "three are enough");
        self.0 += 1;
        workers.iter().position(|worker| worker.slot.0 == 0)
    }
}

impl Drop for ThreeAreEnough {
    fn drop(&mut self) {
        panic!("it cannot even end");
    }
}

/// Starts two children of the primary itself: one that ends, and one that goes on.
fn starts_children(apart: bool, children: &Rc<RefCell<Vec<Child>>>) -> Builder {
    let children = Rc::clone(children);
    Cluster::builder().on_start(move |_cluster| {
        for script in ["exit 3", "exec sleep 1000"] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            if apart {
                command.process_group(0);
            }
            children.borrow_mut().push(command.spawn().expect("a shell"));
        }
    })
}

/// Says what has become of the primary's own children.
fn report(children: Vec<Child>) {
    for mut child in children {
        match child.try_wait() {
            Ok(Some(status)) => println!("own child: {status}"),
            Ok(None) => println!("own child: runs"),
            Err(error) => println!("own child: {error}"),
        }
        // It has ended already.
        let _ended = child.kill();
        let _status = child.wait();
    }
}

/// Does what a worker asks for, if the message is such a wish.
fn steer(message: &FromWorker, paused: &mut Option<WorkerId>) -> bool {
    let (cluster, worker) = (message.cluster(), message.worker().id);
    let asked = match message.parse::<String>().as_deref() {
        Ok("/pause") => {
            *paused = Some(worker);
            cluster.pause(worker)
        }
        Ok("/resume") => cluster.resume(paused.take().expect("one was paused before")),
        Ok("/resize") => cluster.resize(1),
        _ => return false,
    };
    asked.expect("the cluster runs");
    true
}

async fn serve(worker: Worker, says_ready: bool) -> Result<(), BoxError> {
    let listener = worker.listen("127.0.0.1:0").await?;
    if says_ready {
        worker.ready()?;
    }
    let (stop, mut stopped) = mpsc::channel(1);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    connections.spawn(answer(worker.clone(), stream, stop.clone()));
                }
                Err(_drained) => break,
            },
            Some(error) = stopped.recv() => return Err(error),
        }
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn answer(worker: Worker, mut stream: TcpStream, stop: mpsc::Sender<BoxError>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let path = String::from_utf8_lossy(&request);
    let path = path.split_whitespace().nth(1).unwrap_or_default();
    let body = match path {
        "/panic" => panic!("a handler fails"),
        "/error" => {
            // Full means that an error is on its way already.
            let _full = stop.try_send("the disk is full".into());
            String::new()
        }
        "/block" => {
            // A thread that no task gets any more.
            std::thread::park();
            String::new()
        }
        "/leave" => {
            worker.disconnect().await;
            String::new()
        }
        "/pause" | "/resume" | "/resize" => {
            worker.send(path).map_err(io::Error::other)?;
            std::process::id().to_string()
        }
        "/messages" => {
            worker.send("hello").map_err(io::Error::other)?;
            let mut heard = Vec::new();
            while heard.len() < 2 {
                let Some(message) = worker.recv().await else { break };
                heard.push(message.as_json().to_owned());
            }
            heard.join(" ")
        }
        "/large" => {
            worker.send(&"x".repeat(LARGE)).map_err(io::Error::other)?;
            let answer = worker.recv().await.and_then(|message| message.parse::<String>().ok());
            let ends_with_it = answer.is_some_and(|answer| answer.matches('x').count() == LARGE);
            let to_all = worker.recv().await.is_some_and(|message| message.as_json() == "\"to all\"");
            format!("{ends_with_it} {to_all}")
        }
        "/flood" => {
            for number in 1..=FLOOD {
                // The primary does not read faster than its program listens.
                while let Err(SendError::Full { .. }) = worker.send(&number) {
                    tokio::task::yield_now().await;
                }
            }
            worker.recv().await.map(|count| count.as_json().to_owned()).unwrap_or_default()
        }
        "/slow" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
            stream.read_u8().await?;
            stream.write_all(b"slow and whole").await?;
            return stream.shutdown().await;
        }
        _ => std::process::id().to_string(),
    };
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
