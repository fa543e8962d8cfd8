//! How many workers a machine, a container or a cgroup has room for.

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// The most workers that one app may ask for; more is a slip of the finger.
const MOST_INSTANCES: u32 = 1024;

/// Returns the number of cores that this process may really use; at least 1.
///
/// It is the smallest of the scheduler's affinity mask and every CPU quota between the process's own cgroup and
/// the root, in cgroup v2 and v1. A quota of one and a half cores counts as two: one worker would leave half a core
/// idle.
#[must_use]
pub fn usable_cores() -> u32 {
    let affinity = affinity_cores();
    quota_cores(Path::new("/")).map_or(affinity, |quota| quota.min(affinity)).max(1)
}

/// Returns the smallest CPU quota that applies to this process, in whole cores rounded up.
///
/// `root` is the folder that holds `proc` and `sys`; `None` means that no quota is set. Files that are missing or
/// unreadable limit nothing.
#[must_use]
pub fn quota_cores(root: &Path) -> Option<u32> {
    let memberships = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = root.join("sys/fs/cgroup");
    memberships.lines().filter_map(|line| quota_of_membership(line, &mounts)).min()
}

/// One line of `/proc/self/cgroup`: `hierarchy:controllers:path`.
fn quota_of_membership(line: &str, mounts: &Path) -> Option<u32> {
    let mut fields = line.splitn(3, ':');
    let hierarchy = fields.next()?;
    let controllers = fields.next()?;
    let path = fields.next()?;
    if hierarchy == "0" && controllers.is_empty() {
        let unified = [mounts.to_path_buf(), mounts.join("unified")];
        return smallest_along(&unified, path, quota_v2);
    }
    controllers.split(',').any(|controller| controller == "cpu").then_some(())?;
    let legacy = [mounts.join(controllers), mounts.join("cpu")];
    smallest_along(&legacy, path, quota_v1)
}

/// Asks every folder from `path` up to the root of each mount, because a quota binds all that is below it.
fn smallest_along(mounts: &[PathBuf], path: &str, quota: fn(&Path) -> Option<u32>) -> Option<u32> {
    // In a cgroup namespace the path can begin with `..`: that part is out of sight, the rest is not ours.
    let inside = Path::new(path.trim_start_matches('/'));
    let visible = if inside.components().all(|part| matches!(part, Component::Normal(_))) {
        inside
    } else {
        Path::new("")
    };
    mounts
        .iter()
        .flat_map(|mount| visible.ancestors().map(move |folder| mount.join(folder)))
        .filter_map(|folder| quota(&folder))
        .min()
}

/// `cpu.max` holds `max 100000` or `150000 100000`.
fn quota_v2(folder: &Path) -> Option<u32> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let mut fields = text.split_whitespace();
    let quota = fields.next()?.parse().ok()?;
    let period = fields.next()?.parse().ok()?;
    whole_cores(quota, period)
}

/// `cpu.cfs_quota_us` is -1 without a quota.
fn quota_v1(folder: &Path) -> Option<u32> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    whole_cores(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
}

fn whole_cores(quota_us: u64, period_us: u64) -> Option<u32> {
    if period_us == 0 {
        return None;
    }
    Some(u32::try_from(quota_us.div_ceil(period_us)).unwrap_or(u32::MAX).max(1))
}

fn affinity_cores() -> u32 {
    // The fixed-size mask is too short on machines with more than 1024 cores; std grows it.
    rustix::thread::sched_getaffinity(None).map_or_else(
        |_| {
            std::thread::available_parallelism()
                .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
        },
        |mask| mask.count(),
    )
}

/// How many workers somebody asked for, before the machine is known.
///
/// # Examples
/// ```
/// use worksong_engine::cores::Instances;
/// assert_eq!("max".parse::<Instances>()?.resolve(8), 8);
/// assert_eq!("-1".parse::<Instances>()?.resolve(8), 7);
/// assert_eq!("3".parse::<Instances>()?.resolve(8), 3);
/// # Ok::<(), worksong_engine::cores::InstancesError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instances {
    /// One per usable core; typed `max` or `0`.
    #[default]
    Max,
    /// So many fewer than the usable cores, but at least one; typed `-1`.
    AllBut(u32),
    /// Exactly this number, at least 1.
    Exactly(u32),
}

impl Instances {
    /// Returns the number of slots on a machine with `cores` usable cores; at least 1.
    #[must_use]
    pub fn resolve(self, cores: u32) -> u32 {
        match self {
            Self::Max => cores.max(1),
            Self::AllBut(spared) => cores.saturating_sub(spared).max(1),
            Self::Exactly(count) => count.max(1),
        }
    }
}

impl fmt::Display for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::AllBut(spared) => write!(f, "-{spared}"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

impl FromStr for Instances {
    type Err = InstancesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" || text == "0" {
            return Ok(Self::Max);
        }
        let (spares, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InstancesError::NoNumber);
        }
        match digits.parse::<u32>() {
            Ok(0) => Ok(Self::Max),
            Ok(count) if count <= MOST_INSTANCES => {
                Ok(if spares { Self::AllBut(count) } else { Self::Exactly(count) })
            }
            Ok(_) | Err(_) => Err(InstancesError::TooMany),
        }
    }
}

/// Why a number of workers was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstancesError {
    /// It is none of the known forms.
    #[error(
        "not a number of workers; type a number such as 4, max for one per usable core, or -1 for one less"
    )]
    NoNumber,
    /// It is more than an app may have.
    #[error("more than {MOST_INSTANCES} workers; type max for one per usable core")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like the root of a file system, removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("worksong-cores-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn quota(name: &str, files: &[(&str, &str)]) -> Option<u32> {
        quota_cores(&Root::new(name, files).0)
    }

    #[test]
    fn unified_quota_is_rounded_up() {
        let files = [("proc/self/cgroup", "0::/app\n"), ("sys/fs/cgroup/app/cpu.max", "150000 100000\n")];
        assert_eq!(quota("v2", &files), Some(2));
    }

    #[test]
    fn a_quota_further_up_binds_too() {
        let files = [
            ("proc/self/cgroup", "0::/a/b/c\n"),
            ("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "300000 100000\n"),
        ];
        assert_eq!(quota("ancestors", &files), Some(3));
    }

    #[test]
    fn a_path_from_outside_the_namespace_asks_the_root() {
        let files = [("proc/self/cgroup", "0::/../other\n"), ("sys/fs/cgroup/cpu.max", "100000 100000\n")];
        assert_eq!(quota("namespace", &files), Some(1));
    }

    #[test]
    fn legacy_and_hybrid_mounts_are_read() {
        let legacy = [
            ("proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/x\n1:name=systemd:/\n"),
            ("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "250000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota("v1", &legacy), Some(3));
        let hybrid =
            [("proc/self/cgroup", "0::/x\n"), ("sys/fs/cgroup/unified/x/cpu.max", "400000 100000\n")];
        assert_eq!(quota("hybrid", &hybrid), Some(4));
    }

    #[test]
    fn no_quota_and_odd_files_limit_nothing() {
        assert_eq!(quota("none", &[]), None);
        let unlimited = [
            ("proc/self/cgroup", "1:cpu:/\n0::/\n"),
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota("unlimited", &unlimited), None);
        let odd = [
            ("proc/self/cgroup", "\n::\n0:\nnonsense\n0::/x\n"),
            ("sys/fs/cgroup/x/cpu.max", "12 0\n"),
            ("sys/fs/cgroup/cpu.max", "99999999999999999999999 1\n"),
        ];
        assert_eq!(quota("odd", &odd), None);
    }

    #[test]
    fn a_tiny_quota_still_makes_one_worker() {
        let files = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "0 100000\n")];
        assert_eq!(quota("tiny", &files), Some(1));
        assert!(usable_cores() >= 1);
    }

    #[test]
    fn instances_are_understood() {
        for (text, cores, expected) in [
            ("max", 8, 8),
            ("0", 8, 8),
            ("-0", 8, 8),
            ("-1", 8, 7),
            ("-8", 8, 1),
            ("-9", 8, 1),
            ("4", 2, 4),
            ("max", 0, 1),
        ] {
            assert_eq!(
                text.parse::<Instances>().unwrap().resolve(cores),
                expected,
                "{text} on {cores} cores"
            );
        }
    }

    #[test]
    fn other_instances_are_refused_with_the_fix() {
        for text in ["", "-", "four", "1.5", "--1", "+2", " 2", "٣"] {
            let error = text.parse::<Instances>().unwrap_err();
            assert!(error.to_string().contains("type a number such as 4"), "{text:?}: {error}");
        }
        assert_eq!("99999999999".parse::<Instances>(), Err(InstancesError::TooMany));
        assert_eq!("1025".parse::<Instances>(), Err(InstancesError::TooMany));
    }

    #[test]
    fn instances_are_shown_as_they_are_typed() {
        for text in ["max", "-3", "12"] {
            assert_eq!(text.parse::<Instances>().unwrap().to_string(), text);
        }
    }
}
