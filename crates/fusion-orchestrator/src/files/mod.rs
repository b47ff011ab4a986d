//! Files that clients upload, and that batches write. The record says that a file is there; its bytes lie in the blob store.
//!
//! A blob is written before its record, and deleted after it. Whatever dies in between leaves an entry that says when the blob
//! goes, so that nothing is kept that no record names.

mod record;
mod sweep;
mod view;

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Call, Error, ErrorCode, Result, Tenant, Timestamp,
    blob::{BlobStore, ByteStream},
    id::{BlobId, FileId},
    record::{Record, RecordWrite},
    store::RecordStore,
};

use self::record::{ENDS, FILES, default_expiry, end, end_key};
pub use self::view::{DeletedFile, FileView, ListFiles, Listed, NewFile};
pub(crate) use self::{
    record::{File, read, written},
    view::{check_expiry, limit},
};
use crate::{
    jobs::{Clock, Order},
    newest_first,
};

/// A blob that no file names by then is deleted.
const UPLOAD_TIME: Duration = Duration::from_secs(2 * 3600);
/// Tries of a commit that others may come before.
const TRIES: u32 = 10;
const PAGE: u32 = 500;
const MOST_LISTED: u32 = 10_000;

#[derive(Clone, Copy, Debug)]
pub struct FilesConfig {
    /// Of what batches read and write, where nothing else was asked for.
    pub ttl: Duration,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// The handle that routes hold.
#[derive(Clone)]
pub struct Files {
    parts: Arc<Parts>,
}

struct Parts {
    records: Arc<dyn RecordStore>,
    blobs: Arc<dyn BlobStore>,
    config: FilesConfig,
    clock: Clock,
}

/// Bytes that are kept, and no file yet: they go after a while, unless [`Files::create`] makes one of them.
#[derive(Debug)]
pub struct Upload {
    blob: BlobId,
    bytes: u64,
    ends: Timestamp,
}

impl Files {
    pub fn new(
        records: Arc<dyn RecordStore>,
        blobs: Arc<dyn BlobStore>,
        config: FilesConfig,
    ) -> Self {
        Self::with_clock(records, blobs, config, Arc::new(Timestamp::now))
    }

    pub fn with_clock(
        records: Arc<dyn RecordStore>,
        blobs: Arc<dyn BlobStore>,
        config: FilesConfig,
        clock: Clock,
    ) -> Self {
        let parts = Parts {
            records,
            blobs,
            config,
            clock,
        };
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Keeps the bytes; they are synced when this returns.
    ///
    /// # Errors
    /// What the source says; `store_unavailable`.
    pub async fn upload(&self, source: ByteStream<'_>) -> Result<Upload> {
        let blob = BlobId::generate();
        let ends = self.now().plus(UPLOAD_TIME);
        let entry = end(ends, &blob, None)?;
        self.parts.records.commit(vec![entry]).await?;
        let kept = self.parts.blobs.put(&blob, source).await;
        match kept {
            Ok(bytes) => Ok(Upload { blob, bytes, ends }),
            Err(error) => {
                self.forget(&blob, ends).await;
                Err(error)
            }
        }
    }

    /// The file of an upload.
    ///
    /// # Errors
    /// `invalid_value`, and the upload is discarded; `store_unavailable`.
    pub async fn create(&self, call: &Call, upload: Upload, new: NewFile) -> Result<FileView> {
        if let Err(error) = new.check() {
            self.discard(upload).await;
            return Err(error);
        }
        let expires_after = new.expires_after_seconds.map(Duration::from_secs);
        let (file, writes) = self.made(
            &call.tenant,
            upload,
            new.filename,
            &new.purpose,
            expires_after,
        )?;
        self.parts.records.commit(writes).await?;
        Ok(file.view())
    }

    /// Deletes what was uploaded, and no file was made of.
    pub async fn discard(&self, upload: Upload) {
        self.forget(&upload.blob, upload.ends).await;
    }

    /// # Errors
    /// `file_not_found`, `store_unavailable`.
    pub async fn get(&self, call: &Call, id: &FileId) -> Result<FileView> {
        Ok(self.find(&call.tenant, id).await?.0.view())
    }

    /// # Errors
    /// `invalid_value`, `store_unavailable`.
    pub async fn list(&self, call: &Call, params: ListFiles) -> Result<Listed<FileView>> {
        let limit = limit(params.limit, MOST_LISTED, MOST_LISTED)?;
        let rising = params.order == Some(Order::Asc);
        let after = params.after.as_deref();
        // A store lists one way only, so that the other is the whole list turned round.
        let (from, most) = match (rising, after) {
            (true, _) => (None, usize::MAX),
            (false, Some(id)) => (Some(newest_first::key(&call.tenant, id)), limit + 1),
            (false, None) => (None, limit + 1),
        };
        let mut found = self.newest(&call.tenant, &params, from, most).await?;
        if rising {
            found.reverse();
            found.retain(|file| after.is_none_or(|after| file.id.as_str() > after));
        }
        let views = found.into_iter().take(limit + 1).map(File::view).collect();
        Ok(Listed::new(views, limit, |file: &FileView| {
            file.id.to_string()
        }))
    }

    /// The file and its bytes.
    ///
    /// # Errors
    /// `file_not_found`, `store_unavailable`.
    pub async fn content(
        &self,
        call: &Call,
        id: &FileId,
    ) -> Result<(FileView, ByteStream<'static>)> {
        let (file, _) = self.find(&call.tenant, id).await?;
        let bytes = self.parts.blobs.get(&file.blob, 0).await?;
        Ok((file.view(), bytes))
    }

    /// # Errors
    /// `file_not_found`; `file_in_use` while a batch reads it; `store_unavailable`.
    pub async fn delete(&self, call: &Call, id: &FileId) -> Result<DeletedFile> {
        for _ in 0..TRIES {
            let (file, version) = self.find(&call.tenant, id).await?;
            if file.in_use > 0 {
                let message = format!("the file {id} is read by a batch that has not ended");
                return Err(Error::new(ErrorCode::FileInUse, message));
            }
            let now = self.now();
            let deleted = self
                .parts
                .records
                .commit(file.deletion(version, now)?)
                .await;
            match deleted {
                Ok(()) => {
                    self.forget(&file.blob, now).await;
                    return Ok(DeletedFile {
                        id: file.id,
                        object: "file",
                        deleted: true,
                    });
                }
                Err(error) if error.code == ErrorCode::VersionConflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended())
    }

    /// The file, and its record's version.
    ///
    /// # Errors
    /// `file_not_found`, `store_unavailable`.
    pub(crate) async fn find(&self, tenant: &Tenant, id: &FileId) -> Result<(File, u64)> {
        let key = newest_first::key(tenant, id.as_str());
        let record = self.parts.records.get(FILES, &key).await?;
        let found: Option<(File, u64)> = record.map(with_version).transpose()?;
        found
            .filter(|(file, _)| file.in_use > 0 || !file.is_expired(self.now()))
            .ok_or_else(|| Error::new(ErrorCode::FileNotFound, format!("there is no file {id}")))
    }

    /// The file of an upload, and what makes it one: to be committed with what names it.
    pub(crate) fn made(
        &self,
        tenant: &Tenant,
        upload: Upload,
        filename: String,
        purpose: &str,
        expires_after: Option<Duration>,
    ) -> Result<(File, Vec<RecordWrite>)> {
        let now = self.now();
        let file = File {
            id: FileId::generate(),
            tenant: tenant.clone(),
            blob: upload.blob,
            bytes: upload.bytes,
            filename,
            purpose: purpose.to_owned(),
            created_at: now,
            expires_at: match expires_after {
                Some(after) => Some(now.plus(after)),
                None => default_expiry(purpose, now, self.parts.config.ttl),
            },
            in_use: 0,
        };
        let writes = file.creation(upload.ends)?;
        Ok((file, writes))
    }

    /// A blob's bytes from `offset` on.
    pub(crate) async fn bytes(&self, blob: &BlobId, offset: u64) -> Result<ByteStream<'static>> {
        self.parts.blobs.get(blob, offset).await
    }

    /// Up to `most` files, the newest first.
    async fn newest(
        &self,
        tenant: &Tenant,
        params: &ListFiles,
        mut after: Option<String>,
        most: usize,
    ) -> Result<Vec<File>> {
        let (prefix, now) = (newest_first::prefix(tenant), self.now());
        let mut found = Vec::new();
        loop {
            let records = &self.parts.records;
            let page = records.list(FILES, &prefix, after.as_deref(), PAGE).await?;
            let last = page.len() < PAGE as usize;
            after = page.last().map(|record| record.key.clone()).or(after);
            for record in page {
                let file: File = read(record)?;
                let is_wanted = params
                    .purpose
                    .as_ref()
                    .is_none_or(|purpose| *purpose == file.purpose);
                if is_wanted && !file.is_expired(now) {
                    found.push(file);
                }
            }
            if last || found.len() >= most {
                return Ok(found);
            }
        }
    }

    /// Deletes a blob that no file names, and the entry that says so. What fails is left to the sweep.
    async fn forget(&self, blob: &BlobId, ends: Timestamp) {
        if let Err(error) = self.try_forget(blob, &end_key(ends, blob)).await {
            tracing::warn!(%error, "a file's bytes are left to the sweep");
        }
    }

    async fn try_forget(&self, blob: &BlobId, end: &str) -> Result<()> {
        self.parts.blobs.delete(blob).await?;
        let entry = RecordWrite::delete(ENDS, end);
        self.parts.records.commit(vec![entry]).await
    }

    fn now(&self) -> Timestamp {
        (self.parts.clock)()
    }
}

fn with_version(record: Record) -> Result<(File, u64)> {
    let version = record.version;
    Ok((read(record)?, version))
}

fn contended() -> Error {
    Error::new(
        ErrorCode::StoreUnavailable,
        "the file is being changed by others; try again",
    )
    .with_retry_after(Duration::from_secs(1))
}
