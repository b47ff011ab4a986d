//! The state store, and the indexes derived from it.
//!
//! The store is the truth: what it acknowledged is committed and synced. Indexes live in memory, follow the store's log of
//! chunk changes, and are safe to lose.

mod backup;
mod error;
mod index;
mod job_state;
mod lock;
mod sqlite;

pub use backup::{Copied, backup, restore};

use std::{path::PathBuf, sync::Arc};

use fusion_types::{
    Result,
    store::{ChunkIndex, DocumentStore, JobStore, RecordStore},
};

use crate::{
    index::{exact::ExactIndex, keyword::KeywordIndex},
    sqlite::{Sqlite, documents::Documents, jobs::Jobs, records::Records},
};

/// Which backend keeps the state, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Made where it is missing; one server at a time can use it.
    pub data_dir: PathBuf,
}

/// The open store by its parts, and its indexes.
#[derive(Clone)]
pub struct Storage {
    pub jobs: Arc<dyn JobStore>,
    pub documents: Arc<dyn DocumentStore>,
    pub records: Arc<dyn RecordStore>,
    /// Exact nearest neighbours; empty at start, filled from [`DocumentStore::index_changes`].
    pub dense: Arc<dyn ChunkIndex>,
    /// BM25; empty at start, filled from [`DocumentStore::index_changes`].
    pub keyword: Arc<dyn ChunkIndex>,
    sqlite: Arc<Sqlite>,
}

/// Opens the store, or makes a new one.
///
/// # Errors
/// `store_unavailable` when another server uses the folder, when it can't be read or written, when a newer version wrote it, or
/// when it is damaged.
pub async fn open(config: &Config) -> Result<Storage> {
    let sqlite = Arc::new(Sqlite::open(&config.data_dir).await?);
    Ok(Storage {
        jobs: Arc::new(Jobs::new(Arc::clone(&sqlite))),
        documents: Arc::new(Documents::new(Arc::clone(&sqlite))),
        records: Arc::new(Records::new(Arc::clone(&sqlite))),
        dense: Arc::new(ExactIndex::default()),
        keyword: Arc::new(KeywordIndex::default()),
        sqlite,
    })
}

impl Storage {
    /// Whether the last write succeeded: false while the disk is full or gone, and after [`Storage::close`].
    pub fn is_healthy(&self) -> bool {
        self.sqlite.is_healthy()
    }

    /// Commits what waits, empties the write-ahead log into the database, and gives the folder free. Whoever still holds a part of
    /// the store gets `store_unavailable` from it.
    ///
    /// # Errors
    /// `store_unavailable` when that takes longer than ten seconds; what was acknowledged is safe all the same.
    pub async fn close(self) -> Result<()> {
        self.sqlite.close().await
    }
}
