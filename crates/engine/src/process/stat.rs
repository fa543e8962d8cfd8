//! What `/proc/PID/stat` says of processes; the kernel tells it without waiting for them.

use std::fs;
use std::io;
use std::sync::OnceLock;

/// `PF_KTHREAD` of the flags in `proc_pid_stat(5)`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// A process as it was a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) number: u32,
    pub(super) parent: u32,
    /// A group from outside of a container has the number 0 inside.
    pub(super) group: u32,
    pub(super) is_zombie: bool,
    is_of_kernel: bool,
    /// In ticks of the kernel since the machine was started.
    started: u64,
}

impl Stat {
    /// Reads it; `None` when there is no such process.
    pub(super) fn of(number: u32) -> Option<Self> {
        // The kernel cuts names at 15 bytes, wherever a character ends.
        Self::parse(number, &String::from_utf8_lossy(&fs::read(format!("/proc/{number}/stat")).ok()?))
    }

    fn parse(number: u32, text: &str) -> Option<Self> {
        // The command before it may contain anything.
        let (_command, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let is_zombie = fields.next()? == "Z";
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let flags: u32 = fields.nth(3)?.parse().ok()?;
        let started = fields.nth(12)?.parse().ok()?;
        Some(Self { number, parent, group, is_zombie, is_of_kernel: flags & KERNEL_THREAD != 0, started })
    }

    /// Returns true for a running process that is no thread of the kernel.
    pub(super) fn is_ordinary(self) -> bool {
        !self.is_zombie && !self.is_of_kernel
    }

    /// Returns false for a process that was there before this one, and cannot have anything from it.
    ///
    /// To look closer at a process may take as long as that waits for a disk, so those that are nobody's here are spared.
    pub(super) fn is_younger(self) -> bool {
        static OWN: OnceLock<u64> = OnceLock::new();
        let own = *OWN.get_or_init(|| Self::of(std::process::id()).map_or(0, |own| own.started));
        self.started >= own
    }
}

/// Returns all processes.
pub(super) fn processes() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(number).filter_map(Stat::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "77 (a) b (c)) S 7 70 70 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        let stat = Stat::parse(77, text).expect("it is whole");
        let expected =
            Stat { number: 77, parent: 7, group: 70, is_zombie: false, is_of_kernel: false, started: 4242 };
        assert_eq!(stat, expected);
        assert!(stat.is_ordinary());
        for (state, flags) in [("Z", "4194304"), ("S", "2129984")] {
            let text = text.replace(" S ", &format!(" {state} ")).replace("4194304", flags);
            assert!(!Stat::parse(77, &text).expect("it is whole").is_ordinary());
        }
        for cut in ["", "77 (a", "77 (a) S", "77 (a) S 7 70 70 0 -1 4194304"] {
            assert_eq!(Stat::parse(77, cut), None);
        }
    }

    #[test]
    fn a_name_that_is_cut_within_a_character_hides_nobody() {
        let sleep = std::path::Path::new("/bin/sleep");
        let folder = std::env::temp_dir().join(format!("worksong-stat-{}", std::process::id()));
        fs::create_dir(&folder).expect("it is new");
        let program = folder.join("abcdefghijklmné-server");
        fs::copy(sleep, &program).expect("it is small");
        let mut child = std::process::Command::new(&program).arg("60").spawn().expect("it runs");
        let seen = Stat::of(child.id());
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        fs::remove_dir_all(&folder).expect("it is ours");
        assert_eq!(seen.map(|seen| seen.parent), Some(std::process::id()));
    }

    #[test]
    fn who_was_there_before_is_older() {
        let own = Stat::of(std::process::id()).expect("we live");
        assert!(own.is_younger() && own.is_ordinary());
        assert!(Stat::of(own.parent).is_none_or(|parent| parent.started <= own.started));
        let first = Stat { started: own.started - 1, ..own };
        assert!(!first.is_younger());
        assert!(processes().any(|process| process.number == own.number));
    }
}
