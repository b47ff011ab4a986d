//! The folder of this run's sockets.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tempfile::TempDir;

/// Socket addresses hold 104 bytes on macOS and 108 on Linux.
const LONGEST_PATH: usize = 100;
const PREFIX: &str = "fusiond-run-";
/// Locked by the server that the folder belongs to, as long as it lives.
const LOCK: &str = "sockets.lock";

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    folder: TempDir,
    _lock: File,
    next: AtomicU64,
}

impl RuntimeDir {
    /// Makes a folder that only this user can enter, under `parent` or else where the system keeps such things. What
    /// dead servers left there is removed.
    pub(crate) fn create(parent: Option<&Path>) -> io::Result<Self> {
        let parents = match parent {
            Some(parent) => vec![parent.to_owned()],
            None => {
                let session = env::var_os("XDG_RUNTIME_DIR")
                    .map(PathBuf::from)
                    .filter(|path| path.is_dir());
                session
                    .into_iter()
                    .chain([env::temp_dir(), PathBuf::from("/tmp")])
                    .collect()
            }
        };
        let mut failure =
            io::Error::other("the paths of all runtime folders are too long for a socket");
        for parent in parents {
            remove_stale(&parent);
            match Self::create_in(&parent) {
                Ok(folder)
                    if folder.path_of(u64::from(u32::MAX)).as_os_str().len() <= LONGEST_PATH =>
                {
                    return Ok(folder);
                }
                Ok(_) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn create_in(parent: &Path) -> io::Result<Self> {
        let owner_only = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(owner_only)
            .tempdir_in(parent)?;
        // Locked before it has the name by which others look for it.
        let unnamed = folder.path().join("new.lock");
        let lock = File::create(&unnamed)?;
        lock.lock()?;
        fs::rename(&unnamed, folder.path().join(LOCK))?;
        Ok(Self {
            folder,
            _lock: lock,
            next: AtomicU64::new(0),
        })
    }

    /// A path for a socket that nobody used before.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path_of(self.next.fetch_add(1, Relaxed))
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.folder.path().join(format!("{number}.sock"))
    }
}

/// Removes folders whose server is gone: the system gave its lock back, however it ended. A folder whose lock can't be
/// taken, or that has none, isn't touched.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            let removed = fs::remove_dir_all(entry.path()).is_ok();
            tracing::debug!(folder = %entry.path().display(), removed, "runtime folder of a dead server");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_private_and_goes_with_its_owner_and_after_it() {
        let parent = tempfile::tempdir().unwrap();
        let stale = parent.path().join("fusiond-run-stale");
        let foreign = parent.path().join("fusiond-run-notes");
        fs::create_dir(&stale).unwrap();
        fs::create_dir(&foreign).unwrap();
        File::create(stale.join(LOCK)).unwrap();

        let folder = RuntimeDir::create(Some(parent.path())).unwrap();
        let second = RuntimeDir::create(Some(parent.path())).unwrap();
        assert!(!stale.exists());
        assert!(foreign.exists());
        let path = folder.folder.path().to_owned();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_ne!(folder.socket(), folder.socket());
        drop((folder, second));
        assert!(!path.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let deep = parent.path().join("x".repeat(90));
        fs::create_dir(&deep).unwrap();
        assert!(RuntimeDir::create(Some(&deep)).is_err());
    }
}
