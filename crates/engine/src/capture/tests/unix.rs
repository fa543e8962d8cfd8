//! Unix sockets that all workers share.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::*;
use crate::capture::answer::Outcome;
use crate::slots::{Offer, UnixPlace};

const SECOND: WorkerId = WorkerId { app: AppId(1), number: 2 };

/// A folder of its own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("worksong-unix-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("create a folder");
        Self(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("x.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// Begins a script that works in a folder.
fn script(folder: &Path, rest: &str) -> String {
    format!(
        "import stat\n\
         os.chdir({folder:?})\n\
         def unix(): return socket.socket(socket.AF_UNIX)\n\
         def bind(path, socket):\n\
         \x20   try: socket.bind(path)\n\
         \x20   except OSError as error: return error.errno\n\
         \x20   return 0\n\
         {rest}"
    )
}

#[test]
fn workers_share_what_the_first_one_binds() {
    let (desk, folder) = (Desk::new(), Folder::new("share"));
    let path = folder.socket();
    let addresses = [CaptureAddress::Unix(path.clone())];
    drop(UnixListener::bind(&path).expect("it is free"));
    let first = script(
        &folder.0,
        "os.umask(0o027); s = unix(); print(bind('x.sock', s))\n\
         print(s.getsockname(), oct(stat.S_IMODE(os.stat('x.sock').st_mode)))\n\
         s.listen(1); os.chmod('x.sock', 0o600)\n\
         c = unix(); c.connect('x.sock'); credentials = c.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)\n\
         print(struct.unpack('3i', credentials)[1:] == (os.getuid(), os.getgid()))\n\
         s.accept()\n",
    );
    let own = path.display();
    assert_eq!(desk.run(&first, &addresses), format!("0\n{own} 0o750\nTrue"), "a stale file is replaced");
    let listening = |worker| CaptureFact::Listening { worker, address: Address::Unix(path.clone()) };
    assert_eq!(desk.fact(), listening(WORKER));
    // Its process has ended, and it listens still.
    let mut client = UnixStream::connect(&path).expect("it is held");
    desk.slots.add(SECOND, Slot(1));
    let second = script(
        &folder.0,
        "s = unix(); os.remove('x.sock'); os.unlink('x.sock')\n\
         print(os.path.exists('x.sock'), bind('../' + os.path.basename(os.getcwd()) + '/x.sock', s))\n\
         s.listen(); s.accept()[0].sendall(b'hello')\n",
    );
    assert_eq!(desk.run_as(SECOND, &second, &addresses), "True 0", "the path is there all the time");
    assert_eq!(desk.fact(), listening(SECOND));
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "hello");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    drop(desk);
    eventually_gone(&folder.0);
}

#[test]
fn a_path_is_in_use_as_for_any_program() {
    let (desk, folder) = (Desk::new(), Folder::new("use"));
    let addresses = [CaptureAddress::Unix(folder.socket())];
    let stranger = UnixListener::bind(folder.socket()).expect("it is free");
    let text = script(&folder.0, "print(bind('x.sock', unix()))\n");
    let in_use = libc::EADDRINUSE;
    assert_eq!(desk.run(&text, &addresses), in_use.to_string());
    let failed = CaptureFact::Failed { worker: WORKER, address: "x.sock".to_owned(), errno: in_use };
    assert_eq!(desk.fact(), failed);
    drop(stranger);
    let text = script(
        &folder.0,
        "first = unix(); print(bind('x.sock', first)); first.listen()\n\
         print(bind('x.sock', unix()))\n\
         os.remove('x.sock'); second = unix(); print(bind('x.sock', second))\n\
         first.close(); second.close(); print(bind('x.sock', unix()))\n\
         print(bind('missing/x.sock', unix()), bind('', unix()))\n",
    );
    assert_eq!(desk.run(&text, &addresses), format!("0\n{in_use}\n0\n0\n{} 0", libc::ENOENT));
}

#[test]
fn what_others_remove_is_there_again_when_a_worker_has_gone() {
    let (desk, folder) = (Desk::new(), Folder::new("again"));
    let path = folder.socket();
    let addresses = [CaptureAddress::Unix(path.clone())];
    desk.run(&script(&folder.0, "s = unix(); s.bind('x.sock'); s.listen()\n"), &addresses);
    fs::remove_file(&path).expect("it is there");
    desk.run("", &addresses);
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(&path).is_err() {
        assert!(Instant::now() < deadline, "it is gone");
        thread::yield_now();
    }
}

#[test]
fn files_that_are_not_shared_are_removed_and_others_bound_as_ever() {
    let (desk, folder) = (Desk::new(), Folder::new("others"));
    let addresses = [CaptureAddress::Unix(folder.socket())];
    let text = script(
        &folder.0,
        "s = unix(); s.bind('y.sock'); s.listen(); os.remove('y.sock'); print(os.path.exists('y.sock'))\n\
         os.mkdir('a'); open('a/x.sock', 'w').close(); os.remove('a/x.sock'); print(os.path.exists('a/x.sock'))\n\
         folder = os.open('.', os.O_RDONLY)\n\
         d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind('x.sock'); os.unlink('x.sock', dir_fd=folder)\n\
         s = unix(); s.bind('x.sock'); s.listen(); os.unlink('x.sock', dir_fd=folder)\n\
         print(os.path.exists('x.sock'))\n",
    );
    assert_eq!(desk.run(&text, &addresses), "False\nFalse\nTrue");
}

#[test]
fn a_name_without_a_file_is_shared_too() {
    let desk = Desk::new();
    let name = format!("worksong-capture-{}", std::process::id());
    let addresses = [CaptureAddress::Unix(format!("\0{name}").into())];
    let text = format!(
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); s.listen()\n\
         print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))\n"
    );
    assert_eq!(desk.run(&text, &addresses), "1");
    let CaptureFact::Listening { address, .. } = desk.fact() else { panic!("it listens") };
    assert_eq!(address.to_string(), format!("@{name}"));
    desk.slots.add(SECOND, Slot(1));
    assert_eq!(desk.run_as(SECOND, &text, &addresses), "1");
}

#[test]
fn who_lives_in_another_root_binds_by_itself() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (desk, folder) = (Desk::new(), Folder::new("root"));
    let text = script(
        &folder.0,
        "os.chroot('.'); s = unix(); s.bind('/x.sock'); s.listen(); os.remove('/x.sock'); print(os.path.exists('/x.sock'))\n",
    );
    assert_eq!(desk.run(&text, &[CaptureAddress::Unix("/x.sock".into())]), "False");
    assert!(matches!(desk.fact(), CaptureFact::Blind { .. }));
}

#[test]
fn a_user_that_may_not_bind_a_path_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (desk, folder) = (Desk::new(), Folder::new("user"));
    let addresses = [CaptureAddress::Unix(folder.socket())];
    let become_nobody = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n";
    let text = script(&folder.0, &format!("{become_nobody}print(bind('x.sock', unix()))\n"));
    assert_eq!(desk.run(&text, &addresses), libc::EACCES.to_string());
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let text = script(
        &folder.0,
        &format!(
            "{become_nobody}s = unix(); s.bind('x.sock'); s.listen()\n\
             info = os.stat('x.sock'); print(info.st_uid, info.st_gid)\n\
             c = unix(); c.connect('x.sock'); credentials = c.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)\n\
             print(*struct.unpack('3i', credentials)[1:])\n"
        ),
    );
    assert_eq!(
        desk.run(&text, &addresses),
        "65534 65534\n65534 65534",
        "the file and who listens are its own"
    );
}

/// Waits until an app's handles are dropped, which happens on their thread.
fn eventually_gone(folder: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while fs::read_dir(folder).expect("a folder").next().is_some() {
        assert!(Instant::now() < deadline, "the path and its link are left");
        thread::yield_now();
    }
}

#[test]
fn who_looks_whether_a_shared_socket_listens_is_told_what_was_so_then() {
    let desk = Desk::new();
    let name = format!("worksong-looks-{}", std::process::id());
    let addresses = [CaptureAddress::Unix(format!("\0{name}").into())];
    let rest = format!(
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}')\n\
         print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), flush=True)\n"
    );
    let (watch, mut output) = desk.start(WORKER, &rest, &addresses);
    let pid = watch.leader;
    let mut watched = Watched::from(watch);
    loop {
        let Some(question) = watched.notifier.receive().expect("it asks") else { continue };
        let answer = match watched.decide(&question) {
            Outcome::Silent(answer) => answer,
            other => panic!("nothing is to be told: {other:?}"),
        };
        let is_look = matches!(question.call, notify::Call::LookWhetherItListens { .. });
        if is_look {
            // Another worker is faster than the kernel.
            let bound = desk.slots.unix().take(WORKER, &UnixPlace::Abstract(format!("\0{name}").into()));
            let Ok(Offer::Shared(shared)) = bound else { panic!("it is bound: {bound:?}") };
            desk.slots.unix().listen(Identity::of(&shared.socket).expect("an inode")).expect("it listens");
        }
        watched.notifier.answer(&question, answer);
        if is_look {
            break;
        }
    }
    let mut text = String::new();
    output.read_to_string(&mut text).expect("its output");
    end(pid);
    assert_eq!(text.trim(), "0", "so it will say that it listens");
}
