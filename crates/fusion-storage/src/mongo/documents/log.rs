//! The log of chunks added and removed: what indexes follow. An entry is an Add for as long as its chunk is live and points at it.

use std::collections::HashMap;

use fusion_types::{
    document::{CollectionRef, IndexChange, IndexChangeKind},
    id::ChunkId,
    job::Seq,
};
use mongodb::bson::{Document, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    super::{
        Mongo, all, from_stored, read,
        schema::{CHUNKS, INDEX_CHANGES},
        to_stored,
    },
    chunks, collections,
};
use crate::error::StoreError;

const MOST: u32 = 10_000;
const READ_AT_ONCE: usize = 500;
/// An answer ends after the change that passes this.
const MOST_BYTES: usize = 16 << 20;

pub(super) async fn after(
    store: &Mongo,
    key: &CollectionRef,
    after: Seq,
    limit: u32,
) -> Result<Vec<IndexChange>, StoreError> {
    let Some(collection) = collections::find(store, key).await? else {
        return Ok(Vec::new());
    };
    let limit = limit.min(MOST) as usize;
    let mut changes: Vec<IndexChange> = Vec::new();
    let (mut last, mut bytes) = (to_stored(after.0), 0);
    while changes.len() < limit && bytes < MOST_BYTES {
        let wanted = READ_AT_ONCE.min(limit - changes.len());
        let entries = entries(store, collection.id, last, wanted).await?;
        let added = added(store, collection.id, &entries).await?;
        for entry in &entries {
            let seq = entry.get_i64("seq").unwrap_or_default();
            last = seq;
            let chunk_id = ChunkId::from_text(entry.get_str("chunk_id").unwrap_or_default());
            let kind = match added.get(&seq) {
                Some(chunk) => {
                    let (embedding, text) = (chunk.vector(), chunk.text.clone());
                    bytes += embedding.len() * size_of::<f32>() + text.len();
                    IndexChangeKind::Add {
                        chunk_id,
                        embedding,
                        text,
                    }
                }
                None => IndexChangeKind::Remove { chunk_id },
            };
            changes.push(IndexChange {
                seq: Seq(from_stored(seq)),
                kind,
            });
            if bytes >= MOST_BYTES {
                break;
            }
        }
        if entries.len() < wanted {
            break;
        }
    }
    Ok(changes)
}

async fn entries(
    store: &Mongo,
    collection: ObjectId,
    after: i64,
    wanted: usize,
) -> Result<Vec<Document>, StoreError> {
    let cursor = store
        .collection(INDEX_CHANGES)
        .find(doc! { "collection": collection, "seq": { "$gt": after } })
        .sort(doc! { "seq": 1 })
        .limit(wanted as i64)
        .await?;
    all(cursor).await
}

/// The live chunks that the entries added.
async fn added(
    store: &Mongo,
    collection: ObjectId,
    entries: &[Document],
) -> Result<HashMap<i64, chunks::Stored>, StoreError> {
    let seqs: Vec<i64> = entries
        .iter()
        .filter_map(|entry| entry.get_i64("seq").ok())
        .collect();
    let cursor = store
        .raw(CHUNKS)
        .find(doc! { "collection": collection, "added": { "$in": seqs } })
        .await?;
    let found: Vec<RawDocumentBuf> = all(cursor).await?;
    found
        .iter()
        .map(|chunk| read::<chunks::Stored>(chunk).map(|chunk| (chunk.added, chunk)))
        .collect()
}
