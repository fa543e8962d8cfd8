//! What `/proc` says of a process: CPU time of all its threads, memory, children.

use std::fs;
use std::io;

/// The memory of a process, in kB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Pages that are in memory, shared or not.
    pub(crate) rss: u64,
    /// The same, each shared page divided by the number of processes that share it.
    pub(crate) pss: u64,
    /// Pages that no other process shares.
    pub(crate) private: u64,
    /// Pages that are no file's: what the program itself has written.
    pub(crate) anonymous: u64,
}

/// Returns the CPU time of all threads of a process, in nanoseconds.
///
/// Ticks of `/proc/PID/stat` (10 ms) are too coarse for a run of two seconds, schedstat counts nanoseconds.
pub(crate) fn cpu_nanoseconds(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("schedstat")) {
            Ok(text) => total += parse_schedstat(&text).ok_or(io::ErrorKind::InvalidData)?,
            // A thread that ended between the listing and the read; a process that ended has no listing.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Returns how often the threads of a process have gone to sleep: each time, something had to wake them.
pub(crate) fn sleeps(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("status")) {
            Ok(text) => total += parse_voluntary_switches(&text).ok_or(io::ErrorKind::InvalidData)?,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Returns the memory of a process.
pub(crate) fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    parse_smaps_rollup(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the direct children of a process.
pub(crate) fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("children"))?;
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// Returns true for the errors by which `/proc` says that a process or thread has ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Returns the first field of a schedstat line: nanoseconds on a CPU.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn parse_voluntary_switches(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

fn parse_smaps_rollup(text: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(Memory {
        rss: field("Rss")?,
        pss: field("Pss")?,
        private: field("Private_Clean")? + field("Private_Dirty")?,
        anonymous: field("Anonymous")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_gives_time_on_cpu() {
        assert_eq!(parse_schedstat("123456789 4242 17\n"), Some(123_456_789));
        assert_eq!(parse_schedstat(""), None);
        assert_eq!(parse_schedstat("x 1 2"), None);
    }

    #[test]
    fn status_gives_sleeps() {
        let text = "Name:\tnode\nvoluntary_ctxt_switches:\t42\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(parse_voluntary_switches(text), Some(42));
        assert_eq!(parse_voluntary_switches("Name:\tnode\n"), None);
    }

    #[test]
    fn smaps_rollup_gives_its_figures() {
        let text = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\n\
                    Rss:                2388 kB\n\
                    Pss:                1057 kB\n\
                    Pss_Dirty:           700 kB\n\
                    Private_Clean:       152 kB\n\
                    Private_Dirty:       700 kB\n\
                    Anonymous:           650 kB\n";
        let memory = Memory { rss: 2388, pss: 1057, private: 852, anonymous: 650 };
        assert_eq!(parse_smaps_rollup(text), Some(memory));
        assert_eq!(parse_smaps_rollup("Rss: 1 kB\n"), None);
    }

    #[test]
    fn own_time_grows_with_work_and_covers_other_threads() {
        let own = std::process::id();
        let before = cpu_nanoseconds(own).unwrap();
        // The thread must still exist when it is counted, so it reports its work and then waits to be released.
        let (done, is_done) = std::sync::mpsc::sync_channel::<u64>(1);
        let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            let work = (0..20_000_000_u64).fold(0_u64, |sum, next| std::hint::black_box(sum ^ next));
            done.send(work).unwrap();
            released.recv().unwrap();
        });
        is_done.recv().unwrap();
        let after = cpu_nanoseconds(own).unwrap();
        release.send(()).unwrap();
        thread.join().unwrap();
        assert!(after - before > 1_000_000, "{before} to {after}");
    }

    #[test]
    fn a_process_that_does_not_exist_is_gone() {
        assert!(is_gone(&cpu_nanoseconds(u32::MAX).unwrap_err()));
    }
}
