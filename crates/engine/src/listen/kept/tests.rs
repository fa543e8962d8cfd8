use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use socket2::{Domain, Socket, Type};

use super::*;

/// A socket that listens at a kept path, in a folder of its own.
struct Kept {
    folder: PathBuf,
    path: PathBuf,
    kept: Option<KeptPath>,
    _socket: Socket,
}

impl Kept {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("worksong-kept-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("create a folder");
        let path = folder.join("x.sock");
        // Left behind by one that was killed.
        drop(UnixListener::bind(&path).expect("it is free"));
        drop(UnixListener::bind(folder.join(".x.sock.worksong")).expect("it is free"));
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let place = Place::find(&path).expect("a folder");
        let kept = KeptPath::bind(socket.as_fd(), place, &path, Mode::from_raw_mode(0o007)).expect("stale");
        socket.listen(10).expect("it is bound");
        Self { folder, path, kept: Some(kept), _socket: socket }
    }

    fn restore(&self) -> Option<i32> {
        self.kept.as_ref().expect("it is kept").restore().err().and_then(|error| error.raw_os_error())
    }

    fn names(&self) -> Vec<OsString> {
        let entries = fs::read_dir(&self.folder).expect("a folder").flatten();
        let mut names: Vec<OsString> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_path_has_a_link_beside_it_and_both_end_with_it() {
    let mut kept = Kept::new("ends");
    let mode = fs::metadata(&kept.path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o770, "the umask of its program");
    assert_eq!(kept.names(), [".x.sock.worksong", "x.sock"]);
    UnixStream::connect(&kept.path).expect("it listens");
    drop(kept.kept.take());
    assert_eq!(kept.names(), [""; 0]);
}

#[test]
fn a_path_that_is_gone_is_made_again() {
    let kept = Kept::new("gone");
    fs::set_permissions(&kept.path, fs::Permissions::from_mode(0o640)).expect("it is ours");
    for _ in 0..2 {
        fs::remove_file(&kept.path).expect("it is there");
        assert_eq!(kept.restore(), None);
        UnixStream::connect(&kept.path).expect("it is the same socket");
    }
    let mode = fs::metadata(&kept.path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "what was set on it stays");
    fs::remove_file(kept.folder.join(".x.sock.worksong")).expect("it is there");
    assert_eq!(kept.restore(), None);
    assert_eq!(kept.names(), [".x.sock.worksong", "x.sock"], "the other link is made again, too");
}

#[test]
fn the_path_of_a_stranger_is_left_alone_while_it_listens() {
    let mut kept = Kept::new("stranger");
    fs::remove_file(&kept.path).expect("it is there");
    let stranger = UnixListener::bind(&kept.path).expect("it is free");
    assert_eq!(kept.restore(), Some(libc::EADDRINUSE));
    drop(stranger);
    assert_eq!(kept.restore(), None, "what a dead one left behind is replaced");
    UnixStream::connect(&kept.path).expect("it is ours again");
    fs::remove_file(&kept.path).expect("it is there");
    fs::write(&kept.path, "a file").expect("it is free");
    assert_eq!(kept.restore(), Some(libc::EADDRINUSE));
    drop(kept.kept.take());
    assert_eq!(kept.names(), ["x.sock"], "what is not ours stays");
}

#[test]
fn without_any_link_nothing_can_be_made() {
    let kept = Kept::new("lost");
    for name in kept.names() {
        fs::remove_file(kept.folder.join(name)).expect("it is there");
    }
    assert_eq!(kept.restore(), Some(libc::ENOENT));
}

#[test]
fn a_place_is_the_same_by_another_path() {
    let kept = Kept::new("place");
    let folder = kept.folder.join("link");
    std::os::unix::fs::symlink(&kept.folder, &folder).expect("a link");
    let place = |path: &Path| Place::find(path).expect("a folder");
    assert!(place(&kept.path).is(&place(&folder.join("x.sock"))));
    assert!(!place(&kept.path).is(&place(&kept.folder.join("y.sock"))));
    assert!(Place::find(Path::new("/nowhere/x.sock")).is_err());
}
