//! How this program is started again.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use worksong_engine::spec::Command;

/// Returns the command of this process.
pub(crate) fn this_program() -> io::Result<Command> {
    let mut arguments = env::args_os();
    let typed = arguments.next().unwrap_or_default();
    let program = executable(&typed, env::current_exe()?);
    Ok(Command { program, args: arguments.collect(), cwd: None, env: Vec::new() })
}

/// Prefers the path that was typed to the one that the kernel resolved: when it leads through a link to the current
/// release, a reload follows the link again.
fn executable(typed: &OsStr, running: PathBuf) -> PathBuf {
    if !typed.as_bytes().contains(&b'/') {
        return running;
    }
    let same = |path: &Path| path.canonicalize().ok() == running.canonicalize().ok();
    match std::path::absolute(typed) {
        Ok(path) if same(&path) => path,
        Ok(_) | Err(_) => running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_kept_and_a_wrong_name_is_not_believed() {
        let running = env::current_exe().unwrap();
        let folder = worksong_testkit::Folder::new();
        let link = folder.join("server");
        std::os::unix::fs::symlink(&running, &link).unwrap();
        assert_eq!(executable(link.as_os_str(), running.clone()), link);
        assert_eq!(executable(OsStr::new("server"), running.clone()), running);
        assert_eq!(executable(OsStr::new("/bin/sh"), running.clone()), running);
        assert_eq!(executable(OsStr::new(""), running.clone()), running);
    }
}
