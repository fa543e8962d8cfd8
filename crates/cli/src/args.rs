//! What can be typed.

#![expect(clippy::doc_markdown, reason = "these comments are the help text, which is printed as it is")]

mod values;

pub(crate) use self::values::PolicyArg;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use worksong_control::Address;
use worksong_engine::cores::Instances;
use worksong_engine::program::DialectChoice;
use worksong_engine::spec::{CaptureAddress, ListenAddress, Overload, Ready, StopSignal};

const AFTER_HELP: &str = "\
Examples:
  worksong run server.js                        a Node program on every core
  worksong run -i 4 --listen 8080 -- ./server   any program, 4 workers, one inherited socket
  worksong demo                                 a built-in web server, to see how it works";

const AFTER_RUN_HELP: &str = "\
Options of worksong stand before PROGRAM; what follows belongs to the program. A `--` between them is accepted.

Signals:
  SIGTERM, SIGINT   drain all workers and end; a second one ends them at once
  SIGHUP, SIGUSR2   reload: replace every worker, each after its successor is ready

Examples:
  worksong run server.js                          one worker for each usable core
  worksong run -i 4 --name api dist/server.js -- --verbose
  worksong run --listen 8080 gunicorn app:app     the socket is inherited (LISTEN_FDS)
  worksong run -i 3 --port 9000 ./server          PORT is 9000, 9001 and 9002";

/// worksong runs any server program on every core.
#[derive(Debug, Parser)]
#[command(
    name = "worksong",
    version,
    about = "Run any server program on every core",
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What worksong does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program in the foreground, one worker for each core
    Run(Box<RunArgs>),
    /// Run a built-in web server in the foreground, to see how it works
    Demo(DemoArgs),
}

/// `worksong run`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_RUN_HELP)]
pub(crate) struct RunArgs {
    /// A script, an executable, a command on PATH, or a folder with a package.json; then its own arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["PROGRAM", "ARGS"], num_args = 1.., value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,

    #[command(flatten)]
    pub(crate) workers: WorkerArgs,
    #[command(flatten)]
    pub(crate) sockets: SocketArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
    #[command(flatten)]
    pub(crate) life: LifeArgs,
    #[command(flatten)]
    pub(crate) replacement: ReplacementArgs,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// How many workers, and what they are called.
#[derive(Debug, Args)]
#[command(next_help_heading = "Workers")]
pub(crate) struct WorkerArgs {
    /// Number of workers: a number, max (or 0) for one per usable core, -1 for one less
    #[arg(short, long, value_name = "N", default_value = "max", allow_hyphen_values = true)]
    pub(crate) instances: Instances,
    /// Name of the app in output and events [default: from the program]
    #[arg(short, long, value_parser = values::name)]
    pub(crate) name: Option<String>,
}

/// Where connections come from and how they find their worker.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sockets")]
pub(crate) struct SocketArgs {
    /// Open this socket for the workers: 8080, 127.0.0.1:8080, [::1]:80, udp:5353, /run/x.sock; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = values::listen_address)]
    pub(crate) listen: Vec<ListenAddress>,
    /// Take this address, and no other, from the program when it binds it, for all workers: 8080 (on whatever address),
    /// 127.0.0.1:8080, [::1]:8080, udp:53, /run/x.sock, unix:x.sock, @name; may be repeated [default: every TCP port that
    /// it binds]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) capture: Vec<CaptureAddress>,
    /// Set PORT: N + slot for programs that bind a port of their own, else N for all workers
    #[arg(long, value_name = "N", value_parser = values::port)]
    pub(crate) port: Option<u16>,
    /// How connections find their worker: round-robin (rr), least, shared (none), kernel, kernel:random, kernel:cpu, kernel:ip,
    /// sticky:ip, sticky:cookie:NAME, sticky:header:NAME, sticky:query:NAME, sticky:path:N, sticky:sni, sticky:proxy,
    /// sticky:socket.io, sticky:forwarded-for:ADDRESSES
    /// [default: NODE_CLUSTER_SCHED_POLICY, else round-robin; kernel where programs bind by themselves]. Once for each address that has another one: 8080=kernel
    #[arg(long, value_name = "[ADDRESS=]POLICY", value_parser = values::policy)]
    pub(crate) policy: Vec<PolicyArg>,
    /// How workers get their sockets
    #[arg(long, value_enum, default_value_t = DialectArg::Auto)]
    pub(crate) dialect: DialectArg,
}

/// How many connections may be open, and what becomes of more.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Give a worker nothing new while so many connections are open there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_open: Option<u64>,
    /// Take nothing new while so many connections are open in all workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_open_app: Option<u64>,
    /// What becomes of connections that no limit lets in: wait (in the kernel's queue), reset, or 503 (an HTTP answer)
    #[arg(long, value_name = "HOW", default_value_t)]
    pub(crate) overload: Overload,
}

/// Where the primary itself answers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Control")]
pub(crate) struct ControlArgs {
    /// Answer GET /assign with the address of the worker that has the fewest connections: 9000 (on 127.0.0.1),
    /// 0.0.0.0:9000, /run/x.sock
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) control: Option<Address>,
}

/// How the program is started.
#[derive(Debug, Args)]
#[command(next_help_heading = "Program")]
pub(crate) struct ProgramArgs {
    /// What runs the script [default: by its ending: node, python3, sh, ruby, php, perl]
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandName)]
    pub(crate) interpreter: Option<OsString>,
    /// Arguments for the interpreter, separated by spaces; may be repeated
    #[arg(long, alias = "node-args", value_name = "ARGS", allow_hyphen_values = true)]
    pub(crate) interpreter_args: Vec<String>,
    /// Working directory of the workers
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) cwd: Option<PathBuf>,
    /// Set a variable for the workers; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::variable())]
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Do not preload the agent into Node workers: connections are closed when a worker leaves, not moved
    #[arg(long)]
    pub(crate) no_agent: bool,
}

/// From the start of a worker to its end.
#[derive(Debug, Args)]
#[command(next_help_heading = "Life of a worker (times: 500ms, 30s, 2m)")]
pub(crate) struct LifeArgs {
    /// When a worker counts as ready: auto, listening, message, started, tcp (it takes a connection), http:/PATH (it
    /// answers GET /PATH with 2xx or 3xx)
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = values::ready)]
    pub(crate) ready: Ready,
    /// Longest time from start to ready
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::duration)]
    pub(crate) ready_timeout: Duration,
    /// Signal that asks a worker to leave where no message does: QUIT for nginx, WINCH for Apache, USR1 for HAProxy.
    /// TERM goes to all its processes, another one to its first
    #[arg(long, value_name = "SIGNAL", default_value_t = StopSignal::default())]
    pub(crate) stop_signal: StopSignal,
    /// Longest time to finish open requests before SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::duration)]
    pub(crate) drain_timeout: Duration,
    /// Longest time from SIGTERM to SIGKILL
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::duration)]
    pub(crate) kill_timeout: Duration,
    /// Longest time a worker may leave a connection or a ping unanswered before it is replaced
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::duration)]
    pub(crate) hung_timeout: Duration,
    /// Longest time connections wait while no worker is ready; 0s: for ever
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::duration)]
    pub(crate) hold_timeout: Duration,
    /// Give a slot up after this many failures in a row
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_restarts: u32,
    /// Wait before the first restart; doubled by each further failure
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = values::duration)]
    pub(crate) restart_delay: Duration,
    /// Longest wait before a restart; never less than the first
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = values::duration)]
    pub(crate) max_restart_delay: Duration,
    /// Forget a slot's failures when its worker was up for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::duration)]
    pub(crate) stable_after: Duration,
}

/// When workers that serve are replaced, and how many at a time.
#[derive(Debug, Args)]
#[command(next_help_heading = "Replacement of workers (each worker's limits differ by up to 10 %)")]
pub(crate) struct ReplacementArgs {
    /// Replace a worker when the primary has handed it this many connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_connections: Option<u64>,
    /// Replace a worker at this age: 12h, 30m
    #[arg(long, value_name = "TIME", value_parser = values::age)]
    pub(crate) max_age: Option<Duration>,
    /// Replace a worker with more resident memory than this: 200M, 1G
    #[arg(long, alias = "max-memory-restart", value_name = "SIZE", value_parser = values::memory_bytes)]
    pub(crate) max_memory: Option<u64>,
    /// How many new workers may be starting at a time, in a reload as in any other replacement
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) surge: u32,
    /// How many replacements may be under way at a time, until the old worker is gone [default: one for each slot]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) parallel: Option<u32>,
}

/// How output looks.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that people type; clap excludes raw with json"
)]
pub(crate) struct OutputArgs {
    /// Print what workers print as it is, without a prefix
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
    /// Print a JSON object per line: output of workers on stdout, events on stderr
    #[arg(long)]
    pub(crate) json: bool,
    /// Report every event, also those of normal life
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print without colours, as with NO_COLOR=1
    #[arg(long)]
    pub(crate) no_color: bool,
}

/// `worksong demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Number of workers: a number, max (or 0) for one per usable core, -1 for one less
    #[arg(short, long, value_name = "N", default_value = "max", allow_hyphen_values = true)]
    pub(crate) instances: Instances,
    /// Where the server listens: 8080, 127.0.0.1:8080, [::1]:80, /run/x.sock
    #[arg(long, value_name = "ADDRESS", default_value = "8080", value_parser = values::stream_address)]
    pub(crate) listen: ListenAddress,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A [`DialectChoice`] as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DialectArg {
    /// By the program and the other options
    Auto,
    /// Node's cluster protocol
    Node,
    /// The same for Rust programs with the worksong crate
    Native,
    /// Inherited sockets (LISTEN_FDS)
    Activation,
    /// Sockets of worksong where the program binds its port
    Capture,
    /// A port of its own for each worker (PORT)
    Port,
}

impl From<DialectArg> for DialectChoice {
    fn from(dialect: DialectArg) -> Self {
        match dialect {
            DialectArg::Auto => Self::Auto,
            DialectArg::Node => Self::Node,
            DialectArg::Native => Self::Native,
            DialectArg::Activation => Self::Activation,
            DialectArg::Capture => Self::Capture,
            DialectArg::Port => Self::Port,
        }
    }
}

#[cfg(test)]
mod tests;
