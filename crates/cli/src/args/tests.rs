use clap::CommandFactory;
use clap::error::ErrorKind;

use worksong_engine::spec::Policy;

use super::*;

fn parse(arguments: &[&str]) -> RunArgs {
    let all = ["worksong", "run"].iter().chain(arguments);
    match Cli::try_parse_from(all) {
        Ok(Cli { command: Command::Run(run) }) => *run,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn refuse(arguments: &[&str]) -> clap::Error {
    let all = ["worksong", "run"].iter().chain(arguments);
    Cli::try_parse_from(all).expect_err("must be refused")
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn everything_after_the_program_belongs_to_it() {
    let run = parse(&["-i", "4", "server.js", "-i", "9", "--json", "--unknown", "x"]);
    assert_eq!(run.workers.instances, Instances::Exactly(4));
    assert_eq!(run.command, ["server.js", "-i", "9", "--json", "--unknown", "x"]);
    assert!(!run.output.json);
}

#[test]
fn a_separator_may_stand_before_and_after_the_program() {
    assert_eq!(parse(&["--json", "--", "server.js", "-x"]).command, ["server.js", "-x"]);
    // The one after the program is still there: `plan` takes it away, and only the first.
    assert_eq!(parse(&["server.js", "--", "-x"]).command, ["server.js", "--", "-x"]);
    assert_eq!(parse(&["--", "server.js", "--", "-x", "--"]).command, ["server.js", "--", "-x", "--"]);
}

#[test]
fn a_program_is_needed_and_unknown_options_are_named() {
    assert_eq!(refuse(&[]).kind(), ErrorKind::MissingRequiredArgument);
    let unknown = refuse(&["--instance", "4", "server.js"]);
    assert_eq!(unknown.kind(), ErrorKind::UnknownArgument);
    assert!(unknown.to_string().contains("--instances"), "{unknown}");
    assert_eq!(refuse(&["--raw", "--json", "a.js"]).kind(), ErrorKind::ArgumentConflict);
}

#[test]
fn all_options_are_read() {
    let run = parse(&[
        "-i",
        "-1",
        "-n",
        "api",
        "--listen",
        "8080",
        "--listen",
        "unix:/x",
        "--port",
        "9000",
        "--policy",
        "shared",
        "--dialect",
        "activation",
        "--interpreter",
        "node22",
        "--node-args",
        "--a --b",
        "--interpreter-args=--c",
        "--cwd",
        "/srv",
        "--env",
        "A=1=2",
        "--env",
        "B=",
        "--ready",
        "message",
        "--ready-timeout",
        "1s",
        "--drain-timeout",
        "2s",
        "--kill-timeout",
        "3s",
        "--hung-timeout",
        "4s",
        "--max-restarts",
        "5",
        "--restart-delay",
        "6ms",
        "--json",
        "--no-color",
        "-v",
        "app.js",
    ]);
    assert_eq!(run.workers.instances, Instances::AllBut(1));
    assert_eq!(run.workers.name.as_deref(), Some("api"));
    assert_eq!(run.sockets.listen.len(), 2);
    assert_eq!(
        (run.sockets.port, run.sockets.policy),
        (Some(9000), vec![PolicyArg::Elsewhere(Policy::Shared)])
    );
    assert_eq!(run.sockets.dialect, DialectArg::Activation);
    assert_eq!(run.program.interpreter, Some("node22".into()));
    assert_eq!(run.program.interpreter_args, ["--a --b", "--c"]);
    assert_eq!(run.program.env, [("A".into(), "1=2".into()), ("B".into(), "".into())]);
    assert_eq!(run.life.ready, Ready::Message);
    let life = &run.life;
    let times = [life.ready_timeout, life.drain_timeout, life.kill_timeout, life.hung_timeout];
    assert_eq!(times, [1, 2, 3, 4].map(Duration::from_secs));
    assert_eq!((life.max_restarts, life.restart_delay), (5, Duration::from_millis(6)));
    assert!(run.output.json && run.output.no_color && run.output.verbose && !run.output.raw);
}

#[test]
fn the_defaults_are_those_of_the_engine() {
    use worksong_engine::spec::{Deadlines, RestartPolicy};
    let life = parse(&["app.js"]).life;
    let deadlines = Deadlines {
        ready: life.ready_timeout,
        drain: life.drain_timeout,
        kill: life.kill_timeout,
        hung: life.hung_timeout,
        hold: life.hold_timeout,
    };
    assert_eq!(deadlines, Deadlines::default());
    let restart = RestartPolicy::default();
    assert_eq!((life.max_restarts, life.restart_delay), (restart.max_failures, restart.min_delay));
}

#[test]
fn a_wrong_value_is_answered_with_the_fix() {
    for (arguments, fix) in [
        (["-i", "four"], "type a number such as 4"),
        (["--drain-timeout", "30"], "write 30s for seconds"),
        (["--listen", "localhost:80"], "write 127.0.0.1:80"),
        (["--port", "0"], "write a number from 1 to 65535"),
        (["--env", "A"], "write --env KEY=VALUE"),
        (["--env", "=A"], "write --env KEY=VALUE"),
        (["--name", "a b"], "such as api-v2"),
        (["--policy", "fastest"], "there are round-robin, least, shared, kernel"),
        (["--policy", "sticky"], "there are round-robin, least, shared, kernel"),
        (["--policy", "sticky:cookie"], "write cookie:NAME"),
        (["--stop-signal", "KILL"], "write TERM, INT, QUIT"),
        (["--max-restarts", "0"], "1.."),
    ] {
        let error = refuse(&[arguments[0], arguments[1], "app.js"]);
        assert!(error.to_string().contains(fix), "{arguments:?}: {error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn the_help_reads_well() {
    let mut cli = Cli::command();
    let top = cli.render_help().to_string();
    for part in ["Run any server program on every core", "  run ", "  demo ", "worksong run server.js"] {
        assert!(top.contains(part), "{part:?} is missing in:\n{top}");
    }
    let run = cli.find_subcommand_mut("run").unwrap().render_help().to_string();
    assert!(run.contains("[OPTIONS] <PROGRAM> [ARGS]..."), "{run}");
    let headings =
        ["Workers:", "Sockets:", "Program:", "Life of a worker", "Output:", "Signals:", "Examples:"];
    let places: Vec<_> = headings.iter().map(|heading| run.find(heading).expect(heading)).collect();
    assert!(places.is_sorted(), "the headings are out of order:\n{run}");
    for line in top.lines().chain(run.lines()) {
        assert!(line.chars().count() <= 120, "too long: {line}");
        let is_option = line.trim_start().starts_with('-');
        assert!(!(is_option && line.ends_with('.')), "a help line ends with a full stop: {line}");
    }
}
