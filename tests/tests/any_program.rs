//! Programs that know nothing of Node's protocol: sockets by inheritance, ports by `PORT`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;

use worksong_testkit::http::{self, Address, Response};
use worksong_testkit::{
    Event, Folder, Launch, Load, Signal, Stream, Worksong, binary, eventually, fixture, free_port,
    free_ports, process,
};

/// Tells what was inherited, then becomes the program in its arguments: the pid stays, and so does `LISTEN_PID`.
const TELL: &str = "echo fdnames $LISTEN_FDNAMES; exec \"$@\"";

fn telling(options: &[&str], program: &[&str]) -> Launch {
    Worksong::run(options).args(["sh", "-c", TELL, "sh"]).args(program)
}

/// Waits for the names that a worker was given; one of a TCP socket is its port.
fn names(worksong: &Worksong) -> Vec<String> {
    worksong.wait_output("the names of its sockets", |output| {
        let names = output.line.strip_prefix("fdnames ")?;
        Some(names.split(':').map(str::to_owned).collect())
    })
}

fn first_port(worksong: &Worksong) -> u16 {
    names(worksong)[0].parse().expect("the name of a TCP socket is its port")
}

/// Asks until all of these processes have answered.
fn wait_answers_of(address: impl Into<Address>, pid_of: fn(&Response) -> u32, pids: &BTreeSet<u32>) {
    let address = address.into();
    let mut answered = BTreeSet::new();
    eventually("an answer of each worker", || {
        // Whoever wakes first accepts: it takes several at once to reach all.
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || pid_of(&http::get(address, "/").expect("an answer")))
            })
            .collect();
        answered.extend(clients.into_iter().map(|client| client.join().expect("a client ends")));
        answered.is_superset(pids).then_some(())
    });
}

fn text_pid(answer: &Response) -> u32 {
    answer.text().trim().parse().expect("the answer is a pid")
}

fn program(path: &str) -> String {
    fixture(path).display().to_string()
}

#[test]
fn python_serves_on_an_inherited_socket() {
    // It refuses to start when LISTEN_PID is not its own pid.
    let options = ["-i", "2", "--listen", "127.0.0.1:0"];
    let worksong = telling(&options, &["python3", &program("python/activation.py")]).start();
    let pids = worksong.wait_ready(2);
    wait_answers_of(first_port(&worksong), Response::json_pid, &pids);
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    let exits: Vec<_> = worksong.events().into_iter().filter(|event| event.name() == "exit").collect();
    assert!(exits.iter().all(|exit| exit["code"] == 0), "{exits:?}");
}

#[test]
fn python_scripts_run_by_their_ending() {
    let folder = Folder::new();
    let path = folder.join("socket");
    let options = ["-i", "1", "--listen", path.to_str().unwrap()];
    let script = folder.write(
        "who.py",
        "import os, socket\n\
         listener = socket.socket(fileno=3)\n\
         while True:\n\
         \x20   client, _ = listener.accept()\n\
         \x20   client.recv(4096)\n\
         \x20   body = str(os.getpid())\n\
         \x20   client.sendall(f'HTTP/1.1 200 OK\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n{body}'.encode())\n\
         \x20   client.close()\n",
    );
    let worksong = Worksong::run(options).program(script).start();
    let pid = *worksong.wait_ready(1).first().unwrap();
    assert_eq!(text_pid(&http::get(path.as_path(), "/").unwrap()), pid);
    worksong.signal(Signal::TERM);
    worksong.wait_exit();
    assert!(!path.exists(), "the path of a socket goes with it");
}

#[test]
fn gunicorn_serves_on_inherited_tcp_and_unix_sockets() {
    let folder = Folder::new();
    let path = folder.join("gunicorn.sock");
    let app = fixture("python");
    let options = [
        "-i",
        "2",
        "--listen",
        "127.0.0.1:0",
        "--listen",
        path.to_str().unwrap(),
        "--cwd",
        app.to_str().unwrap(),
    ];
    let launch = telling(&options, &["gunicorn", "wsgi:app"]).env("PYTHONDONTWRITEBYTECODE", "1");
    let worksong = launch.start();
    let masters = worksong.wait_ready(2);
    let names = names(&worksong);
    assert_eq!(names[1], "gunicorn.sock");
    // It forks workers of its own, and they are who answers.
    let answering = |address: Address| {
        let pid = http::get(address, "/").unwrap().json_pid();
        assert!(process::descendants(worksong.pid()).iter().any(|descendant| descendant.pid() == pid));
        assert!(!masters.contains(&pid));
    };
    answering(names[0].parse::<u16>().unwrap().into());
    answering(path.as_path().into());
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
}

#[test]
fn uvicorn_serves_on_an_inherited_socket() {
    let app = fixture("python");
    let options = ["-i", "2", "--listen", "127.0.0.1:0", "--cwd", app.to_str().unwrap()];
    let launch = telling(&options, &["uvicorn", "asgi:app", "--fd", "3"]);
    let worksong = launch.env("PYTHONDONTWRITEBYTECODE", "1").start();
    let pids = worksong.wait_ready(2);
    wait_answers_of(first_port(&worksong), Response::json_pid, &pids);
}

#[test]
fn a_rust_server_serves_on_an_inherited_socket() {
    let server = binary("rust-raw");
    let options = ["-i", "2", "--listen", "127.0.0.1:0"];
    let worksong = telling(&options, &[server.to_str().unwrap()]).start();
    let pids = worksong.wait_ready(2);
    let port = first_port(&worksong);
    wait_answers_of(port, text_pid, &pids);

    // The socket is the primary's: it is there while no worker is.
    for pid in &pids {
        process::kill(*pid, Signal::KILL);
    }
    for pid in &pids {
        worksong.wait_event("exit", |event| event.pid() == *pid);
    }
    let answer = http::get(port, "/").expect("connections wait for the next worker");
    assert!(!pids.contains(&text_pid(&answer)));
}

#[test]
fn the_addresses_that_were_opened_are_told_before_the_first_worker_starts() {
    let folder = Folder::new();
    let path = folder.join("any.sock");
    let options = ["-i", "1", "--listen", "127.0.0.1:0", "--listen", "0", "--listen", path.to_str().unwrap()];
    let worksong = Worksong::run(options).program(binary("rust-raw")).start();
    let pids = worksong.wait_ready(1);
    let events = worksong.events();
    let names: Vec<&str> = events.iter().take(4).map(Event::name).collect();
    assert_eq!(names, ["bound", "bound", "bound", "forked"]);
    let port = |event: &Event| event["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let (chosen, on_all) = (port(&events[0]).expect("a port"), port(&events[1]).expect("a port"));
    assert_eq!(events[0]["address"], format!("127.0.0.1:{chosen}"));
    assert_eq!(events[1]["address"], format!("*:{on_all}"));
    assert_eq!((&events[2]["address"], port(&events[2])), (&path.display().to_string().into(), None));
    wait_answers_of(chosen, text_pid, &pids);
    let opening =
        format!("listening on 127.0.0.1:{chosen}, listening on *:{on_all}, listening on {}", path.display());
    let lines = worksong.lines();
    assert!(lines.iter().any(|line| line.text.contains(&opening)), "no {opening:?} in {lines:?}");
}

#[test]
fn a_server_that_binds_gets_a_port_for_each_slot() {
    let base = free_ports(3);
    let worksong = Worksong::run(["-i", "3", "--dialect", "port", "--port"])
        .args([base.to_string()])
        .program(binary("rust-raw"))
        .start();
    worksong.wait_ready(3);
    for slot in 0..3_u16 {
        let pid = worksong.wait_event("forked", |event| event.slot() == u32::from(slot)).pid();
        // Ready means started here: its own bind may still be to come.
        let answer = eventually("the port of the slot", || http::get(base + slot, "/").ok());
        assert_eq!(text_pid(&answer), pid);
    }
    // Its successor has the same port.
    let victim = worksong.wait_event("forked", |event| event.slot() == 1).pid();
    process::kill(victim, Signal::KILL);
    let successor = worksong.wait_event("forked", |event| event.slot() == 1 && event.pid() != victim).pid();
    let answer = eventually("the port of the slot", || http::get(base + 1, "/").ok());
    assert_eq!(text_pid(&answer), successor);
}

#[test]
fn node_workers_share_the_port_of_the_option() {
    let port = free_port();
    let worksong = Worksong::run(["-i", "2", "--port"])
        .args([port.to_string()])
        .program(fixture("node/http.js"))
        .start();
    let pids = worksong.wait_ready(2);
    assert_eq!(worksong.listening_port(), port);
    wait_answers_of(port, Response::json_pid, &pids);
}

#[test]
fn sockets_are_inherited_in_order_with_their_names_and_nothing_else() {
    let folder = Folder::new();
    let path = folder.join("api.sock");
    // Without globs and substitutions, for which the shell opens descriptors of its own.
    let script = "echo fdnames $LISTEN_FDNAMES; echo fds $LISTEN_FDS; echo pid $LISTEN_PID $$; n=0\n\
                  while [ $n -le 40 ]; do printf 'fd %s ' $n; readlink /proc/$$/fd/$n || echo; n=$((n + 1)); done\n\
                  exec sleep 1000";
    let options =
        ["-i", "1", "--listen", "127.0.0.1:0", "--listen", path.to_str().unwrap(), "--listen", "[::1]:0"];
    let worksong = Worksong::run(options).args(["sh", "-c", script]).start();
    let line = |name: &str| {
        worksong
            .wait_output(name, |output| output.line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
    };
    let names = names(&worksong);
    assert_eq!(names.len(), 3);
    assert!(names[0].parse::<u16>().is_ok() && names[2].parse::<u16>().is_ok());
    assert_eq!(names[1], "api.sock");
    assert_eq!(line("fds"), "3");
    let pids = line("pid");
    let (listen_pid, pid) = pids.split_once(' ').unwrap();
    assert_eq!(listen_pid, pid);
    assert_eq!(pid, worksong.wait_event("forked", |_| true).pid().to_string());

    line("fd 40");
    let descriptors: BTreeMap<u32, String> = worksong
        .output()
        .iter()
        .filter_map(|output| {
            let (number, target) = output.line.strip_prefix("fd ")?.split_once(' ')?;
            (!target.is_empty()).then(|| Some((number.parse().ok()?, target.to_owned())))?
        })
        .collect();
    assert_eq!(descriptors[&0], "/dev/null");
    assert!(descriptors[&1].starts_with("pipe:") && descriptors[&2].starts_with("pipe:"));
    let sockets: Vec<u32> = descriptors
        .iter()
        .filter(|(_, target)| target.starts_with("socket:"))
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(sockets, [3, 4, 5]);
    assert_eq!(descriptors.len(), 6, "{descriptors:?}");
}

#[test]
fn programs_read_their_slot_by_the_names_they_know() {
    let script = "echo env $WORKSONG_APP $WORKSONG_SLOT $NODE_APP_INSTANCE $WORKER_ID $pm_id $OWN [$LISTEN_FDS$NODE_CHANNEL_FD]; exec sleep 1000";
    let options = ["-i", "2", "--name", "api", "--env", "OWN=value", "--dialect", "port"];
    // What our own supervisor told us is not for our workers.
    let worksong = Worksong::run(options)
        .env("LISTEN_FDS", "7")
        .env("NODE_CHANNEL_FD", "7")
        .args(["sh", "-c", script])
        .start();
    for slot in 0..2 {
        let line = worksong
            .wait_output("its variables", |output| (output.slot == slot).then(|| output.line.clone()));
        assert_eq!(line, format!("env api {slot} {slot} {slot} {slot} value []"));
    }
}

#[test]
fn a_reload_of_an_activation_app_loses_no_connection() {
    let options = ["-i", "2", "--listen", "127.0.0.1:0"];
    let worksong = telling(&options, &["python3", &program("python/activation.py")]).start();
    let pids = worksong.wait_ready(2);
    let port = first_port(&worksong);
    wait_answers_of(port, Response::json_pid, &pids);
    let load = Load::start(port, Response::json_pid);
    load.wait_answers(50);
    for generation in 2..=3 {
        worksong.signal(Signal::HUP);
        worksong.wait_event("reload_done", |event| event.generation() == generation);
        eventually("the end of the old workers", || {
            let old =
                |event: &worksong_testkit::Event| event.name() == "exit" && event.generation() < generation;
            let ended = worksong.events().iter().filter(|event| old(event)).count();
            (ended == 2 * (generation as usize - 1)).then_some(())
        });
        // Ready means started here; who has not come to its handler of SIGTERM yet would be ended by it.
        wait_answers_of(port, Response::json_pid, &worksong.worker_pids());
        load.wait_answers(50);
    }
    let served = load.finish_without_failure();
    assert!(served.iter().any(|pid| pids.contains(pid)));
    assert!(served.iter().any(|pid| worksong.worker_pids().contains(pid)));
    let exits: Vec<_> = worksong.events().into_iter().filter(|event| event.name() == "exit").collect();
    assert!(exits.iter().all(|exit| exit["code"] == 0), "{exits:?}");
}

#[test]
fn a_reload_of_a_broken_build_without_a_channel_keeps_the_old_workers() {
    let folder = Folder::new();
    let bad = folder.join("bad");
    let script =
        "test ! -e \"$1\" || { echo broken >&2; exit 5; }; echo fdnames $LISTEN_FDNAMES; exec \"$2\"";
    let worksong = Worksong::run(["-i", "2", "--listen", "127.0.0.1:0", "sh", "-c", script, "sh"])
        .args([&bad, &binary("rust-raw")])
        .start();
    let pids = worksong.wait_ready(2);
    let port = first_port(&worksong);
    wait_answers_of(port, text_pid, &pids);
    let load = Load::start(port, text_pid);
    folder.write("bad", "");
    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert!(failed["reason"].as_str().unwrap().contains("exit code 5"), "{:?}", failed["reason"]);
    load.wait_answers(20);
    assert!(load.finish_without_failure().is_subset(&pids));
    assert_eq!(worksong.worker_pids(), pids);
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_its_holder() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (status, lines) = Worksong::with(["run", "-i", "1", "--listen"])
        .args([format!("127.0.0.1:{port}")])
        .args(["sleep", "1000"])
        .finish();
    assert_eq!(status.code(), Some(1));
    let error = lines.iter().find(|line| line.text.contains("error: ")).expect("an error");
    assert_eq!(error.stream, Stream::Stderr);
    assert!(error.text.contains(&format!("127.0.0.1:{port}")), "{}", error.text);
    assert!(error.text.contains(&format!("pid {}", std::process::id())), "{}", error.text);
}

#[test]
fn activation_without_a_socket_is_wrong_use() {
    let (status, lines) = Worksong::with(["run", "--dialect", "activation", "sleep", "1000"]).finish();
    assert_eq!(status.code(), Some(2));
    assert!(lines.iter().any(|line| line.text.contains("--listen")), "{lines:?}");
}
