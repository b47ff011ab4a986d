//! The log of chunks added and removed: what indexes follow.
//!
//! A row is an Add for as long as its chunk is live and points at it; the chunk takes it along when it goes and leaves a Remove. So
//! the log of a collection stays about as long as the collection has chunks and removals, and its newest row always stands.

use fusion_types::{
    document::{CollectionRef, IndexChange, IndexChangeKind},
    id::ChunkId,
    job::Seq,
};
use rusqlite::{Connection, Row};

use super::{
    super::{from_stored, to_stored, writer::Transaction},
    chunks, collections,
};
use crate::error::StoreError;

const MOST: u32 = 10_000;
/// An answer ends after the change that passes this.
const MOST_BYTES: usize = 16 << 20;

/// Returns the row's number.
pub(super) fn append(
    transaction: &Transaction<'_>,
    collection: i64,
    chunk_id: &str,
) -> Result<i64, StoreError> {
    transaction
        .prepare_cached("INSERT INTO index_changes (collection, chunk_id) VALUES (?1, ?2)")?
        .execute((collection, chunk_id))?;
    Ok(transaction.last_insert_rowid())
}

/// The Add of a chunk that is no longer what was added.
pub(super) fn forget(transaction: &Transaction<'_>, added: i64) -> Result<(), StoreError> {
    transaction
        .prepare_cached("DELETE FROM index_changes WHERE seq = ?1")?
        .execute([added])?;
    Ok(())
}

pub(super) fn newest(connection: &Connection, collection: i64) -> Result<Seq, StoreError> {
    let sql = "SELECT coalesce(max(seq), 0) FROM index_changes WHERE collection = ?1";
    let newest = connection
        .prepare_cached(sql)?
        .query_row([collection], |row| row.get(0))?;
    Ok(Seq(from_stored(newest)))
}

pub(super) fn after(
    connection: &Connection,
    key: &CollectionRef,
    after: Seq,
    limit: u32,
) -> Result<Vec<IndexChange>, StoreError> {
    let Some((collection, _)) = collections::find(connection, key)? else {
        return Ok(Vec::new());
    };
    let sql = "SELECT seq, chunk_id, chunks.embedding, chunks.text FROM index_changes LEFT JOIN chunks \
               ON chunks.collection = index_changes.collection AND chunks.id = chunk_id AND chunks.added = seq \
               WHERE index_changes.collection = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((collection, to_stored(after.0), limit.min(MOST)))?;
    let mut changes = Vec::new();
    let mut bytes = 0;
    while bytes < MOST_BYTES
        && let Some(row) = rows.next()?
    {
        let (change, size) = read(row)?;
        bytes += size;
        changes.push(change);
    }
    Ok(changes)
}

/// The change, and the bytes it was made from.
fn read(row: &Row<'_>) -> Result<(IndexChange, usize), StoreError> {
    let chunk_id = ChunkId::from_text(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?);
    let embedding = row
        .get_ref(2)?
        .as_blob_or_null()
        .map_err(rusqlite::Error::from)?;
    let text: Option<String> = row.get(3)?;
    let size = chunk_id.as_str().len()
        + embedding.map_or(0, <[u8]>::len)
        + text.as_ref().map_or(0, String::len);
    let kind = match (embedding, text) {
        (Some(embedding), Some(text)) => IndexChangeKind::Add {
            chunk_id,
            embedding: chunks::from_bytes(embedding),
            text,
        },
        _ => IndexChangeKind::Remove { chunk_id },
    };
    Ok((
        IndexChange {
            seq: Seq(from_stored(row.get(0)?)),
            kind,
        },
        size,
    ))
}
