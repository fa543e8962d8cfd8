//! The good builds of each kind of program, and what is wrong with the bad ones.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::OnceLock;

use worksong_testkit::{binary, fixture};

/// A good server.
pub(crate) const SERVE: &str = "const server = require('node:http').createServer((request, response) => {
  response.end(JSON.stringify({ pid: process.pid }));
});
server.keepAliveTimeout = 0;
server.listen(0, () => process.send('ready'));
";
const SAYS_READY: &str = ", () => process.send('ready')";
/// Keeps a Node process alive.
const WAIT: &str = "setInterval(() => {}, 1 << 30);\n";

/// What a program is, and how it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// JavaScript, which `node` is given.
    Script,
    /// JavaScript, which the kernel executes by its first line.
    Executable,
    /// A script on an inherited socket; its workers have no channel.
    Python,
    /// A Rust program.
    Rust,
}

/// What stands in the program's place.
#[derive(Clone, Debug)]
pub(crate) enum File {
    Text { content: String, mode: u32 },
    Link(PathBuf),
    Missing,
}

/// Which of the old workers must still be there after the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    All,
    /// The build was ready: its first worker had taken a slot.
    AllButFirst,
}

/// A bad build.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    pub(crate) file: File,
    pub(crate) options: &'static [&'static str],
    pub(crate) ready_timeout: &'static str,
    pub(crate) kill_timeout: &'static str,
    /// What the failed reload says.
    pub(crate) reason: &'static str,
    /// What stands in the last lines of the worker's stderr.
    pub(crate) words: &'static str,
    pub(crate) stay: Stay,
}

impl Family {
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Script => "server.cjs",
            Self::Executable | Self::Rust => "server",
            Self::Python => "server.py",
        }
    }

    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Script | Self::Executable => &[],
            Self::Python => &["--listen", "127.0.0.1:0"],
            Self::Rust => &["--dialect", "native"],
        }
    }

    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Script | Self::Executable | Self::Python => &[],
            Self::Rust => &["127.0.0.1:0"],
        }
    }

    pub(crate) fn keeps_connections(self) -> bool {
        match self {
            Self::Script | Self::Executable => true,
            Self::Python | Self::Rust => false,
        }
    }

    pub(crate) fn good(self) -> File {
        match self {
            Self::Script => text(SERVE),
            // A CommonJS program without an ending.
            Self::Executable => executable(format!("#!/usr/bin/env node\n{SERVE}")),
            Self::Python => {
                text(fs::read_to_string(fixture("python/activation.py")).expect("the fixture is there"))
            }
            Self::Rust => File::Link(binary("examples/under_node")),
        }
    }
}

fn text(content: impl Into<String>) -> File {
    File::Text { content: content.into(), mode: 0o644 }
}

fn executable(content: impl Into<String>) -> File {
    File::Text { content: content.into(), mode: 0o755 }
}

impl Build {
    /// A build that ends by itself: it has time for that, also on a busy machine.
    fn new(family: Family, name: &'static str, file: File, reason: &'static str) -> Self {
        Self {
            name,
            family,
            file,
            options: &[],
            ready_timeout: "20s",
            kill_timeout: "20s",
            reason,
            words: "",
            stay: Stay::All,
        }
    }

    fn options(self, options: &'static [&'static str]) -> Self {
        Self { options, ..self }
    }

    /// For a build whose failure is that it is late.
    fn late(self) -> Self {
        Self { ready_timeout: "3s", kill_timeout: "500ms", ..self }
    }

    fn words(self, words: &'static str) -> Self {
        Self { words, ..self }
    }

    fn stay(self, stay: Stay) -> Self {
        Self { stay, ..self }
    }
}

fn node(name: &'static str, program: impl Into<String>, reason: &'static str) -> Build {
    Build::new(Family::Script, name, text(program), reason)
}

const NOT_LISTENING: &str = "was not ready within 3s: its program runs and does not listen";
const SILENT: &str = "was not ready within 3s: nothing was heard of it";

/// An address that somebody else holds for as long as the tests run.
fn foreign_port() -> u16 {
    static HELD: OnceLock<TcpListener> = OnceLock::new();
    let held = HELD.get_or_init(|| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.local_addr().expect("it is bound").port()
}

pub(crate) fn that_end() -> Vec<Build> {
    let leak = "const kept = [];
for (let i = 0; ; i++) kept.push({ text: `number ${i}`, kept });
";
    let foreign = format!("require('node:net').createServer().listen({}, '127.0.0.1');", foreign_port());
    vec![
        node("syntax error", "const = 1;", "ended before it was ready: exit code 1").words("SyntaxError"),
        node("not a text", "\u{1}\u{2}\u{7f}ELF", "ended before it was ready: exit code 1")
            .words("SyntaxError"),
        node("missing module", "require('no-such-module');", "ended before it was ready: exit code 1")
            .words("Cannot find module 'no-such-module'"),
        node("exit 0 at once", "process.exit(0);", "ended before it was ready: exit code 0"),
        node("exit 1 at once", "process.exit(1);", "ended before it was ready: exit code 1"),
        node("nothing to do", "process.channel.unref();", "ended before it was ready: exit code 0"),
        node(
            "exit 1 late",
            format!("{}setTimeout(() => process.exit(1), 300);", SERVE.replace(SAYS_READY, "")),
            "exit code 1",
        )
        .options(&["--ready", "message"]),
        node(
            "unhandled rejection",
            format!("Promise.reject(new Error('nobody has caught this'));{WAIT}"),
            "ended before it was ready: exit code 1",
        )
        .words("nobody has caught this"),
        node("port in use", foreign, "ended before it was ready: exit code 1").words("EADDRINUSE"),
        node("abort", "process.abort();", "ended before it was ready: SIGABRT"),
        node(
            "segmentation fault",
            format!("process.kill(process.pid, 'SIGSEGV');{WAIT}"),
            "ended before it was ready: SIGSEGV",
        ),
        node("leaks", leak, "ended before it was ready: ")
            .options(&["--interpreter-args", "--max-old-space-size=24"])
            .words("heap"),
        node("disconnects", format!("process.disconnect();{WAIT}"), "ended before it was ready: exit code 0"),
        Build::new(Family::Python, "python syntax error", text("def def:\n"), "exit code 1")
            .words("SyntaxError"),
        Build::new(
            Family::Python,
            "python ends late",
            text("import time\ntime.sleep(0.4)\nraise SystemExit('no database')\n"),
            "exit code 1",
        )
        .words("no database"),
        Build::new(
            Family::Rust,
            "another executable",
            File::Link("/bin/false".into()),
            "ended before it was ready: exit code 1",
        ),
    ]
}

pub(crate) fn that_hang() -> Vec<Build> {
    let detaches = "const { spawn } = require('node:child_process');
const child = spawn('sleep', ['600'], { detached: true, stdio: 'ignore' });
child.unref();
console.log('child', child.pid);
";
    let other_group = "#!/usr/bin/env python3
import os, time
os.setpgid(0, os.getpgid(os.getppid()))
time.sleep(600)
";
    let builds = vec![
        node("hangs before it listens", WAIT, NOT_LISTENING),
        node("infinite loop", "for (;;);", "was not ready within 3s"),
        node(
            "stops itself",
            format!("process.kill(process.pid, 'SIGSTOP');{WAIT}"),
            "was not ready within 3s",
        ),
        node("ignores SIGTERM", format!("process.on('SIGTERM', () => {{}});{WAIT}"), NOT_LISTENING),
        node("detaches a child", format!("{detaches}{WAIT}"), NOT_LISTENING),
        node(
            "closes its server",
            "const server = require('node:http').createServer().listen(0, () => server.close());",
            NOT_LISTENING,
        ),
        node(
            "never says that it is ready",
            SERVE.replace(SAYS_READY, ""),
            "it listens and does not say that it is ready",
        )
        .options(&["--ready", "message"]),
        Build::new(Family::Rust, "changes its process group", executable(other_group), SILENT),
        Build::new(Family::Rust, "hangs", executable("#!/bin/sh\nexec sleep 600\n"), SILENT),
    ];
    builds.into_iter().map(Build::late).collect()
}

pub(crate) fn that_misbehave() -> Vec<Build> {
    let write = "const { writeSync } = require('node:fs');
const all = (fd, text) => {
  for (let bytes = Buffer.from(text); bytes.length > 0; ) {
    try {
      bytes = bytes.subarray(writeSync(fd, bytes));
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
    }
  }
};
";
    let builds = vec![
        node(
            "floods stdout",
            format!("{write}for (let i = 0; i < 4000; i++) all(1, 'x'.repeat(999) + '\\n');{WAIT}"),
            NOT_LISTENING,
        ),
        node(
            "floods stderr without a line",
            format!("{write}for (let i = 0; i < 4000; i++) all(2, 'x'.repeat(1000));{WAIT}"),
            NOT_LISTENING,
        ),
        node(
            "floods the channel",
            format!("for (let i = 0; i < 3000; i++) process.send({{ i, text: 'x'.repeat(100) }});{WAIT}"),
            NOT_LISTENING,
        ),
        node(
            "garbage on the channel",
            format!("{write}for (let i = 0; i < 1000; i++) all(3, '{{garbage' + i + '\\n');{WAIT}"),
            NOT_LISTENING,
        ),
        node(
            "half a message on the channel",
            format!("{write}all(3, '{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"list');{WAIT}"),
            NOT_LISTENING,
        ),
        node(
            "closes all descriptors",
            format!(
                "for (let fd = 3; fd < 100; fd++) try {{ require('node:fs').closeSync(fd); }} catch {{}}\n{WAIT}"
            ),
            "ended before it was ready: SIGABRT",
        ),
    ];
    builds.into_iter().map(Build::late).collect()
}

pub(crate) fn that_seem_ready() -> Vec<Build> {
    let answering = |code: &str| {
        format!("require('node:http').createServer((request, response) => {{ {code} }}).listen(0);")
    };
    vec![
        node("wrong port", SERVE.replace("listen(0", "listen(0, '127.0.0.1'"), "and not on *:").late(),
        node(
            "wrong port, and says that it is ready",
            SERVE.replace("listen(0", "listen(0, '127.0.0.1'"),
            "and not on *:",
        )
        .late()
        .options(&["--ready", "message"]),
        node(
            "throws when it is ready",
            SERVE.replace("process.send('ready')", "{ throw new Error('thrown in ready'); }"),
            "ended ",
        )
        .words("thrown in ready"),
        node("answers 500", answering("response.writeHead(500); response.end();"), "GET / answered 500")
            .late()
            .options(&["--ready", "http:/"]),
        node("crashes at its first request", answering("throw new Error('no table users');"), "exit code 1")
            .options(&["--ready", "http:/"])
            .words("no table users"),
        node("infinite loop at its first request", answering("for (;;);"), "was not ready within 3s: GET / ")
            .late()
            .options(&["--ready", "http:/"]),
        node("never answers", answering(""), "GET / was not answered within 1s")
            .late()
            .options(&["--ready", "http:/"]),
        node("speaks no HTTP", answering("response.socket.end('hello\\n');"), "that is not HTTP: \"hello\"")
            .late()
            .options(&["--ready", "http:/"]),
        node(
            "exits 0 after it listens",
            slot_by_slot(&format!("{SERVE}setTimeout(() => process.exit(0), 20);")),
            "after it was ready: exit code 0",
        )
        .stay(Stay::AllButFirst),
        node(
            "closes its channel after it listens",
            slot_by_slot(&format!("{SERVE}setTimeout(() => process.disconnect(), 20);")),
            "after it was ready: exit code 0",
        )
        .stay(Stay::AllButFirst),
        node(
            "leaves by itself after it listens",
            // The second one comes so late that the reload still runs when the first one leaves. That leaves before
            // it has a connection: Node would wait for the next request on it.
            format!(
                "setTimeout(() => {{
  {SERVE}
  server.once('listening', () => require('node:cluster').worker.disconnect());
}}, 500 * process.env.WORKSONG_SLOT);"
            ),
            "ms after it was ready",
        )
        .stay(Stay::AllButFirst),
    ]
}

/// Lets the worker of slot 0 be the first to fail, however long its end takes.
fn slot_by_slot(program: &str) -> String {
    format!("setTimeout(() => {{ {program} }}, 500 * process.env.WORKSONG_SLOT);")
}

pub(crate) fn that_cannot_start() -> Vec<Build> {
    let build = |name, file, reason| Build::new(Family::Executable, name, file, reason);
    vec![
        build(
            "wrong interpreter",
            executable(format!("#!/usr/bin/no-such-node\n{SERVE}")),
            "could not be started: could not execute",
        ),
        build("not executable", text(format!("#!/usr/bin/env node\n{SERVE}")), "Permission denied"),
        build("missing file", File::Missing, "No such file or directory"),
        build("empty file", executable(""), "could not be started: could not execute"),
        Build::new(Family::Script, "missing script", File::Missing, "ended before it was ready: exit code 1")
            .words("Cannot find module"),
    ]
}
