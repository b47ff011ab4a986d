//! What the store keeps of files, and under which keys.

use std::time::Duration;

use fusion_types::{
    Error, Result, Tenant, Timestamp,
    id::{BlobId, FileId},
    record::{Expect, Record, RecordWrite},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::FileView;
use crate::newest_first;

/// Files by tenant and id.
pub(super) const FILES: &str = "files";
/// Blobs by when they are to go: what is being uploaded, what expires, what was deleted.
pub(super) const ENDS: &str = "blob_ends";

/// A file as it is kept; its bytes lie in the blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) id: FileId,
    pub(crate) tenant: Tenant,
    pub(crate) blob: BlobId,
    pub(crate) bytes: u64,
    pub(crate) filename: String,
    pub(crate) purpose: String,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    /// Batches under way that read it: it can't go meanwhile.
    pub(crate) in_use: u32,
}

/// When a blob goes, and the file that goes with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) blob: BlobId,
    /// The key of the file; `None` where there is none yet, or none any more.
    pub(super) file: Option<String>,
}

impl File {
    pub(super) fn key(&self) -> String {
        newest_first::key(&self.tenant, self.id.as_str())
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// What makes the file of its uploaded blob.
    pub(super) fn creation(&self, upload_end: Timestamp) -> Result<Vec<RecordWrite>> {
        let put = RecordWrite::put(FILES, self.key(), written(self)?).expecting(Expect::Absent);
        let mut writes = vec![
            put,
            RecordWrite::delete(ENDS, end_key(upload_end, &self.blob)),
        ];
        if let Some(at) = self.expires_at {
            writes.push(self.end(at, Some(self.key()))?);
        }
        Ok(writes)
    }

    /// What deletes the file, and leaves its blob to be deleted.
    pub(super) fn deletion(&self, version: u64, now: Timestamp) -> Result<Vec<RecordWrite>> {
        let delete = RecordWrite::delete(FILES, self.key()).expecting(Expect::Version(version));
        let mut writes = vec![delete];
        if let Some(at) = self.expires_at {
            writes.push(RecordWrite::delete(ENDS, end_key(at, &self.blob)));
        }
        writes.push(self.end(now, None)?);
        Ok(writes)
    }

    /// The file with one batch more, or fewer, that reads it.
    pub(crate) fn used(mut self, version: u64, more: bool) -> Result<RecordWrite> {
        self.in_use = if more {
            self.in_use.saturating_add(1)
        } else {
            self.in_use.saturating_sub(1)
        };
        let put = RecordWrite::put(FILES, self.key(), written(&self)?);
        Ok(put.expecting(Expect::Version(version)))
    }

    pub(super) fn view(self) -> FileView {
        FileView {
            id: self.id,
            object: "file",
            bytes: self.bytes,
            created_at: self.created_at.as_seconds(),
            expires_at: self.expires_at.map(Timestamp::as_seconds),
            filename: self.filename,
            purpose: self.purpose,
            status: "processed",
        }
    }

    fn end(&self, at: Timestamp, file: Option<String>) -> Result<RecordWrite> {
        end(at, &self.blob, file)
    }
}

pub(super) fn end(at: Timestamp, blob: &BlobId, file: Option<String>) -> Result<RecordWrite> {
    let value = End {
        blob: blob.clone(),
        file,
    };
    Ok(RecordWrite::put(ENDS, end_key(at, blob), written(&value)?))
}

/// In the order of time.
pub(super) fn end_key(at: Timestamp, blob: &BlobId) -> String {
    format!("{:016}/{blob}", at.as_millis().max(0))
}

/// Whether the end with the key has come.
pub(super) fn is_due(key: &str, now: Timestamp) -> bool {
    let at = key.split('/').next().and_then(|at| at.parse::<i64>().ok());
    at.is_none_or(|at| at <= now.as_millis())
}

/// When a file with the purpose expires where its upload says nothing: what batches read and write is of use for a while only.
pub(super) fn default_expiry(purpose: &str, now: Timestamp, ttl: Duration) -> Option<Timestamp> {
    matches!(purpose, "batch" | "batch_output").then(|| now.plus(ttl))
}

pub(crate) fn read<T: DeserializeOwned>(record: Record) -> Result<T> {
    serde_json::from_value(record.value).map_err(|error| {
        Error::internal(format!("the record {} can't be read: {error}", record.key))
    })
}

pub(crate) fn written<T: Serialize>(record: &T) -> Result<Value> {
    serde_json::to_value(record).map_err(|error| Error::internal(error.to_string()))
}
