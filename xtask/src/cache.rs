//! The test cache: folders outside the checkout, each filled once for one content of the manifests that describe it.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::Outcome;

/// Written last: a folder without it was left half-filled and is filled again.
const COMPLETE: &str = ".complete";

/// Where runtimes and packages are kept between runs.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache that the environment names, and makes its folder.
    pub(crate) fn open() -> Outcome<Self> {
        let root = Self::location().ok_or(
            "no place for the test cache: neither WORKSONG_TEST_CACHE, XDG_CACHE_HOME nor HOME is set; \
             set WORKSONG_TEST_CACHE to a folder with 2 GB of room",
        )?;
        fs::create_dir_all(&root).map_err(|error| format!("could not make {}: {error}", root.display()))?;
        let root =
            root.canonicalize().map_err(|error| format!("could not resolve {}: {error}", root.display()))?;
        Ok(Self { root })
    }

    fn location() -> Option<PathBuf> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable("WORKSONG_TEST_CACHE")
            .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("worksong-tests")))
            .or_else(|| Some(variable("HOME")?.join(".cache/worksong-tests")))
    }

    /// Returns the folder of the cache.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder that `fill` has filled for exactly these manifests, filling it now if that is needed.
    ///
    /// Only one process fills a folder at a time. A folder is filled in its final place, not renamed into it,
    /// because the scripts of a Python environment contain their own path.
    pub(crate) fn folder(
        &self,
        name: &str,
        manifests: &[PathBuf],
        fill: impl FnOnce(&Path) -> Outcome,
    ) -> Outcome<PathBuf> {
        let folder = self.root.join(format!("{name}-{:016x}", fingerprint(manifests)?));
        let complete = folder.join(COMPLETE);
        if complete.exists() {
            return Ok(folder);
        }
        let failed = |action: &str, path: &Path, error: std::io::Error| {
            format!("could not {action} {}: {error}", path.display())
        };
        let lock_path = folder.with_extension("lock");
        let lock = File::create(&lock_path).map_err(|error| failed("create", &lock_path, error))?;
        if lock.try_lock().is_err() {
            eprintln!("waiting for another run that prepares {}", folder.display());
            lock.lock().map_err(|error| failed("lock", &lock_path, error))?;
        }
        if complete.exists() {
            return Ok(folder);
        }
        eprintln!("preparing {}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| failed("remove", &folder, error))?;
        }
        fs::create_dir_all(&folder).map_err(|error| failed("create", &folder, error))?;
        fill(&folder)?;
        File::create(&complete).map_err(|error| failed("create", &complete, error))?;
        Ok(folder)
    }
}

/// Identifies the content of files on this kind of machine.
fn fingerprint(files: &[PathBuf]) -> Outcome<u64> {
    let mut hasher = DefaultHasher::new();
    (env::consts::OS, env::consts::ARCH).hash(&mut hasher);
    for file in files {
        let content =
            fs::read(file).map_err(|error| format!("could not read {}: {error}", file.display()))?;
        content.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Makes `link` point to `target` in one step, so that a concurrent run never sees it missing.
pub(crate) fn link(target: &Path, link: &Path) -> Outcome {
    if fs::read_link(link).is_ok_and(|present| present == target) {
        return Ok(());
    }
    let fresh = link.with_file_name(format!(".link-{}", std::process::id()));
    symlink(target, &fresh).and_then(|()| fs::rename(&fresh, link)).map_err(|error| {
        let (link, target) = (link.display(), target.display());
        format!("could not link {link} to {target}: {error}; if something else is at {link}, remove it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("worksong-xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_folder_is_filled_once_per_content() {
        let root = scratch("once");
        let cache = Cache { root: root.clone() };
        let manifest = root.join("manifest");
        fs::write(&manifest, "one").unwrap();
        let mut fills = 0;
        let mut folder = |content: &str| {
            fs::write(&manifest, content).unwrap();
            cache.folder("kit", std::slice::from_ref(&manifest), |_| {
                fills += 1;
                Ok(())
            })
        };
        let first = folder("one").unwrap();
        assert_eq!(folder("one").unwrap(), first);
        assert_ne!(folder("two").unwrap(), first);
        assert_eq!(fills, 2);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_half_filled_folder_is_filled_again_from_nothing() {
        let root = scratch("half");
        let cache = Cache { root: root.clone() };
        let failed = cache.folder("kit", &[], |folder| {
            fs::write(folder.join("rest"), "").unwrap();
            Err("no network".to_owned())
        });
        assert_eq!(failed, Err("no network".to_owned()));
        let folder = cache.folder("kit", &[], |folder| {
            assert!(!folder.join("rest").exists());
            Ok(())
        });
        assert!(folder.unwrap().join(COMPLETE).exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_link_is_replaced() {
        let root = scratch("link");
        let path = root.join("link");
        for target in ["one", "two", "two"] {
            link(Path::new(target), &path).unwrap();
            assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
        }
        fs::remove_dir_all(root).unwrap();
    }
}
