//! How many workers there are: the usable cores, or what was asked for.

use std::fs;
use std::path::{Path, PathBuf};

use worksong_testkit::{Launch, Worksong, binary, eventually};

/// Starts so many workers as the options say, and returns how many that are.
fn count(launch: Launch) -> usize {
    let worksong = launch.args(["--ready", "started", "sleep", "1000"]).start();
    // The workers of all slots are forked before anything else happens to the app; the opening says how many.
    let expected = eventually("the opening", || {
        worksong.lines().iter().find_map(|line| {
            let (_, rest) = line.text.split_once(" in ")?;
            let (count, rest) = rest.split_once(' ')?;
            rest.starts_with("worker").then(|| count.parse().ok())?
        })
    });
    worksong.wait_ready(expected);
    let forked = worksong.events().iter().filter(|event| event.name() == "forked").count();
    assert_eq!(forked, expected);
    expected
}

/// Prepares a start on these cores alone.
fn on_cores(cores: &str, options: &[&str]) -> Launch {
    let launch = Worksong::with(["-c", cores]).binary("/usr/bin/taskset").args([binary("worksong")]);
    launch.args(["run", "--json"]).args(options)
}

/// The cores that this test may use, by their numbers.
fn own_cores() -> Vec<u32> {
    let status = fs::read_to_string("/proc/self/status").expect("tests run on Linux");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    allowed.unwrap_or_default().trim().split(',').filter_map(range).flatten().collect()
}

/// The usable cores as another program counts them; it knows of affinity, not of quotas.
fn usable() -> usize {
    std::thread::available_parallelism().expect("the system counts its cores").get()
}

#[test]
fn the_default_is_one_worker_for_each_usable_core() {
    assert_eq!(count(Worksong::with(["run", "--json"])), usable());
    for spelling in ["0", "max"] {
        assert_eq!(count(Worksong::run(["-i", spelling])), usable());
    }
}

#[test]
fn affinity_limits_the_default() {
    let cores = own_cores();
    assert_eq!(count(on_cores(&cores[0].to_string(), &[])), 1);
    assert_eq!(count(on_cores(&cores[0].to_string(), &["-i", "max"])), 1);
    if let [first, second, ..] = cores[..] {
        assert_eq!(count(on_cores(&format!("{first},{second}"), &[])), 2);
        assert_eq!(count(on_cores(&format!("{first},{second}"), &["-i", "-1"])), 1);
    }
}

#[test]
fn one_less_is_still_at_least_one() {
    assert_eq!(count(Worksong::run(["-i", "-1"])), (usable() - 1).max(1));
    assert_eq!(count(Worksong::run(["-i", "-1000"])), 1);
    assert_eq!(count(on_cores(&own_cores()[0].to_string(), &["-i", "-1"])), 1);
}

#[test]
fn a_number_is_taken_as_it_is() {
    assert_eq!(count(Worksong::run(["-i", "1"])), 1);
    assert_eq!(count(Worksong::run(["--instances", "7"])), 7);
    assert_eq!(count(on_cores(&own_cores()[0].to_string(), &["-i", "3"])), 3);
}

#[test]
fn other_words_are_wrong_use() {
    for wrong in ["many", "-", "1.5", "99999", "--"] {
        let (status, lines) = Worksong::with(["run", "-i", wrong, "sleep", "1"]).finish();
        assert_eq!(status.code(), Some(2), "{wrong}: {lines:?}");
    }
}

#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn skip<T>(reason: &str) -> Option<T> {
    println!("skipped: {reason}");
    None
}

/// A CPU cgroup with a quota of half a core; removed at its end.
struct Quota(PathBuf);

impl Quota {
    /// Returns `None`, with the reason printed, where cgroups cannot be made.
    fn half_a_core() -> Option<Self> {
        let name = format!("worksong-{}", std::process::id());
        let legacy = Path::new("/sys/fs/cgroup/cpu");
        let unified = Path::new("/sys/fs/cgroup");
        let (folder, file, quota) = if legacy.join("cpu.cfs_quota_us").exists() {
            (legacy.join(name), "cpu.cfs_quota_us", "50000")
        } else {
            (unified.join(name), "cpu.max", "50000 100000")
        };
        if let Err(error) = fs::create_dir(&folder) {
            return skip(&format!("no cgroup can be made in {}: {error}", folder.display()));
        }
        let made = Self(folder);
        if let Err(error) = fs::write(made.0.join(file), quota) {
            return skip(&format!("no CPU quota can be set in {}: {error}", made.0.display()));
        }
        Some(made)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Its processes were killed; the kernel may need a moment to see that it is empty.
        eventually("the end of the cgroup", || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn a_quota_limits_the_default() {
    let Some(quota) = Quota::half_a_core() else { return };
    let enter = format!("echo $$ > '{}/cgroup.procs'", quota.0.display());
    assert_eq!(count(Worksong::with(["run", "--json"]).after(&enter)), 1);
}
