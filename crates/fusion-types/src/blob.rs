//! Files as bytes: what is too large for a record. Written and read in pieces, so that no size needs memory.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{Result, id::BlobId};

/// The bytes of a file in pieces; an error is the last item.
pub type ByteStream<'a> = BoxStream<'a, Result<Bytes>>;

/// Keeps files by ids that this server made.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Keeps what comes, whole or not at all. The answer, how many bytes these were, means that they are synced.
    ///
    /// # Errors
    /// What the source says; `store_unavailable` where they can't be kept, such as on a full disk.
    async fn put(&self, id: &BlobId, source: ByteStream<'_>) -> Result<u64>;

    /// The bytes from `offset` on; none where that is the end or beyond.
    ///
    /// # Errors
    /// `file_not_found`, `store_unavailable`.
    async fn get(&self, id: &BlobId, offset: u64) -> Result<ByteStream<'static>>;

    /// What isn't there counts as deleted.
    ///
    /// # Errors
    /// `store_unavailable`.
    async fn delete(&self, id: &BlobId) -> Result<()>;
}
