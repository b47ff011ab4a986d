//! Documents: a version appears whole, and takes the place of the one before it.

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode,
    document::{CollectionRef, Committed, Document, DocumentInfo, DocumentVersion},
    id::DocumentId,
    job::Seq,
    page::{Page, Window},
};
use mongodb::{
    ClientSession,
    bson::{Bson, DateTime, RawDocumentBuf, doc, oid::ObjectId},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    super::{
        Mongo, all,
        blobs::{Blob, Part, cut},
        bounds, from_stored, read,
        schema::{BLOBS, DOCUMENTS},
        stored_time, time, to_stored,
        transaction::Work,
        value::{from_bson, to_bson},
        written,
    },
    chunks, collections,
};
use crate::error::StoreError;

/// A text beyond this many bytes is kept in parts.
const LARGEST_INLINE: usize = 4 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(rename = "_id")]
    pub(super) id: ObjectId,
    collection: ObjectId,
    document_id: DocumentId,
    version: i64,
    pub(super) filename: Option<String>,
    content_hash: String,
    pub(super) metadata: Bson,
    chunk_count: i64,
    ingested_at: DateTime,
    text: Option<String>,
    text_blob: Option<Blob>,
}

impl Stored {
    fn info(&self) -> Result<DocumentInfo, StoreError> {
        Ok(DocumentInfo {
            document_id: self.document_id.clone(),
            filename: self.filename.clone(),
            version: from_stored(self.version),
            chunk_count: from_stored(self.chunk_count),
            ingested_at: time(self.ingested_at),
            metadata: fields(&self.metadata)?,
            content_hash: self.content_hash.clone(),
        })
    }

    pub(super) fn document_id(&self) -> &DocumentId {
        &self.document_id
    }
}

pub(super) fn fields(metadata: &Bson) -> Result<Map<String, Value>, StoreError> {
    Ok(match from_bson(metadata.clone())? {
        Value::Object(fields) => fields,
        _ => Map::new(),
    })
}

struct Commit<'a> {
    version: &'a DocumentVersion,
    text: Option<(Blob, Vec<Part>)>,
}

#[async_trait]
impl Work for Commit<'_> {
    type Output = Committed;

    async fn run(
        &self,
        store: &Mongo,
        session: &mut ClientSession,
    ) -> Result<Committed, StoreError> {
        let version = self.version;
        let key = &version.collection;
        let collection = collections::found(key, collections::find_in(store, key, session).await?)?;
        check_vectors(&collection, version)?;
        let before = stored_in(store, collection.id, &version.document_id, session).await?;
        let is_new = before.is_none();
        let document = self.put(store, collection.id, before, session).await?;
        let place = chunks::Place {
            collection: collection.id,
            document: document.id,
            seq: collection.seq,
        };
        let replaced = chunks::replace(store, session, &place, &version.chunks).await?;
        let added = version.chunks.len() as i64 - replaced.before as i64;
        collections::count(
            store,
            session,
            collection.id,
            i64::from(is_new),
            added,
            version.ingested_at,
        )
        .await?;
        Ok(Committed {
            version: from_stored(document.version),
            seq: Seq(from_stored(replaced.seq)),
        })
    }
}

impl Commit<'_> {
    async fn put(
        &self,
        store: &Mongo,
        collection: ObjectId,
        before: Option<Stored>,
        session: &mut ClientSession,
    ) -> Result<Stored, StoreError> {
        let version = self.version;
        let next = before.as_ref().map_or(1, |before| before.version + 1);
        let document = Stored {
            id: before
                .as_ref()
                .map_or_else(ObjectId::new, |before| before.id),
            collection,
            document_id: version.document_id.clone(),
            version: next.max(to_stored(version.at_least)),
            filename: version.filename.clone(),
            content_hash: version.content_hash.clone(),
            metadata: to_bson(&Value::Object(version.metadata.clone()))?,
            chunk_count: version.chunks.len() as i64,
            ingested_at: stored_time(version.ingested_at),
            text: self.text.is_none().then(|| version.text.clone()),
            text_blob: self.text.as_ref().map(|(blob, _)| *blob),
        };
        if let Some((_, parts)) = &self.text {
            store.put_parts_in(parts, session).await?;
        }
        let bson = written(&document)?;
        let documents = store.collection(DOCUMENTS);
        match before {
            Some(before) => {
                forget_text(store, &before, session).await?;
                documents
                    .replace_one(doc! { "_id": document.id }, bson)
                    .session(session)
                    .await?;
            }
            None => {
                documents.insert_one(bson).session(session).await?;
            }
        }
        Ok(document)
    }
}

async fn forget_text(
    store: &Mongo,
    document: &Stored,
    session: &mut ClientSession,
) -> Result<(), StoreError> {
    if let Some(text) = document.text_blob {
        store
            .collection(BLOBS)
            .delete_many(doc! { "blob": text.blob })
            .session(session)
            .await?;
    }
    Ok(())
}

pub(super) async fn commit(
    store: &Mongo,
    version: &DocumentVersion,
) -> Result<Committed, StoreError> {
    chunks::check_ids(version)?;
    let is_large = version.text.len() > LARGEST_INLINE;
    let text = is_large.then(|| cut(None, version.text.as_bytes()));
    store.transaction(&Commit { version, text }).await
}

fn check_vectors(collection: &collections::Stored, version: &DocumentVersion) -> Result<(), Error> {
    let dimension = collection.dimension();
    match version
        .chunks
        .iter()
        .find(|chunk| chunk.embedding.len() != dimension)
    {
        None => Ok(()),
        Some(chunk) => Err(Error::new(
            ErrorCode::EmbeddingModelMismatch,
            format!(
                "collection {} has vectors of length {dimension}, this one has {}: it was made by another model",
                collection.name(),
                chunk.embedding.len()
            ),
        )),
    }
}

struct Delete<'a> {
    key: &'a CollectionRef,
    id: &'a DocumentId,
}

#[async_trait]
impl Work for Delete<'_> {
    type Output = u64;

    async fn run(&self, store: &Mongo, session: &mut ClientSession) -> Result<u64, StoreError> {
        let missing = || {
            Error::new(
                ErrorCode::DocumentNotFound,
                format!("document {} not found", self.id),
            )
        };
        let collection = collections::find_in(store, self.key, session)
            .await?
            .ok_or_else(missing)?;
        let document = stored_in(store, collection.id, self.id, session)
            .await?
            .ok_or_else(missing)?;
        let place = chunks::Place {
            collection: collection.id,
            document: document.id,
            seq: collection.seq,
        };
        let replaced = chunks::replace(store, session, &place, &[]).await?;
        forget_text(store, &document, session).await?;
        store
            .collection(DOCUMENTS)
            .delete_one(doc! { "_id": document.id })
            .session(&mut *session)
            .await?;
        let gone = -(replaced.before as i64);
        let now = store.now().await?;
        collections::count(store, session, collection.id, -1, gone, now).await?;
        Ok(replaced.before as u64)
    }
}

/// Returns how many chunks were deleted with it.
pub(super) async fn delete(
    store: &Mongo,
    key: &CollectionRef,
    id: &DocumentId,
) -> Result<u64, StoreError> {
    store.transaction(&Delete { key, id }).await
}

async fn stored_in(
    store: &Mongo,
    collection: ObjectId,
    id: &DocumentId,
    session: &mut ClientSession,
) -> Result<Option<Stored>, StoreError> {
    let found: Option<RawDocumentBuf> = store
        .raw(DOCUMENTS)
        .find_one(doc! { "collection": collection, "document_id": id.as_str() })
        .session(session)
        .await?;
    found.map(|found| read(&found)).transpose()
}

pub(super) async fn stored(
    store: &Mongo,
    collection: ObjectId,
    id: &DocumentId,
) -> Result<Option<Stored>, StoreError> {
    let found: Option<RawDocumentBuf> = store
        .raw(DOCUMENTS)
        .find_one(doc! { "collection": collection, "document_id": id.as_str() })
        .await?;
    found.map(|found| read(&found)).transpose()
}

pub(super) async fn find(
    store: &Mongo,
    key: &CollectionRef,
    id: &DocumentId,
) -> Result<Option<Document>, StoreError> {
    let Some(collection) = collections::find(store, key).await? else {
        return Ok(None);
    };
    let Some(document) = stored(store, collection.id, id).await? else {
        return Ok(None);
    };
    let text = match (&document.text, document.text_blob) {
        (Some(text), _) => text.clone(),
        (None, Some(blob)) => {
            let Some(bytes) = store.blob(blob).await? else {
                // Replaced or deleted since the line above.
                return Ok(None);
            };
            String::from_utf8_lossy(&bytes).into_owned()
        }
        (None, None) => String::new(),
    };
    Ok(Some(Document {
        info: document.info()?,
        text,
        chunks: chunks::of_document(store, &document).await?,
    }))
}

/// In the order in which they first came in.
pub(super) async fn list(
    store: &Mongo,
    key: &CollectionRef,
    window: Window,
) -> Result<Page<DocumentInfo>, StoreError> {
    let Some(collection) = collections::find(store, key).await? else {
        return Ok(Page {
            items: Vec::new(),
            total: 0,
        });
    };
    let (limit, offset) = bounds(window);
    let mut items = Vec::new();
    if limit > 0 {
        let cursor = store
            .raw(DOCUMENTS)
            .find(doc! { "collection": collection.id })
            .projection(doc! { "text": 0 })
            .sort(doc! { "_id": 1 })
            .skip(offset)
            .limit(limit)
            .await?;
        let documents: Vec<RawDocumentBuf> = all(cursor).await?;
        for document in &documents {
            items.push(read::<Stored>(document)?.info()?);
        }
    }
    Ok(Page {
        items,
        total: from_stored(collection.document_count),
    })
}
