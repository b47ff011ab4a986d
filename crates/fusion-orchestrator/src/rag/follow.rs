//! Keeps the indexes up with the store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fusion_types::{
    Call, Result,
    document::{CollectionRef, Hit, IndexQuery},
    store::{ChunkIndex, DocumentStore},
};
use futures::try_join;

/// Changes applied at a time: some megabytes.
const STEP: u32 = 512;

/// The indexes of all collections, with one writer a collection at a time.
pub(super) struct Indexes {
    documents: Arc<dyn DocumentStore>,
    dense: Arc<dyn ChunkIndex>,
    keyword: Arc<dyn ChunkIndex>,
    gates: Mutex<HashMap<CollectionRef, Arc<tokio::sync::Mutex<()>>>>,
}

impl Indexes {
    pub(super) fn new(
        documents: Arc<dyn DocumentStore>,
        dense: Arc<dyn ChunkIndex>,
        keyword: Arc<dyn ChunkIndex>,
    ) -> Self {
        Self {
            documents,
            dense,
            keyword,
            gates: Mutex::default(),
        }
    }

    /// Both indexes hold afterwards what the store held before.
    pub(super) async fn catch_up(&self, call: &Call, collection: &CollectionRef) -> Result<()> {
        let gate = self.gate(collection);
        let _one_writer = gate.lock().await;
        try_join!(
            self.follow(call, collection, &*self.dense),
            self.follow(call, collection, &*self.keyword)
        )?;
        Ok(())
    }

    pub(super) async fn dense(
        &self,
        collection: &CollectionRef,
        vector: Vec<f32>,
        k: usize,
    ) -> Result<Vec<Hit>> {
        self.dense
            .search(collection, IndexQuery::Dense(vector), k)
            .await
    }

    pub(super) async fn keyword(
        &self,
        collection: &CollectionRef,
        query: &str,
        k: usize,
    ) -> Result<Vec<Hit>> {
        self.keyword
            .search(collection, IndexQuery::Keyword(query.to_owned()), k)
            .await
    }

    /// Deletes the collection everywhere. The indexes go first: should the store then fail, they are made anew from it.
    pub(super) async fn delete(&self, collection: &CollectionRef) -> Result<()> {
        let gate = self.gate(collection);
        let _one_writer = gate.lock().await;
        self.dense.drop_collection(collection).await?;
        self.keyword.drop_collection(collection).await?;
        self.documents.delete_collection(collection).await
    }

    async fn follow(
        &self,
        call: &Call,
        collection: &CollectionRef,
        index: &dyn ChunkIndex,
    ) -> Result<()> {
        let mut upto = index.upto(collection).await?;
        loop {
            let changes = self.documents.index_changes(collection, upto, STEP).await?;
            if changes.is_empty() {
                return Ok(());
            }
            call.check_deadline()?;
            upto = index.apply(collection, changes).await?;
        }
    }

    fn gate(&self, collection: &CollectionRef) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.entry(collection.clone()).or_default().clone()
    }
}
