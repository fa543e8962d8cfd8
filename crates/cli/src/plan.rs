//! From what was typed to what the engine runs.

use std::ffi::{OsStr, OsString};
use std::io;

use worksong_control::Address;
use worksong_engine::cores::usable_cores;
use worksong_engine::program::{self, ProgramError, Request, Warning};
use worksong_engine::spec::{
    AppSpec, Deadlines, Dialect, LimitError, ListenAddress, NodeFlavour, OpenLimits, Policies, Policy,
    ProbeError, Ready, RecycleLimits, Replacement, RestartPolicy, Spread, StopSignal, check_capture,
};

use crate::args::{DemoArgs, DialectArg, LifeArgs, PolicyArg, ReplacementArgs, RunArgs};
use crate::demo;

/// What the surroundings say, read once at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// `PATH`.
    pub(crate) search_path: OsString,
    /// `NODE_CLUSTER_SCHED_POLICY`, which Node's own primary obeys.
    pub(crate) node_policy: Option<OsString>,
    /// How many cores this process may use.
    pub(crate) cores: u32,
    /// Why ports of programs cannot be captured here, if they cannot.
    pub(crate) no_capture: Option<String>,
}

impl Surroundings {
    /// Reads the environment of this process.
    pub(crate) fn read() -> Self {
        Self {
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            node_policy: std::env::var_os("NODE_CLUSTER_SCHED_POLICY"),
            cores: usable_cores(),
            no_capture: check_capture().err().map(|error| error.to_string()),
        }
    }
}

/// An app that can be started, with what its user should know before.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: AppSpec,
    pub(crate) notes: Vec<Note>,
    /// Where the primary answers.
    pub(crate) control: Option<Address>,
}

/// What a user should know before the start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Note {
    #[error("warning: {0}")]
    Program(Warning),
    #[error(
        "warning: {option} stands after the program and is given to it; options of worksong stand before it"
    )]
    MisplacedOption { option: String },
    #[error("note: workers do not share the ports that they bind: {reason}")]
    NotCaptured { reason: String },
    #[error(
        "warning: --max-connections counts nothing here, the workers accept connections by themselves; use {instead}"
    )]
    Uncounted { instead: &'static str },
}

/// Why what was typed cannot be run; all of these are wrong use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("--ready cannot probe these workers: {0}")]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Limits(#[from] LimitError),
    #[error("the dialect activation needs a socket to pass on; add --listen 8080, or leave --dialect out")]
    NothingToInherit,
    #[error(
        "the dialect capture takes the ports that the program binds, so nobody would accept from --listen; leave one of both out"
    )]
    CaptureAndListen,
    #[error("--capture is for programs that bind by themselves; use it with --dialect capture or auto")]
    CaptureElsewhere,
    #[error(
        "a program without a channel cannot say that it is {state}; write --ready started, or leave --ready out"
    )]
    NeverReady { state: &'static str },
    #[error(
        "{instances} workers from port {base} on go beyond 65535; choose a smaller --port or fewer --instances"
    )]
    PortsOutOfRange { base: u16, instances: u32 },
    #[error(
        "Deno takes no connections from a socket that it was sent, so its workers would answer nobody; use --policy round-robin"
    )]
    SharedDeno,
    #[error(
        "the program accepts connections itself, so --policy {policy} could not keep together what belongs together; leave it out"
    )]
    StickyByItself { policy: Policy },
    #[error(
        "the program accepts connections itself, so --policy {policy} could not choose who gets one; leave it out"
    )]
    ChosenByItself { policy: Policy },
    #[error("--policy is there twice for {address}; leave one of them out")]
    TwoPolicies { address: ListenAddress },
    #[error(
        "--policy is there twice; write the address before the one that is not for all: --policy 8080=kernel"
    )]
    TwoDefaultPolicies,
    #[error(
        "--control has no address to assign: the workers have no ports of their own; add --dialect port and --port 3001"
    )]
    NothingToAssign,
    #[error("could not find the file of worksong itself: {0}; start it again by its path")]
    NoSelf(#[source] io::Error),
}

/// Makes the plan for `worksong run`.
pub(crate) fn plan(args: RunArgs, surroundings: &Surroundings) -> Result<Plan, PlanError> {
    let RunArgs { command, workers, sockets, limits, program, life, replacement, control, output: _ } = args;
    let (typed_program, own_args, misplaced) = split_command(command);
    let is_auto = sockets.dialect == DialectArg::Auto;
    let resolved = program::resolve(&Request {
        program: typed_program,
        args: own_args,
        interpreter: program.interpreter,
        interpreter_args: program
            .interpreter_args
            .iter()
            .flat_map(|args| args.split_whitespace())
            .map(OsString::from)
            .collect(),
        cwd: program.cwd,
        env: program.env,
        search_path: surroundings.search_path.clone(),
        dialect: sockets.dialect.into(),
        listens: !sockets.listen.is_empty(),
        captures: !sockets.capture.is_empty(),
        wants_channel: sockets.policy.iter().any(PolicyArg::hands_over_all)
            || replacement.max_connections.is_some(),
        can_capture: surroundings.no_capture.is_none(),
        port: sockets.port,
        ready: life.ready.clone(),
    })?;
    let default = match resolved.dialect {
        Dialect::Capture { channel: false } => Policy::Kernel(Spread::default()),
        _ => policy_of_node(surroundings.node_policy.as_deref()),
    };
    let policies = policies(sockets.policy, default)?;
    let spec = AppSpec {
        name: workers.name.unwrap_or(resolved.name),
        command: resolved.command,
        instances: workers.instances.resolve(surroundings.cores),
        dialect: resolved.dialect,
        policies,
        listen: sockets.listen,
        capture: sockets.capture,
        ready: resolved.ready,
        deadlines: deadlines(&life),
        stop_signal: life.stop_signal,
        restart: restart_policy(&life),
        agent: !program.no_agent,
        replacement: Replacement { surge: replacement.surge, parallel: replacement.parallel },
        recycle: recycle_limits(&replacement),
        limits: OpenLimits {
            per_worker: limits.max_open,
            per_app: limits.max_open_app,
            overload: limits.overload,
        },
    };
    check(&spec)?;
    if control.control.is_some() && matches!(spec.dialect, Dialect::Activation | Dialect::Port { base: None })
    {
        return Err(PlanError::NothingToAssign);
    }
    let would_capture = is_auto && matches!(spec.dialect, Dialect::Native | Dialect::Port { base: None });
    let not_captured = surroundings.no_capture.clone().filter(|_| would_capture);
    let not_captured = not_captured.map(|reason| Note::NotCaptured { reason });
    let notes = resolved.warnings.into_iter().map(Note::Program);
    let notes = notes.chain(misplaced).chain(uncounted(&spec)).chain(not_captured);
    let notes = notes.collect();
    Ok(Plan { spec, notes, control: control.control })
}

/// Makes the plan for `worksong demo`.
pub(crate) fn plan_demo(args: &DemoArgs, surroundings: &Surroundings) -> Result<Plan, PlanError> {
    // Opened at once, so that a port in use ends it before it begins. Port 0 is for the workers to ask for.
    let listen = match &args.listen {
        ListenAddress::Tcp(address) if address.port() == 0 => Vec::new(),
        ListenAddress::AnyInterface(0) => Vec::new(),
        address => vec![address.clone()],
    };
    let spec = AppSpec {
        name: "demo".to_owned(),
        command: demo::command(&args.listen).map_err(PlanError::NoSelf)?,
        instances: args.instances.resolve(surroundings.cores),
        dialect: Dialect::Native,
        policies: policy_of_node(surroundings.node_policy.as_deref()).into(),
        listen,
        capture: Vec::new(),
        ready: Ready::Auto,
        deadlines: Deadlines::default(),
        stop_signal: StopSignal::default(),
        restart: RestartPolicy::default(),
        agent: true,
        replacement: Replacement::default(),
        recycle: RecycleLimits::default(),
        limits: OpenLimits::default(),
    };
    Ok(Plan { spec, notes: Vec::new(), control: None })
}

/// Takes the program and its arguments apart; users of PM2 type a `--` between them.
fn split_command(command: Vec<OsString>) -> (OsString, Vec<OsString>, Option<Note>) {
    let mut words = command.into_iter();
    let program = words.next().unwrap_or_default();
    let mut args: Vec<OsString> = words.collect();
    if args.first().is_some_and(|first| first == "--") {
        args.remove(0);
        return (program, args, None);
    }
    // `pm2 start server.js -i 4` is a habit of many, and a program without an option -i says nothing.
    let misplaced = args
        .first()
        .and_then(|first| first.to_str())
        .filter(|first| matches!(*first, "-i" | "--instances") || first.starts_with("--instances="));
    let note = misplaced.map(|option| Note::MisplacedOption { option: option.to_owned() });
    (program, args, note)
}

/// Puts together what was typed; an address that is named twice was meant otherwise.
fn policies(typed: Vec<PolicyArg>, default: Policy) -> Result<Policies, PlanError> {
    let (mut policies, mut named) = (Policies::from(default), Vec::new());
    for one in typed {
        let address = match one {
            PolicyArg::Elsewhere(policy) => {
                policies = policies.with_default(policy);
                None
            }
            PolicyArg::At(address, policy) => {
                policies = policies.with(address.clone(), policy);
                Some(address)
            }
        };
        if named.contains(&address) {
            return Err(match address {
                Some(address) => PlanError::TwoPolicies { address },
                None => PlanError::TwoDefaultPolicies,
            });
        }
        named.push(address);
    }
    Ok(policies)
}

/// Node knows `none` and `rr` and takes everything else for `rr`.
fn policy_of_node(variable: Option<&OsStr>) -> Policy {
    if variable.is_some_and(|value| value == "none") { Policy::Shared } else { Policy::RoundRobin }
}

fn deadlines(life: &LifeArgs) -> Deadlines {
    Deadlines {
        ready: life.ready_timeout,
        drain: life.drain_timeout,
        kill: life.kill_timeout,
        hung: life.hung_timeout,
        hold: life.hold_timeout,
    }
}

fn restart_policy(life: &LifeArgs) -> RestartPolicy {
    RestartPolicy {
        min_delay: life.restart_delay,
        max_delay: life.max_restart_delay.max(life.restart_delay),
        stable_after: life.stable_after,
        max_failures: life.max_restarts,
    }
}

fn recycle_limits(replacement: &ReplacementArgs) -> RecycleLimits {
    RecycleLimits {
        max_connections: replacement.max_connections,
        max_age: replacement.max_age,
        max_memory_bytes: replacement.max_memory,
    }
}

/// Points out that only connections which the primary hands over are counted.
fn uncounted(spec: &AppSpec) -> Option<Note> {
    spec.recycle.max_connections?;
    let instead = match spec.dialect {
        Dialect::Activation
        | Dialect::Capture { channel: false }
        | Dialect::Port { .. }
        | Dialect::Node(NodeFlavour::Bun) => "--max-age or --max-memory",
        Dialect::Node(_) | Dialect::Native | Dialect::Capture { channel: true } => {
            if spec.policies.hands_over_all() {
                return None;
            }
            "--policy round-robin, or --max-age"
        }
    };
    Some(Note::Uncounted { instead })
}

/// Refuses what only a primary that accepts can do.
fn check_by_itself(policy: &Policy) -> Result<(), PlanError> {
    match policy {
        Policy::Sticky(_) => Err(PlanError::StickyByItself { policy: policy.clone() }),
        Policy::Least | Policy::Custom(_) => Err(PlanError::ChosenByItself { policy: policy.clone() }),
        Policy::RoundRobin | Policy::Shared | Policy::Kernel(_) => Ok(()),
    }
}

fn check(spec: &AppSpec) -> Result<(), PlanError> {
    match spec.dialect {
        Dialect::Capture { .. } if !spec.listen.is_empty() => return Err(PlanError::CaptureAndListen),
        _ if !spec.capture.is_empty() && !spec.dialect.captures() => {
            return Err(PlanError::CaptureElsewhere);
        }
        Dialect::Activation if spec.listen.is_empty() => return Err(PlanError::NothingToInherit),
        Dialect::Port { base: Some(base) } if u32::from(base) + spec.instances - 1 > u32::from(u16::MAX) => {
            return Err(PlanError::PortsOutOfRange { base, instances: spec.instances });
        }
        Dialect::Node(NodeFlavour::Deno) if !spec.policies.hands_over_all() => {
            return Err(PlanError::SharedDeno);
        }
        Dialect::Activation | Dialect::Port { .. } | Dialect::Node(NodeFlavour::Bun) => {
            spec.policies.all().try_for_each(check_by_itself)?;
        }
        Dialect::Capture { channel: false } => {
            if let Some(policy) = spec.policies.all().find(|policy| policy.hands_over_all()) {
                return Err(PlanError::ChosenByItself { policy: policy.clone() });
            }
        }
        Dialect::Node(_) | Dialect::Native | Dialect::Capture { channel: true } => {}
    }
    spec.limits.check(spec)?;
    if let Ready::Probe(probe) = &spec.ready {
        probe.check(spec)?;
    }
    if spec.dialect.has_channel() {
        return Ok(());
    }
    match spec.ready {
        Ready::Listening if !spec.dialect.captures() && !spec.has_own_sockets() => {
            Err(PlanError::NeverReady { state: "listening" })
        }
        Ready::Message => Err(PlanError::NeverReady { state: "ready" }),
        Ready::Listening | Ready::Auto | Ready::Started | Ready::Observed | Ready::Probe(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use std::time::Duration;

    use super::*;
    use crate::args::{Cli, Command};

    /// Plans with commands that every system has: `sh` and `cat`.
    fn planned(arguments: &[&str]) -> Result<Plan, PlanError> {
        let surroundings = Surroundings {
            search_path: "/bin:/usr/bin".into(),
            node_policy: None,
            cores: 3,
            no_capture: None,
        };
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
        let plan = planned(&["--max-restarts", "3", "--restart-delay", "1m", "--drain-timeout", "9s", "cat"])
            .unwrap();
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
        assert_eq!(
            planned(&["--stop-signal", "quit", "cat"]).unwrap().spec.stop_signal.to_string(),
            "SIGQUIT"
        );
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
        assert!(notes(&["--policy", "round-robin"]).is_empty());
    }

    #[test]
    fn interpreter_arguments_are_separated_by_spaces() {
        let script = std::env::temp_dir().join(format!("worksong-plan-{}.js", std::process::id()));
        std::fs::write(&script, "").unwrap();
        let path = script.to_str().unwrap();
        let plan =
            planned(&["--interpreter", "/bin/cat", "--node-args", " -a  -b ", "--node-args", "-c", path])
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
            (
                &["--policy", "sticky:ip", "--listen", "8080", "cat"],
                "--policy sticky:ip could not keep together",
            ),
            (&["--policy", "8080=sticky:ip", "--listen", "8080", "cat"], "sticky:ip could not keep together"),
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
            (&["--control", "9000", "--listen", "0", "cat"], "add --dialect port and --port 3001"),
            (&["--ready", "http:healthz", "cat"], "begins with /"),
            (&["--ready", "http:", "cat"], "begins with /"),
        ] {
            let error = planned(arguments).unwrap_err().to_string();
            assert!(error.contains(fix), "{arguments:?}: {error}");
        }
        assert!(planned(&["--port", "9", "--ready", "http:/healthz", "cat"]).is_ok());
        assert!(planned(&["--port", "65533", "-i", "3", "cat"]).is_ok());
    }
}
