//! Folders that last as long as a test.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A fresh folder with a short path, because Unix socket paths are limited; removed on drop, kept when the test fails.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder that only this user can enter.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it has a side effect")]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("worksong-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    restrict(&path);
                    return Self { path };
                }
                // An earlier process with this pid kept it for a failed test.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("could not make {}: {error}", path.display()),
            }
        }
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of an entry; makes nothing.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a folder in it and returns its path.
    #[must_use]
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("could not make {}: {error}", path.display()));
        restrict(&path);
        path
    }

    /// Writes a file in it and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("could not write {}: {error}", path.display()));
        path
    }

    /// Copies a file into it with a text replaced, such as a fixed port of a fixture program.
    ///
    /// # Panics
    ///
    /// When the text is not in the file: the test would not test what it means to.
    #[must_use]
    pub fn copy_with(&self, file: &Path, from: &str, to: &str) -> PathBuf {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text.contains(from), "{} does not contain {from}", file.display());
        let name: OsString = file.file_name().expect("a file has a name").to_owned();
        self.write(&name.to_string_lossy(), text.replace(from, to))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // A process that is still ending may write into it; a rest in the folder of temporary files does no harm.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .unwrap_or_else(|error| panic!("could not restrict {}: {error}", path.display()));
}
