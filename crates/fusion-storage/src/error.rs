//! What goes wrong inside the store, and what clients are told of it.

use std::time::Duration;

use fusion_types::{Error, ErrorCode};
use rusqlite::ErrorCode as Cause;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// An answer of the contract: it leaves the store as it is.
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("sqlite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("mongodb: {0}")]
    Mongo(#[from] mongodb::error::Error),
    #[error("a stored value can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("a search index failed: {0}")]
    Index(#[from] tantivy::TantivyError),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(error) => error,
            StoreError::Sqlite(error) => from_sqlite(&error),
            StoreError::Mongo(error) => crate::mongo::public(&error),
            StoreError::Unreadable(_) | StoreError::Index(_) => {
                tracing::error!(%error, "the store failed");
                Self::internal("the store failed")
            }
        }
    }
}

/// The store can't be used now; trying again may help.
pub(crate) fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::StoreUnavailable, message).with_retry_after(Duration::from_secs(1))
}

pub(crate) fn closed() -> Error {
    unavailable("the store is closed")
}

/// The details go to the log: a client needn't know the files' names.
fn from_sqlite(error: &rusqlite::Error) -> Error {
    tracing::error!(%error, "the database failed");
    match error.sqlite_error_code() {
        Some(Cause::DiskFull) => unavailable("the store's disk is full"),
        Some(
            Cause::SystemIoFailure
            | Cause::CannotOpen
            | Cause::DatabaseBusy
            | Cause::DatabaseLocked
            | Cause::ReadOnly
            | Cause::PermissionDenied
            | Cause::FileLockingProtocolFailed
            | Cause::OutOfMemory,
        ) => unavailable("the store can't be read or written now"),
        _ => Error::internal("the store failed"),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn sqlite(code: i32) -> Error {
        StoreError::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)).into()
    }

    #[test]
    fn a_full_disk_is_no_fault_of_the_request() {
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_IOERR_FSYNC,
        ] {
            assert_eq!(sqlite(code).code, ErrorCode::StoreUnavailable);
        }
        assert_eq!(sqlite(ffi::SQLITE_CORRUPT).code, ErrorCode::InternalError);
        assert_eq!(
            sqlite(ffi::SQLITE_CONSTRAINT).code,
            ErrorCode::InternalError
        );
    }
}
