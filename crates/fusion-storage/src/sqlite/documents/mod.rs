//! Documents, their chunks and vectors, and the log that indexes follow.

mod chunks;
mod collections;
mod export;
mod log;
mod versions;

use std::sync::Arc;

use async_trait::async_trait;
use fusion_types::{
    Result, Tenant, Timestamp,
    document::{
        Chunk, Collection, CollectionRef, Committed, Document, DocumentInfo, DocumentVersion,
        IndexChange, NewCollection,
    },
    id::{ChunkId, DocumentId},
    job::Seq,
    page::{Page, Window},
    store::DocumentStore,
};

use super::Sqlite;

pub(crate) struct Documents {
    store: Arc<Sqlite>,
}

impl Documents {
    pub(crate) fn new(store: Arc<Sqlite>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl DocumentStore for Documents {
    async fn create_collection(&self, collection: NewCollection) -> Result<Collection> {
        self.store
            .write(move |transaction| collections::create(transaction, &collection))
            .await
    }

    async fn collection(&self, key: &CollectionRef) -> Result<Option<Collection>> {
        let key = key.clone();
        self.store
            .read(move |connection| {
                Ok(collections::find(connection, &key)?.map(|(_, collection)| collection))
            })
            .await
    }

    async fn collections(&self, tenant: &Tenant, window: Window) -> Result<Page<Collection>> {
        let tenant = tenant.clone();
        self.store
            .read(move |connection| collections::list(connection, &tenant, window))
            .await
    }

    async fn delete_collection(&self, key: &CollectionRef) -> Result<()> {
        let key = key.clone();
        self.store
            .write(move |transaction| collections::drop(transaction, &key))
            .await?;
        purge_dropped_collections(&self.store).await
    }

    async fn commit(&self, version: DocumentVersion) -> Result<Committed> {
        self.store
            .write(move |transaction| versions::commit(transaction, &version))
            .await
    }

    async fn document(&self, key: &CollectionRef, id: &DocumentId) -> Result<Option<Document>> {
        let (key, id) = (key.clone(), id.clone());
        self.store
            .read(move |connection| versions::find(connection, &key, &id))
            .await
    }

    async fn documents(&self, key: &CollectionRef, window: Window) -> Result<Page<DocumentInfo>> {
        let key = key.clone();
        self.store
            .read(move |connection| versions::list(connection, &key, window))
            .await
    }

    async fn delete(&self, key: &CollectionRef, id: &DocumentId) -> Result<u64> {
        let (key, id) = (key.clone(), id.clone());
        self.store
            .write(move |transaction| versions::delete(transaction, &key, &id, Timestamp::now()))
            .await
    }

    async fn known_vectors(
        &self,
        key: &CollectionRef,
        id: &DocumentId,
        texts: &[&str],
    ) -> Result<Vec<Option<Vec<f32>>>> {
        let (key, id) = (key.clone(), id.clone());
        let texts = texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>();
        self.store
            .read(move |connection| chunks::known_vectors(connection, &key, &id, &texts))
            .await
    }

    async fn live_chunks(&self, key: &CollectionRef, ids: &[ChunkId]) -> Result<Vec<Chunk>> {
        let (key, ids) = (key.clone(), ids.to_vec());
        self.store
            .read(move |connection| chunks::live(connection, &key, &ids))
            .await
    }

    async fn index_changes(
        &self,
        key: &CollectionRef,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<IndexChange>> {
        let key = key.clone();
        self.store
            .read(move |connection| log::after(connection, &key, after, limit))
            .await
    }
}

/// Deletes what dropped collections left behind, some at a time, so that other writes come in between. What a crash leaves is
/// found by the next call.
pub(super) async fn purge_dropped_collections(store: &Sqlite) -> Result<()> {
    while store.write(collections::purge_some).await? {}
    Ok(())
}
