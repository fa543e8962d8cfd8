//! The file that Node workers preload: written once to a folder that only this user can change.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What runs inside Node workers.
const SOURCE: &str = include_str!("../node/agent.cjs");
/// Others may list the folder and read the file, as workers of another user have to.
const FOLDER_MODE: u32 = 0o755;
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// With this option Node 20 reads nothing that it was not allowed to, not even what it preloads. Newer versions do, and
/// know it as `--permission`.
const RESTRICTION: &str = "--experimental-permission";

/// Writes the agent, unless it is there, and returns its path.
///
/// The file stays: its name says which version it is, and running workers of another primary may load it.
///
/// # Errors
///
/// When the folder cannot be made, belongs to somebody else, or others may write to it.
pub(crate) fn install() -> io::Result<PathBuf> {
    install_in(&folder())
}

/// Returns `NODE_OPTIONS` with the agent as the last option, for a Node with these arguments. The agent itself takes it
/// out again.
pub(crate) fn node_options(before: Option<&OsStr>, arguments: &[OsString], agent: &Path) -> OsString {
    let mut options = before.unwrap_or_default().to_owned();
    // Node reads it as a string with backslash escapes.
    let path = format!("\"{}\"", agent.to_string_lossy().replace('\\', r"\\").replace('"', "\\\""));
    let is_restricted = options.to_string_lossy().split_whitespace().any(|option| option == RESTRICTION)
        || arguments.iter().any(|argument| argument == RESTRICTION);
    if is_restricted {
        options.push(format!(" --allow-fs-read={path}"));
    }
    options.push(format!(" --require {path}"));
    options
}

fn folder() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_absolute()) {
        Some(folder) => PathBuf::from(folder).join("worksong"),
        None => std::env::temp_dir().join(format!("worksong-{}", rustix::process::geteuid().as_raw())),
    }
}

fn install_in(folder: &Path) -> io::Result<PathBuf> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Whoever could write here could run code in every worker.
    let found = fs::symlink_metadata(folder)?;
    let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || found.mode() & WRITABLE_BY_OTHERS != 0 {
        let reason = format!("{} is not a folder that only this user can write to", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    // The agent knows itself by its real path.
    let path = fs::canonicalize(folder)?.join(format!("agent-{:016x}.cjs", fingerprint(SOURCE.as_bytes())));
    if fs::read(&path).is_ok_and(|content| content == SOURCE.as_bytes()) {
        return Ok(path);
    }
    let unfinished = path.with_extension(format!("{}.new", std::process::id()));
    let written = File::create(&unfinished).and_then(|mut file| file.write_all(SOURCE.as_bytes()));
    written.and_then(|()| fs::rename(&unfinished, &path)).inspect_err(|_| {
        // Without the space for it there may be nothing to remove.
        let _absent = fs::remove_file(&unfinished);
    })?;
    Ok(path)
}

/// FNV-1a: the same in every build, which the standard library's hashes do not promise.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("worksong-agent-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _absent = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn it_is_written_once_and_mended() {
        let folder = Folder::new("written");
        let path = install_in(&folder.0).expect("a temporary folder");
        assert_eq!(fs::read_to_string(&path).expect("the agent"), SOURCE);
        fs::write(&path, "half a fi").expect("it is ours");
        assert_eq!(install_in(&folder.0).expect("once more"), path);
        assert_eq!(fs::read_to_string(&path).expect("the agent"), SOURCE);
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_folder_of_others_is_refused() {
        let folder = Folder::new("others");
        fs::create_dir(&folder.0).expect("a temporary folder");
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).expect("it is ours");
        assert_eq!(
            install_in(&folder.0).expect_err("anybody may write").kind(),
            io::ErrorKind::PermissionDenied
        );
        let link = Folder::new("link");
        fs::remove_dir(&folder.0).expect("it is empty");
        fs::create_dir(&folder.0).expect("a temporary folder");
        std::os::unix::fs::symlink(&folder.0, &link.0).expect("a link");
        let refused = install_in(&link.0);
        fs::remove_file(&link.0).expect("the link");
        assert_eq!(refused.expect_err("a link may be anybody's").kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn options_of_the_user_come_first() {
        let agent = Path::new("/tmp/with \"space\\/a.cjs");
        let quoted = r#" --require "/tmp/with \"space\\/a.cjs""#;
        assert_eq!(node_options(None, &[], agent), quoted);
        let options = node_options(Some(OsStr::new("--max-old-space-size=99")), &[], agent);
        assert_eq!(options, format!("--max-old-space-size=99{quoted}").as_str());
    }

    #[test]
    fn a_node_that_reads_only_what_it_may_reads_the_agent() {
        let agent = Path::new("/run/a.cjs");
        let allowed = r#" --allow-fs-read="/run/a.cjs" --require "/run/a.cjs""#;
        let arguments = [RESTRICTION, "--allow-fs-read=/app/*", "/app/server.js"].map(OsString::from);
        assert_eq!(node_options(None, &arguments, agent), allowed);
        let before = format!("--trace-exit {RESTRICTION}");
        assert_eq!(node_options(Some(OsStr::new(&before)), &[], agent), (before + allowed).as_str());
    }
}
