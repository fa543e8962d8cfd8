//! Why a program cannot be started, and what to type instead.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why what was typed cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// Nothing was typed.
    #[error("no program was named; type `worksong run server.js`")]
    Empty,
    /// The file does not exist.
    #[error("could not find {} in {}; {}", name.display(), folder.display(), Next(suggestion.as_deref(), "type the path of the program, or name its folder with --cwd"))]
    Missing {
        /// The file as it was typed.
        name: PathBuf,
        /// Where it was looked for.
        folder: PathBuf,
        /// A file that is there and has nearly this name.
        suggestion: Option<PathBuf>,
    },
    /// The file or folder exists but cannot be read.
    #[error("could not read {}: {source}; make it readable for this user, or run worksong as the user who owns it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The working directory cannot be used.
    #[error("could not use the working directory {}: {source}; name a folder that exists with --cwd", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder was named that is no package.
    #[error("{} is a directory without a package.json or index.js; {}", path.display(), Next(suggestion.as_deref(), "name the file to run"))]
    IsDirectory {
        /// The folder.
        path: PathBuf,
        /// A file in it that looks like a server.
        suggestion: Option<PathBuf>,
    },
    /// The package's description does not lead to a script.
    #[error("could not run {}: {reason}; correct it, or name the script to run", path.display())]
    BadPackage {
        /// The `package.json`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is no script of a known kind and may not be executed.
    #[error("{0} is not executable; type `chmod +x {0}`, or name what runs it with --interpreter", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// What runs the script is not installed.
    #[error("could not find {} to run {}; {install}or give the path of it with --interpreter", interpreter.display(), script.display())]
    NoInterpreter {
        /// The interpreter.
        interpreter: OsString,
        /// The script that needs it.
        script: PathBuf,
        /// How to install it, as the beginning of a sentence, or nothing.
        install: &'static str,
    },
    /// A runtime was named without anything to run.
    #[error("{runtime} has no script to run; type `worksong run server.js`")]
    NoScript {
        /// The runtime.
        runtime: &'static str,
    },
    /// Interpreter arguments were given for a program that has no interpreter.
    #[error("{} has no interpreter to give --interpreter-args to; write its arguments after it", program.display())]
    NothingInterprets {
        /// The program.
        program: PathBuf,
    },
    /// No such command.
    #[error("could not find {} on PATH; {}", name.display(), Next(suggestion.as_deref(), "install it, or type the path of the program"))]
    UnknownCommand {
        /// The command.
        name: PathBuf,
        /// A file in the working directory that has nearly this name.
        suggestion: Option<PathBuf>,
    },
}

/// What to type next: the file that was probably meant, or general advice.
struct Next<'a>(Option<&'a Path>, &'static str);

impl fmt::Display for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, "did you mean `worksong run {}`?", path.display()),
            None => f.write_str(self.1),
        }
    }
}
