//! Documents, their chunks and vectors, and the log that indexes follow.
//!
//! What changes a collection is a transaction that also writes the collection's own document, so that those of one collection come
//! one after the other, and the numbers of its log are those of their order.

mod chunks;
mod collections;
mod log;
mod versions;

use std::sync::Arc;

use async_trait::async_trait;
use fusion_types::{
    Result, Tenant,
    document::{
        Chunk, Collection, CollectionRef, Committed, Document, DocumentInfo, DocumentVersion,
        IndexChange, NewCollection,
    },
    id::{ChunkId, DocumentId},
    job::Seq,
    page::{Page, Window},
    store::DocumentStore,
};

use super::{Mongo, deadline::within};

pub(crate) struct Documents {
    store: Arc<Mongo>,
}

impl Documents {
    pub(crate) fn new(store: Arc<Mongo>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl DocumentStore for Documents {
    async fn create_collection(&self, collection: NewCollection) -> Result<Collection> {
        within(collections::create(&self.store, &collection)).await
    }

    async fn collection(&self, key: &CollectionRef) -> Result<Option<Collection>> {
        let found = within(collections::find(&self.store, key)).await?;
        Ok(found.map(|stored| stored.collection()).transpose()?)
    }

    async fn collections(&self, tenant: &Tenant, window: Window) -> Result<Page<Collection>> {
        within(collections::list(&self.store, tenant, window)).await
    }

    async fn delete_collection(&self, key: &CollectionRef) -> Result<()> {
        within(collections::drop(&self.store, key)).await?;
        purge_dropped_collections(&self.store).await
    }

    async fn commit(&self, version: DocumentVersion) -> Result<Committed> {
        within(versions::commit(&self.store, &version)).await
    }

    async fn document(&self, key: &CollectionRef, id: &DocumentId) -> Result<Option<Document>> {
        within(versions::find(&self.store, key, id)).await
    }

    async fn documents(&self, key: &CollectionRef, window: Window) -> Result<Page<DocumentInfo>> {
        within(versions::list(&self.store, key, window)).await
    }

    async fn delete(&self, key: &CollectionRef, id: &DocumentId) -> Result<u64> {
        within(versions::delete(&self.store, key, id)).await
    }

    async fn known_vectors(
        &self,
        key: &CollectionRef,
        id: &DocumentId,
        texts: &[&str],
    ) -> Result<Vec<Option<Vec<f32>>>> {
        within(chunks::known_vectors(&self.store, key, id, texts)).await
    }

    async fn live_chunks(&self, key: &CollectionRef, ids: &[ChunkId]) -> Result<Vec<Chunk>> {
        within(chunks::live(&self.store, key, ids)).await
    }

    async fn index_changes(
        &self,
        key: &CollectionRef,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<IndexChange>> {
        within(log::after(&self.store, key, after, limit)).await
    }
}

/// Deletes what dropped collections left behind. What a crash leaves is found by the next call.
pub(super) async fn purge_dropped_collections(store: &Mongo) -> Result<()> {
    while within(collections::purge_one(store)).await? {}
    Ok(())
}
