//! What can be started but will probably not do what was meant.
//!
//! Each case was seen live: the protocol specification, section 11, pitfalls 17 to 19.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Kind, lookup};

/// What a server lacks that is no worker itself.
const NO_CHANNEL: &str = "without a channel to worksong: its connections end in a reload and do not move";

/// A program that can be started but will probably not do what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// `npm start` and its like: the package manager becomes the worker, the server is a child of it.
    PackageManager {
        /// The package manager as it was typed.
        program: String,
        /// The package's start script, when there is one.
        start: Option<String>,
    },
    /// `nodemon`, `tsx`: the server is a child of the worker.
    Launcher {
        /// The launcher as it was typed.
        program: String,
    },
    /// `node --watch`: the watcher becomes the worker.
    Watcher {
        /// The option.
        option: String,
    },
    /// `node -e`: there is no script, so Node does not start its cluster half.
    InlineCode {
        /// The option.
        option: String,
    },
}

impl Warning {
    /// Returns true when the server is a child of the worker, so that no channel reaches it.
    #[must_use]
    pub fn hides_program(&self) -> bool {
        match self {
            Self::PackageManager { .. } | Self::Launcher { .. } | Self::Watcher { .. } => true,
            Self::InlineCode { .. } => false,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PackageManager { program, start } => {
                write!(f, "{program} starts the server as a child of its own, {NO_CHANNEL}; ")?;
                match start {
                    Some(start) => {
                        write!(f, "the start script is `{start}`: give that program to worksong run")
                    }
                    None => write!(f, "give worksong the script itself: `worksong run server.js`"),
                }
            }
            Self::Launcher { program } => {
                write!(f, "{program} starts the server as a child of its own, {NO_CHANNEL}; ")?;
                match program.as_str() {
                    "tsx" => f.write_str("type `worksong run --interpreter-args \"--import tsx\" server.ts`"),
                    _ => f.write_str("give worksong the script itself: `worksong run server.js`"),
                }
            }
            Self::Watcher { option } => write!(
                f,
                "with {option} the watcher becomes the worker and the server is a child of it, {NO_CHANNEL}; leave {option} out"
            ),
            Self::InlineCode { option } => write!(
                f,
                "with {option} there is no script, and Node joins a cluster only with one; put the code into a file"
            ),
        }
    }
}

/// Warnings about a command with its own arguments, such as `npm start` or `node --watch app.js`.
pub(super) fn of_command(typed: &Path, args: &[OsString], folder: &Path) -> Vec<Warning> {
    let name = typed.file_name().unwrap_or_default();
    match name.to_str().unwrap_or_default() {
        program @ ("npm" | "npx" | "yarn" | "pnpm") => {
            let start = start_script(folder);
            vec![Warning::PackageManager { program: program.to_owned(), start }]
        }
        _ => of_interpreter(typed.as_os_str(), args),
    }
}

/// Warnings about what runs a script and the options of it.
pub(super) fn of_interpreter(command: &OsStr, options: &[OsString]) -> Vec<Warning> {
    let name = Path::new(command).file_name().unwrap_or_default();
    if let Some(program @ ("nodemon" | "tsx" | "node-dev")) = name.to_str() {
        return vec![Warning::Launcher { program: program.to_owned() }];
    }
    if !lookup::runtime_of_name(name).is_some_and(|runtime| matches!(runtime.kind, Kind::Node(_))) {
        return Vec::new();
    }
    options
        .iter()
        .map_while(|option| option.to_str().filter(|option| option.starts_with('-') && *option != "--"))
        .filter_map(|option| match option.split('=').next().unwrap_or(option) {
            "--watch" | "--watch-path" => Some(Warning::Watcher { option: option.to_owned() }),
            "-e" | "-p" | "-pe" | "--eval" | "--print" => {
                Some(Warning::InlineCode { option: option.to_owned() })
            }
            _ => None,
        })
        .collect()
}

fn start_script(folder: &Path) -> Option<String> {
    let package: Value = serde_json::from_slice(&fs::read(folder.join("package.json")).ok()?).ok()?;
    Some(package.get("scripts")?.get("start")?.as_str()?.to_owned())
}
