//! With whose rights a program binds a path.

use std::io;
use std::thread;

use rustix::fs::{Gid, Mode, Uid};
use rustix::process::{dumpable_behavior, getegid, geteuid, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::asker::field;

/// The user, the groups and the umask of a process, as far as files are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
    pub(super) umask: Mode,
}

impl Rights {
    /// Reads them out of `/proc/PID/status`.
    pub(super) fn parse(status: &str) -> Option<Self> {
        // Real, effective, saved, and that for files.
        let fourth = |name| field(status, name)?.split_whitespace().nth(3)?.parse().ok();
        let groups = field(status, "Groups:")?.split_whitespace();
        Some(Self {
            user: Uid::from_raw(fourth("Uid:")?),
            group: Gid::from_raw(fourth("Gid:")?),
            groups: groups.map(|group| group.parse().ok().map(Gid::from_raw)).collect::<Option<_>>()?,
            umask: Mode::from_raw_mode(u32::from_str_radix(field(status, "Umask:")?, 8).ok()?),
        })
    }

    /// Does something with the rights of this user and these groups: on a thread of its own if they are not ours.
    pub(super) fn lend<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if (self.user, self.group) == (geteuid(), getegid()) {
            return act();
        }
        let as_they_are = || {
            // The kernel keeps these for each thread; this one has nothing else to do.
            set_thread_groups(&self.groups)?;
            set_thread_res_gid(self.group, self.group, self.group)?;
            set_thread_res_uid(self.user, self.user, self.user)?;
            act()
        };
        // A thread that changes its user takes core dumps and `/proc` from the whole process.
        let before = dumpable_behavior()?;
        let acted = thread::scope(|scope| {
            let thread = thread::Builder::new().name("worksong-rights".to_owned());
            let thread = thread.spawn_scoped(scope, as_they_are)?;
            thread.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
        });
        // What was so before is allowed.
        let _as_before = set_dumpable_behavior(before);
        acted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_those_for_files() {
        let status = "Name:\tx\nUmask:\t0027\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        let rights = Rights::parse(status).expect("all of it is there");
        let groups = vec![Gid::from_raw(9), Gid::from_raw(10)];
        let expected = Rights {
            user: Uid::from_raw(4),
            group: Gid::from_raw(8),
            groups,
            umask: Mode::from_raw_mode(0o027),
        };
        assert_eq!(rights, expected);
        assert_eq!(Rights::parse("Uid:\t1"), None);
    }

    #[test]
    fn another_users_files_are_made_by_that_user() {
        if !geteuid().is_root() {
            return;
        }
        let nobody = Rights {
            user: Uid::from_raw(65534),
            group: Gid::from_raw(65534),
            groups: Vec::new(),
            umask: Mode::from_raw_mode(0o022),
        };
        let before = dumpable_behavior().ok();
        let forbidden = nobody.lend(|| std::fs::File::open("/etc/shadow").map(drop));
        assert_eq!(forbidden.expect_err("it is root's").kind(), io::ErrorKind::PermissionDenied);
        assert!(geteuid().is_root(), "this thread is what it was");
        assert_eq!(dumpable_behavior().ok(), before, "and so is the process");
        std::fs::File::open("/etc/shadow").expect("it may be read here");
    }
}
