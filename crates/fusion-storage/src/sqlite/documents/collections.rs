//! Collections, and the counts that stand with them.

use fusion_types::{
    Error, ErrorCode, Tenant, Timestamp,
    document::{Collection, CollectionRef, NewCollection},
    page::{Page, Window},
};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::super::{bounds, from_json, from_stored, to_json, writer::Transaction};
use crate::error::StoreError;

const COLUMNS: &str = "number, name, embedding_model, fingerprint, dimension, document_count, chunk_count, created_at, updated_at, \
     metadata";

/// Rows that one transaction purges, by how large they are.
const PURGES: &[&str] = &[
    "DELETE FROM chunks WHERE number IN (SELECT number FROM chunks WHERE collection = ?1 LIMIT 500)",
    "DELETE FROM documents WHERE number IN (SELECT number FROM documents WHERE collection = ?1 LIMIT 100)",
    "DELETE FROM index_changes WHERE seq IN (SELECT seq FROM index_changes WHERE collection = ?1 LIMIT 5000)",
    "DELETE FROM dropped_collections WHERE number = ?1",
];

pub(super) fn create(
    transaction: &Transaction<'_>,
    new: &NewCollection,
) -> Result<Collection, StoreError> {
    let sql = "INSERT INTO collections (tenant, name, embedding_model, fingerprint, dimension, created_at, updated_at, metadata) \
               VALUES (:tenant, :name, :embedding_model, :fingerprint, :dimension, :created_at, :created_at, :metadata) \
               ON CONFLICT (tenant, name) DO NOTHING";
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":tenant": new.key.tenant.as_str(),
        ":name": &*new.key.name,
        ":embedding_model": new.embedding_model,
        ":fingerprint": new.fingerprint,
        ":dimension": new.dimension,
        ":created_at": new.created_at.as_millis(),
        ":metadata": to_json(&new.metadata)?,
    })?;
    Ok(require(transaction, &new.key)?.1)
}

/// The collection with its number.
pub(super) fn find(
    connection: &Connection,
    key: &CollectionRef,
) -> Result<Option<(i64, Collection)>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM collections WHERE tenant = ?1 AND name = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    statement
        .query_row((key.tenant.as_str(), &*key.name), |row| Ok(read(row)))
        .optional()?
        .transpose()
}

/// # Errors
/// `collection_not_found`.
pub(super) fn require(
    connection: &Connection,
    key: &CollectionRef,
) -> Result<(i64, Collection), StoreError> {
    let missing = || {
        Error::new(
            ErrorCode::CollectionNotFound,
            format!("collection {} not found", key.name),
        )
    };
    Ok(find(connection, key)?.ok_or_else(missing)?)
}

fn read(row: &Row<'_>) -> Result<(i64, Collection), StoreError> {
    let metadata = row.get_ref(9)?.as_str().map_err(rusqlite::Error::from)?;
    let collection = Collection {
        name: row.get(1)?,
        embedding_model: row.get(2)?,
        fingerprint: row.get(3)?,
        dimension: row.get(4)?,
        document_count: from_stored(row.get(5)?),
        chunk_count: from_stored(row.get(6)?),
        created_at: Timestamp::from_millis(row.get(7)?),
        updated_at: Timestamp::from_millis(row.get(8)?),
        metadata: from_json(metadata)?,
    };
    Ok((row.get(0)?, collection))
}

pub(super) fn list(
    connection: &Connection,
    tenant: &Tenant,
    window: Window,
) -> Result<Page<Collection>, StoreError> {
    let total = connection
        .prepare_cached("SELECT count(*) FROM collections WHERE tenant = ?1")?
        .query_row([tenant.as_str()], |row| row.get(0))
        .map(from_stored)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM collections WHERE tenant = ?1 ORDER BY name LIMIT ?2 OFFSET ?3"
    );
    let (limit, offset) = bounds(window);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((tenant.as_str(), limit, offset))?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(read(row)?.1);
    }
    Ok(Page { items, total })
}

/// Adds to the counts.
pub(super) fn count(
    transaction: &Transaction<'_>,
    collection: i64,
    documents: i64,
    chunks: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "UPDATE collections SET document_count = document_count + ?2, chunk_count = chunk_count + ?3, updated_at = ?4 \
               WHERE number = ?1";
    transaction
        .prepare_cached(sql)?
        .execute((collection, documents, chunks, now.as_millis()))?;
    Ok(())
}

/// From here on nobody finds the collection or anything in it; a new one of the same name is another one.
pub(super) fn drop(transaction: &Transaction<'_>, key: &CollectionRef) -> Result<(), StoreError> {
    let (number, _) = require(transaction, key)?;
    transaction.execute(
        "INSERT INTO dropped_collections (number) VALUES (?1)",
        [number],
    )?;
    transaction.execute("DELETE FROM collections WHERE number = ?1", [number])?;
    Ok(())
}

/// Deletes some of what dropped collections left; false once nothing is left.
pub(super) fn purge_some(transaction: &Transaction<'_>) -> Result<bool, StoreError> {
    let sql = "SELECT number FROM dropped_collections LIMIT 1";
    let dropped: Option<i64> = transaction
        .query_row(sql, [], |row| row.get(0))
        .optional()?;
    let Some(collection) = dropped else {
        return Ok(false);
    };
    for sql in PURGES {
        if transaction.execute(sql, [collection])? > 0 {
            break;
        }
    }
    Ok(true)
}
