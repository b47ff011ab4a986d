//! The folder of this run's sockets.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

/// Socket addresses hold 104 bytes on macOS and 108 on Linux.
const LONGEST_PATH: usize = 100;
const PREFIX: &str = "fusiond-";

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    folder: TempDir,
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
        let prefix = format!("{PREFIX}{}-", process::id());
        let owner_only = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(owner_only)
            .tempdir_in(parent)?;
        Ok(Self {
            folder,
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

/// Removes folders whose name carries the id of a process that is no more. One that can't be removed isn't ours.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(owner) else {
            continue;
        };
        if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            let removed = fs::remove_dir_all(entry.path());
            tracing::debug!(folder = %entry.path().display(), removed = removed.is_ok(), "runtime folder of a dead server");
        }
    }
}

fn owner(name: &str) -> Option<Pid> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Pid::from_raw(pid.parse().ok().filter(|pid| *pid > 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_private_and_goes_with_its_owner_and_after_it() {
        let parent = tempfile::tempdir().unwrap();
        let stale = parent.path().join("fusiond-2000000000-abc");
        let foreign = parent.path().join("fusiond-notes");
        fs::create_dir(&stale).unwrap();
        fs::create_dir(&foreign).unwrap();

        let folder = RuntimeDir::create(Some(parent.path())).unwrap();
        assert!(!stale.exists());
        assert!(foreign.exists());
        let path = folder.folder.path().to_owned();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_ne!(folder.socket(), folder.socket());
        drop(folder);
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
