//! What a state store and the indexes beside it must do. The store is the truth; indexes are derived and safe to lose.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Result, Tenant, Timestamp,
    document::{
        Chunk, Collection, CollectionRef, Committed, Document, DocumentInfo, DocumentVersion, Hit,
        IndexChange, IndexQuery, NewCollection,
    },
    id::{ChunkId, DocumentId, JobId},
    job::{
        Change, Claim, Claimed, Fence, Held, Inserted, Job, JobCounts, JobQuery, JobWrite, NewJob,
        Owner, Seq,
    },
    page::{Page, Window},
    record::{Record, RecordWrite},
};

/// Positions in the queue are exact up to this; one beyond is the queue's length, so that no submission is as slow as the queue is
/// long.
pub const POSITIONS_COUNTED: u64 = 1_000;

/// Jobs and their change log. Every answer means committed and synced; time is the store's own.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// One answer a job, in order. A job may depend on one before it in the list.
    ///
    /// # Errors
    /// `job_not_found` for a dependency that isn't there, `invalid_value` for one that failed or was cancelled; none is kept then.
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>>;

    /// Due jobs, exclusively, each with a fence above all before. A claim counts as an attempt.
    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>>;

    /// Extends leases; one answer a job, in order.
    async fn renew(
        &self,
        owner: &Owner,
        lease: Duration,
        jobs: &[(JobId, Fence)],
    ) -> Result<Vec<Held>>;

    /// # Errors
    /// `version_conflict` with a stale fence: the job is another's, or finished.
    async fn write(&self, id: &JobId, fence: Fence, write: JobWrite) -> Result<Job>;

    /// A queued job is cancelled at once; a running one is marked, and its worker told by [`JobStore::renew`].
    ///
    /// # Errors
    /// `job_not_found`, `job_finished`.
    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Job>;

    /// Queues a failed job again with fresh attempts.
    ///
    /// # Errors
    /// `job_not_found`, `payload_gone`, `invalid_value` when the job didn't fail, or when one it depends on is not to complete.
    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Job>;

    /// [`JobStore::cancel`] for every unfinished job of the group. Returns how many these were.
    async fn cancel_group(&self, tenant: &Tenant, group: &str) -> Result<u64>;

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>>;

    /// The jobs of the group by status; all zero where there is no such group.
    async fn group(&self, tenant: &Tenant, group: &str) -> Result<JobCounts>;

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>>;

    /// Queued jobs that will be claimed before this one, exact up to [`POSITIONS_COUNTED`]; `None` when it isn't queued, or waits for a
    /// job it depends on.
    async fn position(&self, id: &JobId) -> Result<Option<u64>>;

    async fn counts(&self) -> Result<JobCounts>;

    /// Changes after `after`, in commit order.
    async fn changes(&self, after: Seq, limit: u32) -> Result<Vec<Change>>;

    /// Returns when there are changes after `after`, or the time is up.
    async fn wait_for_changes(&self, after: Seq, at_most: Duration);

    /// The last change of the log so far, swept ones included: where to wait from.
    async fn head(&self) -> Result<Seq>;

    /// Returns when a running job of the owner is to be cancelled and another server said so: a hint, [`JobStore::renew`] tells
    /// which. Never, where a store has one server alone.
    async fn wait_for_cancellation(&self, _owner: &Owner) {
        std::future::pending().await
    }

    /// Ends every lease: no other server can hold one, since this one has the data folder's lock. Called at start.
    /// Nothing, where servers share the store.
    async fn release_all_leases(&self) -> Result<u64>;

    /// Removes what has expired: finished jobs past their time, with their changes.
    async fn sweep(&self) -> Result<u64>;
}

/// Documents, chunks and vectors.
#[async_trait]
pub trait DocumentStore: Send + Sync {
    /// The collection as it now is; the existing one where there was one.
    async fn create_collection(&self, collection: NewCollection) -> Result<Collection>;

    async fn collection(&self, key: &CollectionRef) -> Result<Option<Collection>>;

    async fn collections(&self, tenant: &Tenant, window: Window) -> Result<Page<Collection>>;

    /// # Errors
    /// `collection_not_found`.
    async fn delete_collection(&self, key: &CollectionRef) -> Result<()>;

    /// Whole or nothing; replaces the version before.
    ///
    /// # Errors
    /// `collection_not_found`; `embedding_model_mismatch` where a vector's length isn't the collection's.
    async fn commit(&self, version: DocumentVersion) -> Result<Committed>;

    async fn document(&self, key: &CollectionRef, id: &DocumentId) -> Result<Option<Document>>;

    async fn documents(&self, key: &CollectionRef, window: Window) -> Result<Page<DocumentInfo>>;

    /// The number of chunks deleted.
    ///
    /// # Errors
    /// `document_not_found`.
    async fn delete(&self, key: &CollectionRef, id: &DocumentId) -> Result<u64>;

    /// Vectors of the document's current version whose chunk text is among `texts`, in that order: what needn't be embedded
    /// again.
    async fn known_vectors(
        &self,
        key: &CollectionRef,
        id: &DocumentId,
        texts: &[&str],
    ) -> Result<Vec<Option<Vec<f32>>>>;

    /// Those of the chunks that are live, in the order asked: every hit is joined here, and what isn't live is dropped.
    async fn live_chunks(&self, key: &CollectionRef, ids: &[ChunkId]) -> Result<Vec<Chunk>>;

    /// The log that indexes follow. An empty answer: nothing after `after`.
    async fn index_changes(
        &self,
        key: &CollectionRef,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<IndexChange>>;
}

/// An index derived from a [`DocumentStore`]: exact, HNSW, keyword …
#[async_trait]
pub trait ChunkIndex: Send + Sync {
    /// The last change that the index has seen of the collection.
    async fn upto(&self, collection: &CollectionRef) -> Result<Seq>;

    /// Changes in order; `Seq` is true of the index afterwards.
    async fn apply(&self, collection: &CollectionRef, changes: Vec<IndexChange>) -> Result<Seq>;

    /// Best first, at most `k`.
    async fn search(
        &self,
        collection: &CollectionRef,
        query: IndexQuery,
        k: usize,
    ) -> Result<Vec<Hit>>;

    /// Forgets the collection.
    async fn drop_collection(&self, collection: &CollectionRef) -> Result<()>;
}

/// Small JSON records. A commit is atomic over all its writes.
#[async_trait]
pub trait RecordStore: Send + Sync {
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Record>>;

    /// In key order: keys that start with `prefix`, after `after`.
    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>>;

    /// All writes or none.
    ///
    /// # Errors
    /// `version_conflict` when a record isn't as expected.
    async fn commit(&self, writes: Vec<RecordWrite>) -> Result<()>;

    /// Removes records that expired before `now`.
    async fn sweep(&self, now: Timestamp) -> Result<u64>;
}
