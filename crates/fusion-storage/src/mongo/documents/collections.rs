//! Collections, the counts that stand with them, and how far their logs are.

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Tenant, Timestamp,
    document::{Collection, CollectionRef, NewCollection},
    page::{Page, Window},
};
use mongodb::{
    ClientSession,
    bson::{Bson, DateTime, Document, RawDocumentBuf, doc, oid::ObjectId},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::{
    Mongo, all, bounds, from_stored, is_duplicate, read,
    schema::{BLOBS, CHUNKS, COLLECTIONS, DOCUMENTS, DROPPED, INDEX_CHANGES},
    stored_time, time,
    transaction::Work,
    value::{from_bson, to_bson},
    written,
};
use crate::error::StoreError;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(rename = "_id")]
    pub(super) id: ObjectId,
    tenant: String,
    collection_name: String,
    embedding_model: String,
    fingerprint: String,
    dimension: i64,
    pub(super) document_count: i64,
    chunk_count: i64,
    created_at: DateTime,
    updated_at: DateTime,
    metadata: Bson,
    /// The newest number in the log of its chunks.
    pub(super) seq: i64,
}

impl Stored {
    fn new(new: &NewCollection) -> Result<Self, StoreError> {
        Ok(Self {
            id: ObjectId::new(),
            tenant: new.key.tenant.as_str().to_owned(),
            collection_name: new.key.name.to_string(),
            embedding_model: new.embedding_model.clone(),
            fingerprint: new.fingerprint.clone(),
            dimension: new.dimension.into(),
            document_count: 0,
            chunk_count: 0,
            created_at: stored_time(new.created_at),
            updated_at: stored_time(new.created_at),
            metadata: to_bson(&Value::Object(new.metadata.clone()))?,
            seq: 0,
        })
    }

    pub(super) fn collection(self) -> Result<Collection, StoreError> {
        let metadata = match from_bson(self.metadata)? {
            Value::Object(metadata) => metadata,
            _ => Map::new(),
        };
        Ok(Collection {
            name: self.collection_name,
            document_count: from_stored(self.document_count),
            chunk_count: from_stored(self.chunk_count),
            embedding_model: self.embedding_model,
            fingerprint: self.fingerprint,
            dimension: u32::try_from(self.dimension).unwrap_or(u32::MAX),
            created_at: time(self.created_at),
            updated_at: time(self.updated_at),
            metadata,
        })
    }

    pub(super) fn dimension(&self) -> usize {
        usize::try_from(self.dimension).unwrap_or(usize::MAX)
    }

    pub(super) fn name(&self) -> &str {
        &self.collection_name
    }
}

pub(super) async fn create(store: &Mongo, new: &NewCollection) -> Result<Collection, StoreError> {
    let document = written(&Stored::new(new)?)?;
    match store.collection(COLLECTIONS).insert_one(document).await {
        Err(error) if !is_duplicate(&error) => return Err(error.into()),
        _ => {}
    }
    found(&new.key, find(store, &new.key).await?)?.collection()
}

pub(super) async fn find(store: &Mongo, key: &CollectionRef) -> Result<Option<Stored>, StoreError> {
    let found: Option<RawDocumentBuf> = store.raw(COLLECTIONS).find_one(named(key)).await?;
    found.map(|found| read(&found)).transpose()
}

pub(super) async fn find_in(
    store: &Mongo,
    key: &CollectionRef,
    session: &mut ClientSession,
) -> Result<Option<Stored>, StoreError> {
    let found: Option<RawDocumentBuf> = store
        .raw(COLLECTIONS)
        .find_one(named(key))
        .session(session)
        .await?;
    found.map(|found| read(&found)).transpose()
}

/// # Errors
/// `collection_not_found`.
pub(super) fn found(key: &CollectionRef, stored: Option<Stored>) -> Result<Stored, StoreError> {
    let missing = || {
        Error::new(
            ErrorCode::CollectionNotFound,
            format!("collection {} not found", key.name),
        )
    };
    Ok(stored.ok_or_else(missing)?)
}

fn named(key: &CollectionRef) -> Document {
    doc! { "tenant": key.tenant.as_str(), "collection_name": &*key.name }
}

pub(super) async fn list(
    store: &Mongo,
    tenant: &Tenant,
    window: Window,
) -> Result<Page<Collection>, StoreError> {
    let filter = doc! { "tenant": tenant.as_str() };
    let total = store
        .collection(COLLECTIONS)
        .count_documents(filter.clone())
        .await?;
    let (limit, offset) = bounds(window);
    let mut items = Vec::new();
    if limit > 0 {
        let cursor = store
            .raw(COLLECTIONS)
            .find(filter)
            .sort(doc! { "collection_name": 1 })
            .skip(offset)
            .limit(limit)
            .await?;
        let documents: Vec<RawDocumentBuf> = all(cursor).await?;
        for document in &documents {
            items.push(read::<Stored>(document)?.collection()?);
        }
    }
    Ok(Page { items, total })
}

/// Adds to the counts.
pub(super) async fn count(
    store: &Mongo,
    session: &mut ClientSession,
    collection: ObjectId,
    documents: i64,
    chunks: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = doc! {
        "$inc": { "document_count": documents, "chunk_count": chunks },
        "$set": { "updated_at": stored_time(now) },
    };
    store
        .collection(COLLECTIONS)
        .update_one(doc! { "_id": collection }, update)
        .session(session)
        .await?;
    Ok(())
}

struct Drop<'a> {
    key: &'a CollectionRef,
}

#[async_trait]
impl Work for Drop<'_> {
    type Output = ();

    async fn run(&self, store: &Mongo, session: &mut ClientSession) -> Result<(), StoreError> {
        let stored = found(self.key, find_in(store, self.key, session).await?)?;
        store
            .collection(DROPPED)
            .insert_one(doc! { "_id": stored.id })
            .session(&mut *session)
            .await?;
        store
            .collection(COLLECTIONS)
            .delete_one(doc! { "_id": stored.id })
            .session(session)
            .await?;
        Ok(())
    }
}

/// From here on nobody finds the collection or anything in it; a new one of the same name is another one.
pub(super) async fn drop(store: &Mongo, key: &CollectionRef) -> Result<(), StoreError> {
    store.transaction(&Drop { key }).await
}

/// Deletes what a dropped collection left; false once nothing is left of any.
pub(super) async fn purge_one(store: &Mongo) -> Result<bool, StoreError> {
    let dropped = store.collection(DROPPED).find_one(doc! {}).await?;
    let Some(id) = dropped.and_then(|dropped| dropped.get_object_id("_id").ok()) else {
        return Ok(false);
    };
    let of_collection = doc! { "collection": id };
    let texts = store
        .collection(DOCUMENTS)
        .find(doc! { "collection": id, "text_blob": { "$type": "object" } })
        .projection(doc! { "text_blob": 1 })
        .await?;
    let texts: Vec<ObjectId> = all(texts)
        .await?
        .iter()
        .filter_map(|document| document.get_document("text_blob").ok())
        .filter_map(|text| text.get_object_id("blob").ok())
        .collect();
    store
        .collection(BLOBS)
        .delete_many(doc! { "blob": { "$in": texts } })
        .await?;
    for name in [CHUNKS, DOCUMENTS, INDEX_CHANGES] {
        store
            .collection(name)
            .delete_many(of_collection.clone())
            .await?;
    }
    store
        .collection(DROPPED)
        .delete_one(doc! { "_id": id })
        .await?;
    Ok(true)
}
