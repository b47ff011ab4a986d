//! Whether what is to be pulled fits on the disk.

use std::path::Path;

use fusion_types::{Error, Result};
use rustix::fs::statvfs;
use serde_json::json;

use super::files::RemoteFile;

/// Stays free on the disk, for the state store and everybody else.
const RESERVE: u64 = 256_000_000;

/// # Errors
/// `internal_error` with `needed_bytes`, `free_bytes` and `reserve_bytes` where the files don't fit below the folder.
pub(super) fn check(folder: &Path, files: &[RemoteFile]) -> Result<()> {
    let needed = files.iter().fold(0, |sum: u64, file| {
        sum.saturating_add(missing(folder, file))
    });
    check_room(folder, needed)
}

/// # Errors
/// As for [`check`].
pub(crate) fn check_room(folder: &Path, needed: u64) -> Result<()> {
    match free_bytes(folder) {
        Some(free) if needed > 0 => fits(needed, free, folder),
        _ => Ok(()),
    }
}

/// Bytes of the file that aren't on disk yet. A file whose size the hub doesn't tell counts nothing.
fn missing(folder: &Path, file: &RemoteFile) -> u64 {
    let target = folder.join(&file.path);
    let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    match file.bytes {
        Some(total) if length(&target) == total => 0,
        Some(total) => total.saturating_sub(length(&super::part::path_of(&target))),
        None => 0,
    }
}

/// What may still be written to the disk that the folder is on, or will be.
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = folder.ancestors().find_map(|folder| statvfs(folder).ok())?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn fits(needed: u64, free: u64, folder: &Path) -> Result<()> {
    if needed <= free.saturating_sub(RESERVE) {
        return Ok(());
    }
    let megabytes = |bytes: u64| bytes / 1_000_000;
    let message = format!(
        "not enough room for {}: {} MB are needed, {} MB are free, and {} MB of them stay free",
        folder.display(),
        megabytes(needed),
        megabytes(free),
        megabytes(RESERVE)
    );
    Err(Error::internal(message).with_details(
        json!({ "needed_bytes": needed, "free_bytes": free, "reserve_bytes": RESERVE }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_stays_free() {
        let fits = |needed, free| fits(needed, free, Path::new("/models")).is_ok();
        assert!(fits(1_000, RESERVE + 1_000));
        assert!(!fits(1_001, RESERVE + 1_000));
        assert!(!fits(1, 0));
    }

    #[test]
    fn what_is_on_disk_needs_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str, bytes| RemoteFile {
            path: path.to_owned(),
            bytes,
            sha256: None,
        };
        std::fs::write(folder.path().join("whole"), "12345").unwrap();
        std::fs::write(folder.path().join("begun.part"), "12").unwrap();
        let missing = |path, bytes| missing(folder.path(), &file(path, bytes));
        assert_eq!(missing("whole", Some(5)), 0);
        assert_eq!(missing("whole", Some(7)), 7);
        assert_eq!(missing("begun", Some(7)), 5);
        assert_eq!(missing("unknown", None), 0);
        assert!(free_bytes(&folder.path().join("not/yet/there")).is_some());
    }
}
