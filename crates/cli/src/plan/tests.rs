use clap::Parser;
use std::time::Duration;

use super::*;
use crate::args::{Cli, Command};

/// Plans with commands that every system has: `sh` and `cat`.
fn planned(arguments: &[&str]) -> Result<Plan, PlanError> {
    let surroundings =
        Surroundings { search_path: "/bin:/usr/bin".into(), node_policy: None, cores: 3, no_capture: None };
    planned_in(arguments, &surroundings)
}

fn planned_in(arguments: &[&str], surroundings: &Surroundings) -> Result<Plan, PlanError> {
    match Cli::try_parse_from(["worksong", "run"].iter().chain(arguments)) {
        Ok(Cli { command: Command::Run(run) }) => plan(*run, surroundings),
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn own_args(arguments: &[&str]) -> Vec<OsString> {
    planned(arguments).unwrap().spec.command.args
}

#[test]
fn only_the_first_separator_is_taken_away() {
    assert_eq!(own_args(&["cat", "--", "-x", "--", "y"]), ["-x", "--", "y"]);
    assert_eq!(own_args(&["--", "cat", "--", "-x"]), ["-x"]);
    assert_eq!(own_args(&["cat", "-x", "--"]), ["-x", "--"]);
}

#[test]
fn a_misplaced_option_is_pointed_out() {
    let notes = |arguments: &[&str]| {
        planned(arguments).unwrap().notes.iter().map(Note::to_string).collect::<Vec<_>>()
    };
    assert!(notes(&["cat", "-i", "4"])[0].starts_with("warning: -i stands after the program"));
    assert!(notes(&["cat", "--", "-i", "4"]).is_empty(), "the separator says that it is meant");
}

#[test]
fn options_reach_the_engine() {
    let plan =
        planned(&["--max-restarts", "3", "--restart-delay", "1m", "--drain-timeout", "9s", "cat"]).unwrap();
    assert_eq!(plan.spec.name, "cat");
    assert_eq!(
        (plan.spec.instances, plan.spec.dialect, plan.spec.ready),
        (3, Dialect::Capture { channel: true }, Ready::Observed)
    );
    assert_eq!(plan.spec.restart.max_failures, 3);
    assert_eq!(
        plan.spec.restart.max_delay,
        Duration::from_mins(1),
        "the longest delay is not below the first"
    );
    assert_eq!(plan.spec.deadlines.drain, Duration::from_secs(9));
    assert_eq!(plan.spec.stop_signal, StopSignal::TERMINATE);
    assert_eq!(planned(&["--stop-signal", "quit", "cat"]).unwrap().spec.stop_signal.to_string(), "SIGQUIT");
    assert_eq!(plan.spec.restart.stable_after, RestartPolicy::default().stable_after);
    let plan = planned(&["--max-restart-delay", "2m", "--stable-after", "1h", "cat"]).unwrap();
    assert_eq!(plan.spec.restart.max_delay, Duration::from_mins(2));
    assert_eq!(plan.spec.restart.stable_after, Duration::from_hours(1));
    assert_eq!(planned(&["cat"]).unwrap().spec.restart, RestartPolicy::default());
    assert_eq!(planned(&["-n", "api", "-i", "-1", "cat"]).unwrap().spec.instances, 2);
}

#[test]
fn when_and_how_many_workers_are_replaced_reaches_the_engine() {
    let plan = planned(&["--max-connections", "1000", "--max-age", "12h", "--max-memory", "200M", "cat"]);
    let recycle = plan.unwrap().spec.recycle;
    assert_eq!(recycle.max_connections, Some(1000));
    assert_eq!(recycle.max_age, Some(Duration::from_hours(12)));
    assert_eq!(recycle.max_memory_bytes, Some(200 * 1024 * 1024));
    let spec =
        planned(&["--max-memory-restart", "1G", "--surge", "2", "--parallel", "3", "cat"]).unwrap().spec;
    assert_eq!(spec.recycle.max_memory_bytes, Some(1024 * 1024 * 1024));
    assert_eq!(spec.replacement, Replacement { surge: 2, parallel: Some(3) });
    let spec = planned(&["cat"]).unwrap().spec;
    assert_eq!((spec.replacement, spec.recycle), (Replacement::default(), RecycleLimits::default()));
}

#[test]
fn connections_that_workers_accept_by_themselves_are_not_counted_which_is_said() {
    let notes = |arguments: &[&str]| {
        let plan = planned(&[&["--max-connections", "9"], arguments, &["cat"]].concat()).unwrap();
        plan.notes.iter().map(Note::to_string).collect::<Vec<_>>()
    };
    assert!(notes(&["--policy", "shared"])[0].ends_with("use --policy round-robin, or --max-age"));
    assert!(notes(&["--listen", "0"])[0].ends_with("use --max-age or --max-memory"));
    assert!(notes(&["--policy", "round-robin", "--dialect", "native"]).is_empty());
}

#[test]
fn a_policy_that_changes_nothing_is_pointed_out() {
    let notes = |arguments: &[&str]| {
        let plan = planned(&[arguments, &["cat"]].concat()).unwrap();
        plan.notes.iter().map(Note::to_string).collect::<Vec<_>>()
    };
    assert!(
        notes(&["--policy", "kernel", "--port", "9000"])[0].starts_with("warning: --policy kernel changes")
    );
    assert!(notes(&["--policy", "rr", "--listen", "0"])[0].ends_with("--policy kernel gives each its own"));
    let taken_back = ["--listen", "8080", "--listen", "8081", "--policy", "kernel", "--policy", "8080=rr"];
    assert_eq!(notes(&taken_back), [""; 0], "8080 gets one socket for all");
    assert!(notes(&["--policy", "sticky:ip"])[0].contains("say --dialect native if it is one"));
    for meant in [&["--policy", "kernel", "--listen", "0"][..], &["--listen", "0"], &["--port", "9000"]] {
        assert!(notes(meant).is_empty(), "{meant:?}");
    }
}

#[test]
fn interpreter_arguments_are_separated_by_spaces() {
    let script = std::env::temp_dir().join(format!("worksong-plan-{}.js", std::process::id()));
    std::fs::write(&script, "").unwrap();
    let path = script.to_str().unwrap();
    let plan = planned(&["--interpreter", "/bin/cat", "--node-args", " -a  -b ", "--node-args", "-c", path])
        .unwrap();
    assert_eq!(plan.spec.command.args, ["-a", "-b", "-c", path]);
    assert_eq!(plan.spec.dialect, Dialect::Node(NodeFlavour::Node));
    std::fs::remove_file(script).unwrap();
}

#[test]
fn the_policy_of_node_is_honoured_when_none_is_given() {
    let policy = |variable: Option<&str>, arguments: &[&str]| {
        let surroundings = Surroundings {
            search_path: "/bin:/usr/bin".into(),
            node_policy: variable.map(OsString::from),
            cores: 1,
            no_capture: None,
        };
        planned_in(arguments, &surroundings).unwrap().spec.policies.default_policy().clone()
    };
    assert_eq!(policy(None, &["cat"]), Policy::RoundRobin);
    assert_eq!(policy(Some("none"), &["cat"]), Policy::Shared);
    assert_eq!(policy(Some("rr"), &["cat"]), Policy::RoundRobin);
    assert_eq!(policy(Some("none"), &["--policy", "round-robin", "cat"]), Policy::RoundRobin);
    assert_eq!(policy(Some("rr"), &["--policy", "none", "cat"]), Policy::Shared);
    assert_eq!(policy(Some("none"), &["--policy", "80=least", "cat"]), Policy::Shared);
}

#[test]
fn the_demo_is_this_binary_with_a_channel() {
    let Ok(Cli { command: Command::Demo(demo) }) =
        Cli::try_parse_from(["worksong", "demo", "-i", "2", "--listen", "127.0.0.1:0"])
    else {
        panic!("the demo takes these options")
    };
    let spec = plan_demo(&demo, &Surroundings::default()).unwrap().spec;
    assert_eq!((spec.instances, spec.dialect), (2, Dialect::Native));
    assert_eq!(spec.command.program, std::env::current_exe().unwrap());
    assert!(spec.listen.is_empty(), "its workers ask for the address, as any program does");
}

#[test]
fn what_cannot_work_is_refused() {
    for (arguments, fix) in [
        (&["--dialect", "activation", "cat"][..], "add --listen 8080"),
        (&["--listen", "0", "--ready", "listening", "cat"], "write --ready started"),
        (&["--port", "9", "--ready", "message", "cat"], "write --ready started"),
        (&["--port", "65534", "-i", "3", "cat"], "choose a smaller --port"),
        (&["no-such-command-anywhere"], "type the path of the program"),
        (&["--listen", "0", "--ready", "tcp", "cat"], "use --port 9000 in place of --listen"),
        (&["--dialect", "port", "--ready", "tcp", "cat"], "add --port 9000"),
        (&["--policy", "shared", "--ready", "http:/", "cat"], "use --policy round-robin"),
        (&["--policy", "sticky:ip", "--listen", "8080", "cat"], "--policy sticky:ip could not keep together"),
        (&["--policy", "8080=sticky:ip", "--listen", "8080", "cat"], "use --policy kernel:ip"),
        (&["--policy", "sticky:ip", "--dialect", "capture", "cat"], "use --policy kernel:ip"),
        (&["--policy", "sticky:path", "--dialect", "capture", "cat"], "leave it out"),
        (&["--policy", "round-robin", "--dialect", "capture", "cat"], "leave it out"),
        (&["--policy", "8080=least", "--policy", ":8080=kernel", "cat"], "twice for port 8080"),
        (&["--policy", "least", "--policy", "kernel", "cat"], "write the address before the one"),
        (&["--policy", "least", "--port", "9000", "cat"], "--policy least could not choose"),
        (&["--max-open", "9", "cat"], "use --dialect native if the program is a Rust worker"),
        (
            &["--max-open", "9", "--policy", "shared", "--dialect", "native", "cat"],
            "use --policy round-robin",
        ),
        (&["--max-open-app", "9", "--listen", "0", "cat"], "use --dialect node or native"),
        (&["--max-open", "9", "--port", "9000", "cat"], "leave --max-open and --max-open-app out"),
        (&["--max-open", "9", "--no-agent", "--dialect", "node", "cat"], "leave --no-agent out"),
        (
            &["--overload", "503", "cat"],
            "--overload 503 is for connections that meet a limit; add --max-open",
        ),
        (&["--control", "9000", "--listen", "0", "cat"], "add --dialect port and --port 3001"),
        (&["--ready", "http:healthz", "cat"], "begins with /"),
        (
            &["--capture", "/x.sock", "--policy", "/x.sock=kernel", "cat"],
            "which all workers share; leave it out",
        ),
        (
            &["--capture", "unix:x.sock", "--policy", "unix:./x.sock=kernel:cpu", "cat"],
            "x.sock=kernel:cpu could",
        ),
        (&["--dialect", "capture", "--policy", "/x.sock=shared", "cat"], "add --capture /x.sock, or"),
        (&["--dialect", "capture", "--policy", "udp:53=kernel", "cat"], "add --capture udp:53, or"),
        (
            &["--dialect", "capture", "--capture", "80", "--policy", "81=shared", "cat"],
            "add --capture 81, or",
        ),
        (
            &["--dialect", "capture", "--capture", "80", "--policy", "udp:80=shared", "cat"],
            "add --capture udp:80",
        ),
        (&["--ready", "http:", "cat"], "begins with /"),
    ] {
        let error = planned(arguments).unwrap_err().to_string();
        assert!(error.contains(fix), "{arguments:?}: {error}");
    }
    for (captured, policy) in [
        ("/x.sock", "/x.sock=shared"),
        ("80", "127.0.0.1:80=shared"),
        ("udp:53", "53=shared"),
        ("127.0.0.1:80", "80=shared"),
    ] {
        let arguments = ["--dialect", "capture", "--capture", captured, "--policy", policy, "cat"];
        assert!(planned(&arguments).is_ok(), "{policy} at {captured}");
    }
    assert!(
        planned(&["--dialect", "capture", "--policy", "80=shared", "cat"]).is_ok(),
        "it takes every port"
    );
    assert!(planned(&["--port", "9", "--ready", "http:/healthz", "cat"]).is_ok());
    assert!(planned(&["--port", "65533", "-i", "3", "cat"]).is_ok());
}
