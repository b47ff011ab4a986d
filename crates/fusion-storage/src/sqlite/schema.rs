//! The database's file: how it is opened, checked and brought up to date.

use std::{fs, path::Path, time::Duration};

use fusion_types::Result;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::{StoreError, unavailable};

/// Nobody else writes; a backup tool may hold the lock for a moment.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Each brings the schema from its index to the next version; `user_version` counts those that ran. Never changed once released.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
];

/// The newest schema that this version knows.
pub(crate) const KNOWN: u32 = MIGRATIONS.len() as u32;

/// A database up to this size is checked after an unclean stop: that takes milliseconds. Larger ones rely on the write-ahead log's
/// checksums, so that the server is always ready in time.
const LARGEST_CHECKED: u64 = 8 << 20;

/// The connection for writing.
pub(super) fn open(file: &Path) -> Result<Connection> {
    let stopped_cleanly = !has_content(&file.with_added_extension("wal"));
    let mut connection = connect(file).map_err(|error| unreadable(file, &error))?;
    migrate(&mut connection)?;
    if !stopped_cleanly && fs::metadata(file).is_ok_and(|data| data.len() <= LARGEST_CHECKED) {
        check(&connection)?;
    }
    Ok(connection)
}

fn has_content(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|data| data.len() > 0)
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Payloads are cut to fit this.
    connection.pragma_update(None, "page_size", 4096)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Where a plain sync leaves data in the drive's cache.
    connection.pragma_update(None, "fullfsync", "ON")?;
    connection.pragma_update(None, "checkpoint_fullfsync", "ON")?;
    // Room for all that a group of commands changes, and fewer checkpoints, each of which syncs the file twice.
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 4000, |_| Ok(()))?;
    // Deleted is gone: freed space is overwritten, and savepoints leave nothing in temporary files.
    connection.pragma_update_and_check(None, "secure_delete", "ON", |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

fn unreadable(file: &Path, error: &rusqlite::Error) -> fusion_types::Error {
    unavailable(format!(
        "can't open the database {}: {error}",
        file.display()
    ))
}

pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    migrate_to(connection, KNOWN)
}

pub(super) fn migrate_to(connection: &mut Connection, target: u32) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(missing) = MIGRATIONS.get(version as usize..target as usize) else {
        let message = format!(
            "the database has schema version {version}; this version of the server knows up to {KNOWN}"
        );
        return Err(unavailable(message).into());
    };
    if missing.is_empty() {
        return Ok(());
    }
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", target)?;
    transaction.commit()?;
    Ok(())
}

/// Copies the database as it is at one moment, also while a server writes to it, and checks the copy. Returns its schema's version.
pub(crate) fn copy(file: &Path, to: &Path) -> Result<u32> {
    let copied = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
            connection.pragma_query_value(None, "user_version", |row| row.get(0))
        })
        .map_err(|error| unreadable(file, &error))?;
    check_copy(to)?;
    Ok(copied)
}

/// # Errors
/// `store_unavailable` where the file is no database, or a damaged one.
pub(crate) fn check_copy(file: &Path) -> Result<()> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| unreadable(file, &error))?;
    check(&connection).map_err(|error| match error {
        StoreError::Sqlite(error) => unreadable(file, &error),
        other => other.into(),
    })
}

fn check(connection: &Connection) -> Result<(), StoreError> {
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if finding == "ok" {
        return Ok(());
    }
    tracing::error!(finding, "the database is damaged");
    Err(unavailable("the database is damaged; put a backup in its place").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What survives a power cut, and what doesn't survive a deletion, hangs on these.
    #[test]
    fn a_commit_is_synced_and_a_deletion_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open(&folder.path().join("test.sqlite")).unwrap();
        let setting = |name| {
            connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
        };
        assert_eq!(setting("journal_mode").unwrap(), "wal".to_owned().into());
        for (name, value) in [
            ("synchronous", 2),
            ("fullfsync", 1),
            ("secure_delete", 1),
            ("temp_store", 2),
            ("page_size", 4096),
        ] {
            assert_eq!(setting(name).unwrap(), i64::from(value).into(), "{name}");
        }
    }
}
