//! The file that a download grows in: `TARGET.part`, locked, so that two pulls never write into one.

use std::{
    fs::{self, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fusion_types::{Error, ErrorCode, Result};
use tokio::fs::File;

use super::transfer::disk;

/// Locked for as long as the value lives; the system lets go of it when the process dies.
pub(super) struct Part {
    pub(super) path: PathBuf,
    /// Writes go to its end.
    pub(super) file: File,
}

impl Part {
    /// Makes the file where it is missing, and locks it.
    ///
    /// # Errors
    /// `model_in_use` while another pull fetches the same file; `internal_error` for a disk that can't be written.
    pub(super) async fn open(target: &Path) -> Result<Self> {
        let path = path_of(target);
        let own = path.clone();
        let opened = tokio::task::spawn_blocking(move || locked(&own))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        match opened {
            Ok(Some(file)) => Ok(Self {
                path,
                file: File::from_std(file),
            }),
            Ok(None) => Err(Error::new(
                ErrorCode::ModelInUse,
                format!("another pull is fetching {}", target.display()),
            )),
            Err(error) => Err(disk(&path, &error)),
        }
    }
}

pub(super) fn path_of(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    target.with_file_name(name)
}

/// `None` where another process has the lock.
fn locked(path: &Path) -> io::Result<Option<fs::File>> {
    loop {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Some network disks have no locks; pulling goes on without.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(path = %path.display(), %error, "can't lock")
            }
        }
        // A pull that ended between opening and locking has given this very file its name.
        let own = file.metadata()?.ino();
        if fs::metadata(path).is_ok_and(|metadata| metadata.ino() == own) {
            return Ok(Some(file));
        }
    }
}
