//! From what somebody typed to what is executed, and how it will get its sockets.
//!
//! `resolve` looks at the file system once, before anything starts, so that a slip of the finger is one clear
//! sentence and not a crash loop. It leaves symbolic links alone: a link that points to the current release is
//! followed again at every start of a worker.

mod advice;
mod error;
mod lookup;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::spec::{Command, Dialect, NodeFlavour, Ready};

pub use advice::Warning;
pub use error::ProgramError;

/// What somebody typed, with everything that decides what it means.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is something that was typed, or found out, by itself"
)]
pub struct Request {
    /// A script, an executable, a name to look up, or a folder with a `package.json`.
    pub program: OsString,
    /// The program's own arguments.
    pub args: Vec<OsString>,
    /// What runs the script, in place of the one that its name suggests; `none` executes the file itself.
    pub interpreter: Option<OsString>,
    /// Arguments of the interpreter, before the script.
    pub interpreter_args: Vec<OsString>,
    /// The working directory of the workers, from which a relative program is meant.
    pub cwd: Option<PathBuf>,
    /// Variables for the workers.
    pub env: Vec<(OsString, OsString)>,
    /// The folders that are searched for commands, as in `PATH`.
    pub search_path: OsString,
    /// How the workers get their sockets.
    pub dialect: DialectChoice,
    /// True when the primary opens sockets by itself (`--listen`).
    pub listens: bool,
    /// True when addresses are to be taken from the program when it binds them (`--capture`).
    pub captures: bool,
    /// False when that is impossible here: see [`check_capture`](crate::spec::check_capture).
    pub can_capture: bool,
    /// True when something was asked for that only a worker with a channel can do, such as being handed connections.
    pub wants_channel: bool,
    /// The port of slot 0, or of all slots where they share one.
    pub port: Option<u16>,
    /// When a worker counts as ready.
    pub ready: Ready,
}

/// The dialect that somebody asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialectChoice {
    /// Found out by [`choose_dialect`].
    #[default]
    Auto,
    /// Node's cluster protocol.
    Node,
    /// The same messages, spoken by the `worksong-worker` crate.
    Native,
    /// Inherited sockets.
    Activation,
    /// Sockets of ours where the program binds.
    Capture,
    /// A port for each worker.
    Port,
}

/// A program that can be started.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// A name for the app, taken from the program.
    pub name: String,
    /// What is executed.
    pub command: Command,
    /// How the workers get their sockets.
    pub dialect: Dialect,
    /// When a worker counts as ready.
    pub ready: Ready,
    /// What will probably not do what was meant, although it can be started.
    pub warnings: Vec<Warning>,
}

/// What kind of program a worker is, as far as its name and first line tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A runtime that speaks Node's cluster protocol.
    Node(NodeFlavour),
    /// Something that starts the real server as a child of its own, so that no channel reaches it.
    Wrapper,
    /// A script in a language that has no channel.
    Script,
    /// An executable about which nothing is known.
    Binary,
}

/// Chooses how workers get their sockets and when they count as ready.
///
/// | asked for | program | dialect |
/// |---|---|---|
/// | a dialect | any | that one |
/// | auto | Node, Deno, Bun | `node` |
/// | auto, `--listen` | any other | `activation` |
/// | auto, `--port` | any other | `port` |
/// | auto | an unknown executable | `capture` with a channel |
/// | auto | any other | `capture` |
/// | auto, where nothing can be captured, or what is asked for takes a channel | an unknown executable | `native` |
/// | auto, where nothing can be captured | any other | `port` without a base: `PORT` is left alone |
///
/// `--capture` with Node, Deno or Bun is `capture`, too.
///
/// An unknown executable is offered the channel because it may be a Rust worker; a program that does not know the
/// channel ignores it. Nobody knows whether a program will listen at all, so unless something else was asked for
/// it is ready when it has started, until one of its workers has listened ([`Ready::Observed`]).
#[must_use]
pub fn choose_dialect(request: &Request, kind: Kind) -> (Dialect, Ready) {
    let port = Dialect::Port { base: request.port };
    let observed = || match &request.ready {
        Ready::Auto => Ready::Observed,
        asked => asked.clone(),
    };
    let dialect = match request.dialect {
        DialectChoice::Node => Dialect::Node(match kind {
            Kind::Node(flavour) => flavour,
            Kind::Wrapper | Kind::Script | Kind::Binary => NodeFlavour::Node,
        }),
        DialectChoice::Native => Dialect::Native,
        DialectChoice::Activation => Dialect::Activation,
        DialectChoice::Capture => Dialect::Capture { channel: false },
        DialectChoice::Port => port,
        DialectChoice::Auto if request.captures => Dialect::Capture { channel: false },
        DialectChoice::Auto => match kind {
            Kind::Node(flavour) => Dialect::Node(flavour),
            Kind::Wrapper | Kind::Script | Kind::Binary if request.listens => Dialect::Activation,
            Kind::Wrapper | Kind::Script if request.port.is_none() && request.can_capture => {
                return (Dialect::Capture { channel: false }, observed());
            }
            // A probe has to reach one worker and no other: that takes a channel.
            Kind::Binary
                if request.port.is_none()
                    && request.can_capture
                    && !request.wants_channel
                    && !matches!(request.ready, Ready::Probe(_)) =>
            {
                return (Dialect::Capture { channel: true }, observed());
            }
            Kind::Binary if request.port.is_none() => return (Dialect::Native, observed()),
            Kind::Wrapper | Kind::Script | Kind::Binary => port,
        },
    };
    (dialect, request.ready.clone())
}

/// Finds out what is executed for each worker.
///
/// # Errors
/// A [`ProgramError`] says what is missing and what to type instead. Nothing was started.
pub fn resolve(request: &Request) -> Result<Resolved, ProgramError> {
    let folder = working_folder(request)?;
    let target = target(request, &folder)?;
    let (dialect, ready) = choose_dialect(request, target.kind);
    let mut warnings = target.warnings;
    // Captured workers need no cluster.
    warnings.retain(|warning| !(dialect.captures() && matches!(warning, Warning::InlineCode { .. })));
    let mut env = request.env.clone();
    if let (Some(port), false) = (request.port, matches!(dialect, Dialect::Port { .. })) {
        // The workers share one socket, so they all have the same port.
        env.push(("PORT".into(), port.to_string().into()));
    }
    Ok(Resolved {
        name: target.name,
        command: Command { program: target.program, args: target.args, cwd: request.cwd.clone(), env },
        dialect,
        ready,
        warnings,
    })
}

/// What [`resolve`] found.
struct Target {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    kind: Kind,
    warnings: Vec<Warning>,
}

fn working_folder(request: &Request) -> Result<PathBuf, ProgramError> {
    let Some(cwd) = &request.cwd else { return Ok(PathBuf::new()) };
    match fs::metadata(cwd) {
        Ok(metadata) if metadata.is_dir() => Ok(cwd.clone()),
        Ok(_) => {
            Err(ProgramError::NoFolder { path: cwd.clone(), source: io::ErrorKind::NotADirectory.into() })
        }
        Err(source) => Err(ProgramError::NoFolder { path: cwd.clone(), source }),
    }
}

fn target(request: &Request, folder: &Path) -> Result<Target, ProgramError> {
    let typed = Path::new(&request.program);
    if typed.as_os_str().is_empty() {
        return Err(ProgramError::Empty);
    }
    let is_path = request.program.as_encoded_bytes().contains(&b'/');
    let names_script = request.interpreter.is_some() || lookup::runtime_of_extension(typed).is_some();
    if !is_path && !names_script {
        if let Some(program) = lookup::command(typed, &request.search_path) {
            return executable(request, folder, program);
        }
        if fs::metadata(folder.join(typed)).is_err() {
            return Err(ProgramError::UnknownCommand {
                name: typed.to_path_buf(),
                suggestion: lookup::near_name(folder, typed),
            });
        }
    }
    let path = folder.join(typed);
    let metadata = fs::metadata(&path).map_err(|source| missing(folder, typed, source))?;
    if metadata.is_dir() {
        let script = lookup::package_main(&path, typed)?;
        let name = lookup::package_name(&path);
        return script_target(request, folder, script, lookup::NODE, name);
    }
    if !metadata.is_file() {
        // Opening a pipe would wait for its writer, and every worker has to read the script.
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(ProgramError::Unreadable { path, source });
    }
    file_target(request, folder, typed, &path)
}

fn missing(folder: &Path, typed: &Path, source: io::Error) -> ProgramError {
    if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        ProgramError::Missing {
            name: typed.to_path_buf(),
            folder: absolute(folder),
            suggestion: lookup::near_name(folder, typed),
        }
    } else {
        ProgramError::Unreadable { path: folder.join(typed), source }
    }
}

fn file_target(request: &Request, folder: &Path, typed: &Path, path: &Path) -> Result<Target, ProgramError> {
    let script = |runtime| script_target(request, folder, typed.to_path_buf(), runtime, None);
    match &request.interpreter {
        Some(interpreter) if interpreter != "none" => {
            return script(lookup::runtime_of_name(interpreter).unwrap_or(lookup::UNKNOWN));
        }
        Some(_) => {}
        None => {
            if let Some(runtime) = lookup::runtime_of_extension(typed) {
                return script(runtime);
            }
        }
    }
    let first_line = lookup::shebang_runtime(path);
    match (first_line, lookup::is_executable(path)) {
        // The interpreter's arguments cannot be put into the first line of a script.
        (Some(runtime), true) if !request.interpreter_args.is_empty() => script(runtime),
        (_, true) => executable(request, folder, absolute(path)),
        (Some(runtime), false) if request.interpreter.is_none() => script(runtime),
        (_, false) => Err(ProgramError::NotExecutable { path: path.to_path_buf() }),
    }
}

/// A script with the interpreter that runs it; the script stays as it was typed, relative to the workers' folder.
fn script_target(
    request: &Request,
    folder: &Path,
    script: PathBuf,
    runtime: lookup::Runtime,
    name: Option<String>,
) -> Result<Target, ProgramError> {
    let path = folder.join(&script);
    File::open(&path).map_err(|source| ProgramError::Unreadable { path, source })?;
    let wanted = request.interpreter.as_deref().unwrap_or_else(|| OsStr::new(runtime.command));
    let Some(program) = lookup::command(Path::new(wanted), &request.search_path) else {
        return Err(ProgramError::NoInterpreter {
            interpreter: wanted.into(),
            script,
            install: runtime.install,
        });
    };
    let kind = match (runtime.kind, lookup::runtime_of_extension(&script)) {
        // An interpreter with an unknown name that is given JavaScript is some Node.
        (Kind::Script, Some(by_extension)) if runtime.command.is_empty() => by_extension.kind,
        (kind, _) => kind,
    };
    let warnings = advice::of_interpreter(wanted, &request.interpreter_args);
    let name = name.unwrap_or_else(|| app_name(&script));
    let mut args: Vec<OsString> = runtime.before_script.iter().map(OsString::from).collect();
    args.extend(request.interpreter_args.iter().cloned());
    args.push(script.into());
    args.extend(request.args.iter().cloned());
    let kind = if warnings.iter().any(Warning::hides_program) { Kind::Wrapper } else { kind };
    Ok(Target { name, program, args, kind, warnings })
}

/// A file that the kernel can execute, with its arguments as typed.
fn executable(request: &Request, folder: &Path, program: PathBuf) -> Result<Target, ProgramError> {
    let typed = Path::new(&request.program);
    let runtime = lookup::runtime_of_name(&request.program);
    let mut name = app_name(typed);
    let mut args = request.interpreter_args.clone();
    args.extend(request.args.iter().cloned());
    if let Some(runtime) = runtime {
        let script = lookup::script_argument(runtime, &request.args);
        if let Some(script) = script {
            File::open(folder.join(script)).map_err(|source| missing(folder, script, source))?;
            name = app_name(script);
        } else if args.is_empty() {
            return Err(ProgramError::NoScript { runtime: runtime.command });
        }
    } else if !request.interpreter_args.is_empty() {
        return Err(ProgramError::NothingInterprets { program: typed.to_path_buf() });
    }
    let warnings = advice::of_command(typed, &args, folder);
    let kind = if warnings.iter().any(Warning::hides_program) {
        Kind::Wrapper
    } else {
        runtime.map_or_else(|| lookup::kind_of_executable(&request.program, &program), |runtime| runtime.kind)
    };
    Ok(Target { name, program, args, kind, warnings })
}

/// `./dist/server.js` is the app `server`.
fn app_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem
        .chars()
        .map(
            |character| {
                if character.is_alphanumeric() || "._-".contains(character) { character } else { '-' }
            },
        )
        .collect();
    if name.is_empty() { "app".to_owned() } else { name }
}

/// An absolute path with its symbolic links as they are; the path itself when there is no working directory.
fn absolute(path: &Path) -> PathBuf {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests;
