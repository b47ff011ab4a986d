//! Chunks with their vectors.

use std::collections::{HashMap, HashSet};

use fusion_types::{
    Error,
    document::{Chunk, CollectionRef, DocumentVersion, NewChunk},
    id::{ChunkId, DocumentId},
};
use mongodb::{
    ClientSession,
    bson::{Binary, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype},
};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Mongo, all, from_stored, read,
        schema::{CHUNKS, COLLECTIONS, DOCUMENTS, INDEX_CHANGES},
        to_stored, written,
    },
    collections, versions,
};
use crate::error::StoreError;

/// Documents of one message: each is some kilobytes.
const PUT_AT_ONCE: usize = 500;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(rename = "_id")]
    id: ObjectId,
    collection: ObjectId,
    document: ObjectId,
    position: i64,
    chunk_id: ChunkId,
    char_start: i64,
    char_end: i64,
    page: Option<i64>,
    /// Its Add in the log.
    pub(super) added: i64,
    pub(super) text: String,
    /// Little-endian f32.
    embedding: Binary,
}

impl Stored {
    pub(super) fn vector(&self) -> Vec<f32> {
        let values = self.embedding.bytes.as_chunks().0.iter();
        values.map(|value| f32::from_le_bytes(*value)).collect()
    }

    fn chunk(self, document: &versions::Stored) -> Result<Chunk, StoreError> {
        Ok(Chunk {
            chunk_id: self.chunk_id,
            document_id: document.document_id().clone(),
            text: self.text,
            char_start: from_stored(self.char_start),
            char_end: from_stored(self.char_end),
            page: self.page.and_then(|page| u32::try_from(page).ok()),
            filename: document.filename.clone(),
            metadata: versions::fields(&document.metadata)?,
        })
    }
}

/// Where chunks belong, and the newest number of the collection's log.
pub(super) struct Place {
    pub(super) collection: ObjectId,
    pub(super) document: ObjectId,
    pub(super) seq: i64,
}

pub(super) struct Replaced {
    /// Chunks of the version before.
    pub(super) before: usize,
    /// The log's newest number now.
    pub(super) seq: i64,
}

/// What is to be written for a new set of chunks.
#[derive(Default)]
struct Difference {
    chunks: Vec<mongodb::bson::Document>,
    /// Entries of the log that are no longer true.
    forgotten: Vec<i64>,
    log: Vec<mongodb::bson::Document>,
    seq: i64,
}

impl Difference {
    fn log(&mut self, place: &Place, chunk_id: &str) -> i64 {
        self.seq += 1;
        self.log
            .push(doc! { "collection": place.collection, "seq": self.seq, "chunk_id": chunk_id });
        self.seq
    }
}

/// # Errors
/// `invalid_value` where an id stands for two chunks.
pub(super) fn check_ids(version: &DocumentVersion) -> Result<(), StoreError> {
    let mut ids = HashSet::new();
    match version.chunks.iter().find(|chunk| !ids.insert(&chunk.id)) {
        Some(twin) => Err(used_twice(twin.id.as_str()).into()),
        None => Ok(()),
    }
}

fn used_twice(id: &str) -> Error {
    Error::invalid(
        "chunks",
        format!("chunk id {id} is used twice in the collection"),
    )
}

/// Makes these the document's chunks and logs the difference; a chunk that stays as it was is no change.
pub(super) async fn replace(
    store: &Mongo,
    session: &mut ClientSession,
    place: &Place,
    chunks: &[NewChunk],
) -> Result<Replaced, StoreError> {
    refuse_others(store, session, place, chunks).await?;
    let before = of(store, place.document, session).await?;
    let count = before.len();
    let difference = difference(place, before, chunks)?;
    let of_document = doc! { "document": place.document };
    let stored = store.collection(CHUNKS);
    stored
        .delete_many(of_document)
        .session(&mut *session)
        .await?;
    let log = store.collection(INDEX_CHANGES);
    if !difference.forgotten.is_empty() {
        let gone = doc! { "collection": place.collection, "seq": { "$in": &difference.forgotten } };
        log.delete_many(gone).session(&mut *session).await?;
    }
    for some in difference.chunks.chunks(PUT_AT_ONCE) {
        stored.insert_many(some).session(&mut *session).await?;
    }
    for some in difference.log.chunks(PUT_AT_ONCE) {
        log.insert_many(some).session(&mut *session).await?;
    }
    store
        .collection(COLLECTIONS)
        .update_one(
            doc! { "_id": place.collection },
            doc! { "$set": { "seq": difference.seq } },
        )
        .session(session)
        .await?;
    Ok(Replaced {
        before: count,
        seq: difference.seq,
    })
}

fn difference(
    place: &Place,
    before: Vec<Stored>,
    chunks: &[NewChunk],
) -> Result<Difference, StoreError> {
    let mut difference = Difference {
        seq: place.seq,
        ..Difference::default()
    };
    let mut known: HashMap<String, Stored> = before
        .into_iter()
        .map(|chunk| (chunk.chunk_id.as_str().to_owned(), chunk))
        .collect();
    for (position, chunk) in (0..).zip(chunks) {
        let embedding = to_bytes(&chunk.embedding);
        let added = match known.remove(chunk.id.as_str()) {
            Some(known) if known.text == chunk.text && known.embedding.bytes == embedding => {
                known.added
            }
            Some(known) => {
                difference.forgotten.push(known.added);
                difference.log(place, chunk.id.as_str())
            }
            None => difference.log(place, chunk.id.as_str()),
        };
        let stored = Stored {
            id: ObjectId::new(),
            collection: place.collection,
            document: place.document,
            position,
            chunk_id: chunk.id.clone(),
            char_start: to_stored(chunk.char_start),
            char_end: to_stored(chunk.char_end),
            page: chunk.page.map(i64::from),
            added,
            text: chunk.text.clone(),
            embedding: Binary {
                subtype: BinarySubtype::Generic,
                bytes: embedding,
            },
        };
        difference.chunks.push(written(&stored)?);
    }
    for (id, gone) in known {
        difference.forgotten.push(gone.added);
        difference.log(place, &id);
    }
    Ok(difference)
}

/// # Errors
/// `invalid_value` where another document has one of the ids.
async fn refuse_others(
    store: &Mongo,
    session: &mut ClientSession,
    place: &Place,
    chunks: &[NewChunk],
) -> Result<(), StoreError> {
    let ids: Vec<&str> = chunks.iter().map(|chunk| chunk.id.as_str()).collect();
    let elsewhere = doc! {
        "collection": place.collection,
        "chunk_id": { "$in": ids },
        "document": { "$ne": place.document },
    };
    let taken = store
        .collection(CHUNKS)
        .find_one(elsewhere)
        .session(session)
        .await?;
    match taken
        .as_ref()
        .and_then(|taken| taken.get_str("chunk_id").ok())
    {
        Some(id) => Err(used_twice(id).into()),
        None => Ok(()),
    }
}

async fn of(
    store: &Mongo,
    document: ObjectId,
    session: &mut ClientSession,
) -> Result<Vec<Stored>, StoreError> {
    let mut cursor = store
        .raw(CHUNKS)
        .find(doc! { "document": document })
        .session(&mut *session)
        .await?;
    let mut chunks = Vec::new();
    while cursor.advance(session).await? {
        chunks.push(read(cursor.current())?);
    }
    Ok(chunks)
}

pub(super) async fn of_document(
    store: &Mongo,
    document: &versions::Stored,
) -> Result<Vec<Chunk>, StoreError> {
    let cursor = store
        .raw(CHUNKS)
        .find(doc! { "document": document.id })
        .sort(doc! { "position": 1 })
        .await?;
    let documents: Vec<RawDocumentBuf> = all(cursor).await?;
    documents
        .iter()
        .map(|chunk| read::<Stored>(chunk)?.chunk(document))
        .collect()
}

pub(super) async fn live(
    store: &Mongo,
    key: &CollectionRef,
    ids: &[ChunkId],
) -> Result<Vec<Chunk>, StoreError> {
    let Some(collection) = collections::find(store, key).await? else {
        return Ok(Vec::new());
    };
    let wanted: Vec<&str> = ids.iter().map(ChunkId::as_str).collect();
    let cursor = store
        .raw(CHUNKS)
        .find(doc! { "collection": collection.id, "chunk_id": { "$in": wanted } })
        .await?;
    let found: Vec<RawDocumentBuf> = all(cursor).await?;
    let found = found
        .iter()
        .map(|chunk| read(chunk))
        .collect::<Result<Vec<Stored>, _>>()?;
    let documents = documents(store, &found).await?;
    let mut chunks = HashMap::new();
    for chunk in found {
        // None where the document went between the two looks.
        if let Some(document) = documents.get(&chunk.document) {
            chunks.insert(chunk.chunk_id.clone(), chunk.chunk(document)?);
        }
    }
    Ok(ids
        .iter()
        .filter_map(|id| chunks.get(id).cloned())
        .collect())
}

async fn documents(
    store: &Mongo,
    chunks: &[Stored],
) -> Result<HashMap<ObjectId, versions::Stored>, StoreError> {
    let ids: HashSet<ObjectId> = chunks.iter().map(|chunk| chunk.document).collect();
    let ids: Vec<ObjectId> = ids.into_iter().collect();
    let cursor = store
        .raw(DOCUMENTS)
        .find(doc! { "_id": { "$in": ids } })
        .projection(doc! { "text": 0 })
        .await?;
    let found: Vec<RawDocumentBuf> = all(cursor).await?;
    found
        .iter()
        .map(|document| read::<versions::Stored>(document).map(|document| (document.id, document)))
        .collect()
}

pub(super) async fn known_vectors(
    store: &Mongo,
    key: &CollectionRef,
    id: &DocumentId,
    texts: &[&str],
) -> Result<Vec<Option<Vec<f32>>>, StoreError> {
    let Some(collection) = collections::find(store, key).await? else {
        return Ok(vec![None; texts.len()]);
    };
    let Some(document) = versions::stored(store, collection.id, id).await? else {
        return Ok(vec![None; texts.len()]);
    };
    let cursor = store
        .raw(CHUNKS)
        .find(doc! { "document": document.id })
        .await?;
    let documents: Vec<RawDocumentBuf> = all(cursor).await?;
    let chunks = documents
        .iter()
        .map(|chunk| read(chunk))
        .collect::<Result<Vec<Stored>, _>>()?;
    let by_text: HashMap<&str, &Stored> = chunks
        .iter()
        .map(|chunk| (chunk.text.as_str(), chunk))
        .collect();
    Ok(texts
        .iter()
        .map(|text| by_text.get(text).map(|chunk| chunk.vector()))
        .collect())
}

fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
