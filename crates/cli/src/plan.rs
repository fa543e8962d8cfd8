//! From what was typed to what the engine runs.

mod error;

pub(crate) use self::error::{Note, PlanError};

use std::ffi::{OsStr, OsString};

use worksong_control::Address;
use worksong_engine::cores::usable_cores;
use worksong_engine::program::{self, Request};
use worksong_engine::spec::{
    AppSpec, Deadlines, Dialect, ListenAddress, NodeFlavour, OpenLimits, Overload, Policies, Policy, Ready,
    RecycleLimits, Replacement, RestartPolicy, Spread, StopSignal, check_capture, check_capture_policies,
};
use worksong_engine::sticky::StickyBy;

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
        wants_channel: sockets.policy.iter().any(|typed| typed.policy().hands_over_all())
            || replacement.max_connections.is_some(),
        can_capture: surroundings.no_capture.is_none(),
        port: sockets.port,
        ready: life.ready.clone(),
    })?;
    let default = match resolved.dialect {
        Dialect::Capture { channel: false } => Policy::Kernel(Spread::default()),
        _ => policy_of_node(surroundings.node_policy.as_deref()),
    };
    let no_effect = no_effect(&sockets.policy, resolved.dialect);
    let handing_over = sockets.policy.iter().find(|typed| typed.policy().hands_over_all());
    let handing_over = handing_over.map(|typed| format!("--policy {}", typed.policy()));
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
    let guessed =
        if is_auto { guessed(&spec, surroundings.no_capture.as_deref(), handing_over) } else { None };
    let notes = resolved.warnings.into_iter().map(Note::Program);
    let notes = notes.chain(misplaced).chain(uncounted(&spec)).chain(no_effect).chain(guessed);
    let notes = notes.collect();
    Ok(Plan { spec, notes, control: control.control })
}

/// Says what nobody can know of a program: whether it binds a port by itself, which its workers would not share.
fn guessed(spec: &AppSpec, no_capture: Option<&str>, handing_over: Option<String>) -> Option<Note> {
    match (spec.dialect, no_capture) {
        (Dialect::Native | Dialect::Port { base: None }, Some(reason)) => {
            Some(Note::NotCaptured { reason: reason.to_owned() })
        }
        (Dialect::Native, None) => {
            let counting = || spec.recycle.max_connections.map(|_| "--max-connections".to_owned());
            let probing = || matches!(spec.ready, Ready::Probe(_)).then(|| "--ready".to_owned());
            handing_over.or_else(counting).or_else(probing).map(|asked| Note::TakenForNative { asked })
        }
        _ => None,
    }
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

/// Points out a policy that was typed although the workers accept in a way of their own.
fn no_effect(typed: &[PolicyArg], dialect: Dialect) -> Option<Note> {
    let is_round_robin = |typed: &&PolicyArg| *typed.policy() == Policy::RoundRobin;
    let is_for_all = |typed: &&PolicyArg| matches!(typed, PolicyArg::Elsewhere(_));
    let is_taken_back = typed.iter().filter(is_for_all).any(|typed| !is_round_robin(&typed));
    let (policy, why) = match dialect {
        Dialect::Port { .. } => (typed.first(), "each worker binds a port of its own"),
        Dialect::Node(NodeFlavour::Bun) => (typed.first(), "Bun binds its port by itself"),
        // At one address it takes back what is typed for all.
        Dialect::Activation if is_taken_back => return None,
        Dialect::Activation => (
            typed.iter().find(is_round_robin),
            "the workers accept from one socket that they inherit; --policy kernel gives each its own",
        ),
        Dialect::Node(_) | Dialect::Native | Dialect::Capture { .. } => return None,
    };
    let policy = policy?.policy();
    Some(Note::NoEffect { policy: policy.clone(), why })
}

/// Refuses what only a primary that accepts can do.
fn check_by_itself(spec: &AppSpec, policy: &Policy) -> Result<(), PlanError> {
    match policy {
        Policy::Sticky(by) => {
            let instead = match (spec.dialect, by) {
                (Dialect::Activation | Dialect::Capture { .. }, StickyBy::Address) => {
                    "use --policy kernel:ip"
                }
                _ => "leave it out",
            };
            Err(PlanError::StickyByItself { policy: policy.clone(), instead })
        }
        // It is what everybody has who asks for nothing, and one socket for all, unless that is captured.
        Policy::RoundRobin if !spec.dialect.captures() => Ok(()),
        _ if policy.hands_over_all() => Err(PlanError::ChosenByItself { policy: policy.clone() }),
        _ => Ok(()),
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
        Dialect::Activation
        | Dialect::Capture { channel: false }
        | Dialect::Port { .. }
        | Dialect::Node(NodeFlavour::Bun) => {
            spec.policies.all().try_for_each(|policy| check_by_itself(spec, policy))?;
        }
        Dialect::Node(_) | Dialect::Native | Dialect::Capture { channel: true } => {}
    }
    check_capture_policies(spec)?;
    spec.limits.check(spec)?;
    match spec.limits.overload {
        Overload::Wait => {}
        overload @ (Overload::Reset | Overload::Unavailable) => {
            if !spec.limits.is_any() {
                return Err(PlanError::NoLimit { overload });
            }
        }
    }
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
mod tests;
