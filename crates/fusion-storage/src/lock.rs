//! The data folder's lock: one server at a time.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    path::Path,
};

use fusion_types::Result;

use crate::error::unavailable;

pub(crate) const FILE: &str = "lock";
/// Stands in the folder while a backup is put into it.
pub(crate) const RESTORING: &str = "restoring";

/// Held for as long as the value lives; the system lets go of it when the process dies.
pub(crate) struct FolderLock {
    _file: File,
}

/// Makes the folder where it is missing, readable by its owner alone, and locks it.
pub(crate) fn lock_folder(folder: &Path) -> Result<FolderLock> {
    let shown = folder.display();
    make_private(folder)
        .map_err(|error| unavailable(format!("can't make the data folder {shown}: {error}")))?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(FILE))
        .map_err(|error| unavailable(format!("can't write to the data folder {shown}: {error}")))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(unavailable(format!(
            "the data folder {shown} is in use by another server"
        ))),
        Err(TryLockError::Error(error)) => Err(unavailable(format!(
            "can't lock the data folder {shown}: {error}"
        ))),
    }
}

pub(crate) fn make_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
