//! The store in one SQLite file: one writer thread, a few readers.

pub(crate) mod documents;
pub(crate) mod jobs;
mod readers;
pub(crate) mod records;
mod schema;
mod writer;

use std::path::Path;

use fusion_types::{Result, page::Window};
use rusqlite::Connection;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use self::{
    readers::Readers,
    writer::{Transaction, Writer},
};
use crate::{
    Inputs,
    error::{StoreError, closed, unavailable},
    lock::{RESTORING, lock_folder},
};

pub(crate) use schema::{KNOWN as SCHEMA, check_copy, copy};

pub(crate) const FILE: &str = "fusiond.sqlite";

pub(crate) struct Sqlite {
    writer: Writer,
    readers: Readers,
}

impl Sqlite {
    pub(crate) async fn open(folder: &Path, inputs: Inputs) -> Result<Self> {
        let folder = folder.to_owned();
        tokio::task::spawn_blocking(move || {
            let lock = lock_folder(&folder)?;
            if folder.join(RESTORING).exists() {
                let message = "a backup was put into the data folder but not to the end; run `fusiond restore` again";
                return Err(unavailable(message));
            }
            let file = folder.join(FILE);
            let connection = schema::open(&file)?;
            let writer = Writer::start(connection, inputs, lock)?;
            Ok(Self {
                writer,
                readers: Readers::new(file),
            })
        })
        .await
        .map_err(|_| closed())?
    }

    /// Runs the work in a transaction; the answer means committed and synced.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T> {
        self.writer.run(work).await
    }

    /// Runs the work on one snapshot of the store, which holds all that was acknowledged before.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T> {
        self.readers.run(work).await
    }

    /// The newest committed change of a job.
    fn newest_change(&self) -> watch::Receiver<u64> {
        self.writer.newest_change()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.writer.is_healthy()
    }

    /// Readers first, so that the writer's connection is the last, which empties and removes the write-ahead log.
    pub(crate) async fn close(&self) -> Result<()> {
        self.readers.close().await;
        self.writer.close().await
    }
}

/// SQLite's integers are signed; nothing counted here gets near the border.
fn to_stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_stored(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// `LIMIT` and `OFFSET`.
fn bounds(window: Window) -> (i64, i64) {
    (
        i64::from(window.limit.min(Window::MOST)),
        to_stored(window.offset),
    )
}

fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    Ok(serde_json::to_string(value)?)
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    Ok(serde_json::from_str(text)?)
}
