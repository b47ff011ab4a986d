//! Documents: a version appears whole, and takes the place of the one before it.

use fusion_types::{
    Error, ErrorCode, Timestamp,
    document::{Collection, CollectionRef, Committed, Document, DocumentInfo, DocumentVersion},
    id::DocumentId,
    page::{Page, Window},
};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{
    super::{bounds, from_json, from_stored, to_json, to_stored, writer::Transaction},
    chunks, collections, log,
};
use crate::error::StoreError;

const INFO: &str =
    "number, id, filename, version, chunk_count, ingested_at, metadata, content_hash";

pub(super) fn commit(
    transaction: &Transaction<'_>,
    version: &DocumentVersion,
) -> Result<Committed, StoreError> {
    let (collection, info) = collections::require(transaction, &version.collection)?;
    check_vectors(&info, version)?;
    let (document, number) = put(transaction, collection, version)?;
    let chunks_before = chunks::replace(transaction, collection, document, &version.chunks)?;
    let added = version.chunks.len() as i64 - chunks_before as i64;
    collections::count(
        transaction,
        collection,
        i64::from(number == 1),
        added,
        version.ingested_at,
    )?;
    Ok(Committed {
        version: number,
        seq: log::newest(transaction, collection)?,
    })
}

fn check_vectors(collection: &Collection, version: &DocumentVersion) -> Result<(), Error> {
    let dimension = collection.dimension as usize;
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
                collection.name,
                chunk.embedding.len()
            ),
        )),
    }
}

/// The document's row, and its version.
fn put(
    transaction: &Transaction<'_>,
    collection: i64,
    version: &DocumentVersion,
) -> Result<(i64, u64), StoreError> {
    let sql = "INSERT INTO documents (collection, id, version, filename, content_hash, metadata, chunk_count, ingested_at, text) \
               VALUES (:collection, :id, max(1, :at_least), :filename, :content_hash, :metadata, :chunk_count, :ingested_at, :text) \
               ON CONFLICT (collection, id) DO UPDATE SET version = max(version + 1, :at_least), filename = excluded.filename, \
               content_hash = excluded.content_hash, metadata = excluded.metadata, chunk_count = excluded.chunk_count, \
               ingested_at = excluded.ingested_at, text = excluded.text RETURNING number, version";
    let stored = transaction.prepare_cached(sql)?.query_row(
        named_params! {
            ":collection": collection,
            ":id": version.document_id.as_str(),
            ":at_least": to_stored(version.at_least),
            ":filename": version.filename,
            ":content_hash": version.content_hash,
            ":metadata": to_json(&version.metadata)?,
            ":chunk_count": to_stored(version.chunks.len() as u64),
            ":ingested_at": version.ingested_at.as_millis(),
            ":text": version.text,
        },
        |row| Ok((row.get(0)?, from_stored(row.get(1)?))),
    )?;
    Ok(stored)
}

/// Returns how many chunks were deleted with it.
pub(super) fn delete(
    transaction: &Transaction<'_>,
    key: &CollectionRef,
    id: &DocumentId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let missing = || {
        Error::new(
            ErrorCode::DocumentNotFound,
            format!("document {id} not found"),
        )
    };
    let (collection, _) = collections::find(transaction, key)?.ok_or_else(missing)?;
    let document = number(transaction, collection, id)?.ok_or_else(missing)?;
    let deleted = chunks::replace(transaction, collection, document, &[])?;
    transaction
        .prepare_cached("DELETE FROM documents WHERE number = ?1")?
        .execute([document])?;
    collections::count(transaction, collection, -1, -(deleted as i64), now)?;
    Ok(deleted as u64)
}

/// The document's row.
pub(super) fn number(
    connection: &Connection,
    collection: i64,
    id: &DocumentId,
) -> Result<Option<i64>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT number FROM documents WHERE collection = ?1 AND id = ?2")?;
    Ok(statement
        .query_row((collection, id.as_str()), |row| row.get(0))
        .optional()?)
}

pub(super) fn find(
    connection: &Connection,
    key: &CollectionRef,
    id: &DocumentId,
) -> Result<Option<Document>, StoreError> {
    let Some((collection, _)) = collections::find(connection, key)? else {
        return Ok(None);
    };
    let sql = format!("SELECT {INFO}, text FROM documents WHERE collection = ?1 AND id = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((collection, id.as_str()))?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let (document, info) = read(row)?;
    Ok(Some(Document {
        info,
        text: row.get(8)?,
        chunks: chunks::of_document(connection, document)?,
    }))
}

/// In the order in which they first came in.
pub(super) fn list(
    connection: &Connection,
    key: &CollectionRef,
    window: Window,
) -> Result<Page<DocumentInfo>, StoreError> {
    let Some((collection, info)) = collections::find(connection, key)? else {
        return Ok(Page {
            items: Vec::new(),
            total: 0,
        });
    };
    let sql = format!(
        "SELECT {INFO} FROM documents WHERE collection = ?1 ORDER BY number LIMIT ?2 OFFSET ?3"
    );
    let (limit, offset) = bounds(window);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((collection, limit, offset))?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(read(row)?.1);
    }
    Ok(Page {
        items,
        total: info.document_count,
    })
}

fn read(row: &Row<'_>) -> Result<(i64, DocumentInfo), StoreError> {
    let metadata = row.get_ref(6)?.as_str().map_err(rusqlite::Error::from)?;
    let info = DocumentInfo {
        document_id: DocumentId::from_text(
            row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?,
        ),
        filename: row.get(2)?,
        version: from_stored(row.get(3)?),
        chunk_count: from_stored(row.get(4)?),
        ingested_at: Timestamp::from_millis(row.get(5)?),
        metadata: from_json(metadata)?,
        content_hash: row.get(7)?,
    };
    Ok((row.get(0)?, info))
}
