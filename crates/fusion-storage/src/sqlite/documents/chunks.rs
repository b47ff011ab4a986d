//! Chunks with their vectors.

use std::collections::HashMap;

use fusion_types::{
    Error,
    document::{Chunk, CollectionRef, NewChunk},
    id::{ChunkId, DocumentId},
};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, named_params};

use super::{
    super::{from_json, from_stored, to_stored, writer::Transaction},
    collections, log, versions,
};
use crate::error::StoreError;

const CHUNK: &str = "SELECT chunks.id, documents.id, chunks.text, char_start, char_end, page, filename, metadata \
                     FROM chunks JOIN documents ON documents.number = chunks.document";

/// What of a stored chunk decides whether it changes.
struct Stored {
    number: i64,
    added: i64,
    text: String,
    embedding: Vec<u8>,
}

/// Makes these the document's chunks and logs the difference; a chunk that stays as it was is no change. Returns how many there
/// were before.
pub(super) fn replace(
    transaction: &Transaction<'_>,
    collection: i64,
    document: i64,
    chunks: &[NewChunk],
) -> Result<usize, StoreError> {
    let mut before = stored(transaction, document)?;
    let count_before = before.len();
    for (position, chunk) in chunks.iter().enumerate() {
        let embedding = to_bytes(&chunk.embedding);
        let place = Place {
            collection,
            document,
            position: to_stored(position as u64),
        };
        let added = match before.remove(chunk.id.as_str()) {
            Some(known) => {
                transaction
                    .prepare_cached("DELETE FROM chunks WHERE number = ?1")?
                    .execute([known.number])?;
                if known.text == chunk.text && known.embedding == embedding {
                    known.added
                } else {
                    log::forget(transaction, known.added)?;
                    log::append(transaction, collection, chunk.id.as_str())?
                }
            }
            None => log::append(transaction, collection, chunk.id.as_str())?,
        };
        insert(transaction, &place, chunk, &embedding, added)?;
    }
    for (id, gone) in before {
        transaction
            .prepare_cached("DELETE FROM chunks WHERE number = ?1")?
            .execute([gone.number])?;
        log::forget(transaction, gone.added)?;
        log::append(transaction, collection, &id)?;
    }
    Ok(count_before)
}

fn stored(connection: &Connection, document: i64) -> Result<HashMap<String, Stored>, StoreError> {
    let sql = "SELECT id, number, added, text, embedding FROM chunks WHERE document = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([document], |row| {
        let stored = Stored {
            number: row.get(1)?,
            added: row.get(2)?,
            text: row.get(3)?,
            embedding: row.get(4)?,
        };
        Ok((row.get(0)?, stored))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

struct Place {
    collection: i64,
    document: i64,
    position: i64,
}

fn insert(
    transaction: &Transaction<'_>,
    place: &Place,
    chunk: &NewChunk,
    embedding: &[u8],
    added: i64,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO chunks (collection, document, position, id, char_start, char_end, page, added, text, embedding) \
               VALUES (:collection, :document, :position, :id, :char_start, :char_end, :page, :added, :text, :embedding)";
    let inserted = transaction.prepare_cached(sql)?.execute(named_params! {
        ":collection": place.collection,
        ":document": place.document,
        ":position": place.position,
        ":id": chunk.id.as_str(),
        ":char_start": to_stored(chunk.char_start),
        ":char_end": to_stored(chunk.char_end),
        ":page": chunk.page,
        ":added": added,
        ":text": chunk.text,
        ":embedding": embedding,
    });
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Err(Error::invalid(
                "chunks",
                format!("chunk id {} is used twice in the collection", chunk.id),
            )
            .into())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn of_document(
    connection: &Connection,
    document: i64,
) -> Result<Vec<Chunk>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "{CHUNK} WHERE chunks.document = ?1 ORDER BY position"
    ))?;
    let mut rows = statement.query([document])?;
    let mut chunks = Vec::new();
    while let Some(row) = rows.next()? {
        chunks.push(read(row)?);
    }
    Ok(chunks)
}

pub(super) fn live(
    connection: &Connection,
    key: &CollectionRef,
    ids: &[ChunkId],
) -> Result<Vec<Chunk>, StoreError> {
    let Some((collection, _)) = collections::find(connection, key)? else {
        return Ok(Vec::new());
    };
    let mut statement = connection.prepare_cached(&format!(
        "{CHUNK} WHERE chunks.collection = ?1 AND chunks.id = ?2"
    ))?;
    let mut find = |id: &ChunkId| {
        statement
            .query_row((collection, id.as_str()), |row| Ok(read(row)))
            .optional()?
            .transpose()
    };
    ids.iter().filter_map(|id| find(id).transpose()).collect()
}

fn read(row: &Row<'_>) -> Result<Chunk, StoreError> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    Ok(Chunk {
        chunk_id: ChunkId::from_text(text(0)?),
        document_id: DocumentId::from_text(text(1)?),
        text: row.get(2)?,
        char_start: from_stored(row.get(3)?),
        char_end: from_stored(row.get(4)?),
        page: row.get(5)?,
        filename: row.get(6)?,
        metadata: from_json(text(7)?)?,
    })
}

pub(super) fn known_vectors(
    connection: &Connection,
    key: &CollectionRef,
    id: &DocumentId,
    texts: &[String],
) -> Result<Vec<Option<Vec<f32>>>, StoreError> {
    let Some((collection, _)) = collections::find(connection, key)? else {
        return Ok(vec![None; texts.len()]);
    };
    let Some(document) = versions::number(connection, collection, id)? else {
        return Ok(vec![None; texts.len()]);
    };
    let chunks = stored(connection, document)?;
    let by_text = chunks
        .values()
        .map(|chunk| (chunk.text.as_str(), chunk.embedding.as_slice()))
        .collect::<HashMap<_, _>>();
    Ok(texts
        .iter()
        .map(|text| by_text.get(text.as_str()).map(|bytes| from_bytes(bytes)))
        .collect())
}

fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(super) fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}
