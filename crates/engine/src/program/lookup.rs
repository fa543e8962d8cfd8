//! What files say about themselves: names, first lines, packages, and the folders of `PATH`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde_json::Value;

use super::{Kind, ProgramError, absolute};
use crate::spec::NodeFlavour;

/// Something that runs scripts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runtime {
    /// Its command; empty when only its caller knows.
    pub(super) command: &'static str,
    pub(super) kind: Kind,
    /// What stands between the command and the script.
    pub(super) before_script: &'static [&'static str],
    /// How to get it, as the beginning of a sentence.
    pub(super) install: &'static str,
}

const fn script(command: &'static str, install: &'static str) -> Runtime {
    Runtime { command, kind: Kind::Script, before_script: &[], install }
}

/// Node.js, which runs `package.json` packages too.
pub(super) const NODE: Runtime = Runtime {
    command: "node",
    kind: Kind::Node(NodeFlavour::Node),
    before_script: &[],
    install: "install Node.js from https://nodejs.org, ",
};
const DENO: Runtime = Runtime {
    command: "deno",
    kind: Kind::Node(NodeFlavour::Deno),
    before_script: &["run", "-A"],
    install: "install Deno from https://deno.com, ",
};
const BUN: Runtime = Runtime {
    command: "bun",
    kind: Kind::Node(NodeFlavour::Bun),
    before_script: &[],
    install: "install Bun from https://bun.com, ",
};
/// An interpreter that somebody named and that we have never heard of.
pub(super) const UNKNOWN: Runtime = script("", "");

/// Returns what runs a script with this ending by default.
pub(super) fn runtime_of_extension(path: &Path) -> Option<Runtime> {
    Some(match path.extension()?.to_str()? {
        "js" | "cjs" | "mjs" | "ts" | "cts" | "mts" => NODE,
        "py" => script("python3", "install Python from your system's packages, "),
        "sh" => script("sh", ""),
        "rb" => script("ruby", "install Ruby from your system's packages, "),
        "php" => script("php", "install PHP from your system's packages, "),
        "pl" => script("perl", "install Perl from your system's packages, "),
        _ => return None,
    })
}

/// Returns the runtime that a command is, by its name: `node`, `nodejs`, `node22`, `/opt/bin/deno`.
pub(super) fn runtime_of_name(command: &OsStr) -> Option<Runtime> {
    match name_without_version(command)? {
        "node" | "nodejs" => Some(NODE),
        "deno" => Some(DENO),
        "bun" => Some(BUN),
        _ => None,
    }
}

/// Returns what kind of program a command is that is no such runtime: what these languages run speaks no protocol of
/// workers. A shell may become anything.
fn kind_of_name(command: &OsStr) -> Kind {
    match name_without_version(command) {
        Some("python" | "pypy" | "ruby" | "php" | "perl" | "java" | "lua") => Kind::Script,
        Some(_) | None => Kind::Binary,
    }
}

fn name_without_version(command: &OsStr) -> Option<&str> {
    let name = Path::new(command).file_name()?.to_str()?;
    Some(name.trim_end_matches(|character: char| character.is_ascii_digit() || ".-".contains(character)))
}

/// Returns what kind of program an executable is, as far as the name by which it was typed and its first line tell.
pub(super) fn kind_of_executable(typed: &OsStr, program: &Path) -> Kind {
    let by_first_line = || {
        let command = shebang_command(program)?;
        let runtime = runtime_of_name(OsStr::new(&command));
        Some(runtime.map_or_else(|| kind_of_name(OsStr::new(&command)), |runtime| runtime.kind))
    };
    match kind_of_name(typed) {
        Kind::Binary => by_first_line().unwrap_or(Kind::Binary),
        known @ (Kind::Node(_) | Kind::Wrapper | Kind::Script) => known,
    }
}

/// Returns the script among a runtime's arguments when it is the first of them.
///
/// Later ones are not looked for: options may have values that look like scripts.
pub(super) fn script_argument(runtime: Runtime, args: &[OsString]) -> Option<&Path> {
    let first = args.first().filter(|_| matches!(runtime.kind, Kind::Node(NodeFlavour::Node)))?;
    runtime_of_extension(Path::new(first)).map(|_| Path::new(first))
}

/// Returns the Node-like runtime that the first line of a script names: `#!/usr/bin/env -S node --flag`.
pub(super) fn shebang_runtime(path: &Path) -> Option<Runtime> {
    runtime_of_name(OsStr::new(&shebang_command(path)?))
}

/// Returns the command that the first line of a script names.
fn shebang_command(path: &Path) -> Option<String> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(256).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let first = words.next()?;
    let command = if first.ends_with("/env") { words.find(|word| !word.starts_with('-'))? } else { first };
    Some(command.to_owned())
}

/// Returns the absolute path of a command: a path as it stands, a name from the folders of `search_path`.
pub(super) fn command(typed: &Path, search_path: &OsStr) -> Option<PathBuf> {
    if typed.as_os_str().as_encoded_bytes().contains(&b'/') {
        return is_executable(typed).then(|| absolute(typed));
    }
    env::split_paths(search_path)
        .map(|folder| folder.join(typed))
        .find(|candidate| is_executable(candidate))
        .map(|found| absolute(&found))
}

/// Returns true for a file that this process may execute.
pub(super) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
        && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Returns the script that a package starts with, below `typed`, the way the folder was typed.
pub(super) fn package_main(folder: &Path, typed: &Path) -> Result<PathBuf, ProgramError> {
    let path = folder.join("package.json");
    let main = match fs::read(&path) {
        Ok(text) => {
            let bad = |reason| ProgramError::BadPackage { path: path.clone(), reason };
            let package: Value = serde_json::from_slice(&text)
                .map_err(|error| bad(format!("it is not valid JSON: {error}")))?;
            match package.get("main") {
                None => None,
                Some(Value::String(main)) => Some(main.clone()),
                Some(_) => return Err(bad("its \"main\" is not the path of a script".to_owned())),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(ProgramError::Unreadable { path, source }),
    };
    let wanted = main.as_deref().unwrap_or("index.js");
    // Node's own order for a main without an ending.
    ["", ".js", ".cjs", ".mjs", "/index.js"]
        .iter()
        .map(|ending| format!("{wanted}{ending}"))
        .find(|candidate| folder.join(candidate).is_file())
        .map(|found| typed.join(found))
        .ok_or_else(|| match main {
            Some(main) => {
                ProgramError::BadPackage { path, reason: format!("its \"main\" {main} does not exist") }
            }
            None if path.exists() => ProgramError::BadPackage {
                path,
                reason: "it has no \"main\" and there is no index.js".to_owned(),
            },
            None => ProgramError::IsDirectory {
                path: folder.to_path_buf(),
                suggestion: ["server", "app", "main"]
                    .iter()
                    .flat_map(|stem| {
                        ["js", "mjs", "cjs", "ts", "py"].map(|ending| format!("{stem}.{ending}"))
                    })
                    .find(|name| folder.join(name).is_file())
                    .map(|name| typed.join(name)),
            },
        })
}

/// Returns the name of the package in a folder, without its scope; else the folder's name.
pub(super) fn package_name(folder: &Path) -> Option<String> {
    let package: Option<Value> =
        fs::read(folder.join("package.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let given =
        package.as_ref().and_then(|package| package.get("name")?.as_str()).filter(|name| !name.is_empty());
    let name = given.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).or_else(|| {
        let absolute = fs::canonicalize(folder).ok()?;
        Some(absolute.file_name()?.to_string_lossy().into_owned())
    })?;
    // A dot is part of such a name, not the beginning of an ending.
    Some(super::app_name(Path::new(&format!("{name}.js"))))
}

/// Returns a file next to the one that was meant, with nearly the same name, typed the same way.
pub(super) fn near_name(folder: &Path, typed: &Path) -> Option<PathBuf> {
    let wanted = typed.file_name()?.to_str()?.to_lowercase();
    let parent = folder.join(typed.parent()?);
    let entries = fs::read_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { &parent }).ok()?;
    entries
        .take(1000)
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let known = runtime_of_extension(Path::new(&name)).is_some();
            let same_stem = known && Path::new(&name).file_stem() == Path::new(&wanted).file_stem();
            let distance = if same_stem { 1 } else { edits(&wanted, &name.to_lowercase()) };
            (distance <= 2 && distance * 3 <= wanted.chars().count()).then_some((distance, name))
        })
        .min()
        .map(|(_, name)| typed.with_file_name(name))
}

/// How many letters have to be inserted, removed, replaced or swapped with their neighbour.
fn edits(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, letter) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != other);
            let mut cost = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *letter == to[column - 1] && from[row - 1] == *other {
                cost = cost.min(before_last[column - 1] + 1);
            }
            current.push(cost);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}
