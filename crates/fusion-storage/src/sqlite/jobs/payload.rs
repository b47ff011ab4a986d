//! A job's input: kept apart from its history, and really gone once it is deleted.

use rusqlite::Connection;
use serde_json::Value;

use super::super::{from_stored, to_stored, writer::Transaction};
use crate::error::StoreError;

/// Bytes of a part. One fills a page of 4096 bytes, so no two ever share one, and none spills over onto a second.
const PART: usize = 4000;

/// Rows `first..first + parts` of `job_payloads`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Payload {
    pub(super) first: i64,
    pub(super) parts: u64,
}

/// The last part is filled up with spaces, which mean nothing in JSON.
pub(super) fn insert(transaction: &Transaction<'_>, input: &Value) -> Result<Payload, StoreError> {
    let mut text = serde_json::to_vec(input)?;
    text.resize(text.len().next_multiple_of(PART), b' ');
    let mut statement =
        transaction.prepare_cached("INSERT INTO job_payloads (body) VALUES (?1)")?;
    let mut parts = text.chunks(PART);
    let first = match parts.next() {
        Some(part) => statement.insert([part])?,
        None => 0,
    };
    for part in parts {
        // There is one writer, so the numbers follow one another.
        statement.insert([part])?;
    }
    Ok(Payload {
        first,
        parts: (text.len() / PART) as u64,
    })
}

pub(super) fn load(connection: &Connection, payload: Payload) -> Result<Value, StoreError> {
    let sql = "SELECT body FROM job_payloads WHERE part >= ?1 AND part < ?1 + ?2 ORDER BY part";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((payload.first, to_stored(payload.parts)))?;
    let mut text = Vec::with_capacity(payload.parts as usize * PART);
    while let Some(row) = rows.next()? {
        text.extend_from_slice(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?);
    }
    Ok(serde_json::from_slice(&text)?)
}

pub(super) fn delete(transaction: &Transaction<'_>, payload: Payload) -> Result<(), StoreError> {
    let sql = "DELETE FROM job_payloads WHERE part >= ?1 AND part < ?1 + ?2";
    let deleted = transaction
        .prepare_cached(sql)?
        .execute((payload.first, to_stored(payload.parts)))?;
    debug_assert_eq!(deleted as u64, payload.parts);
    transaction.scrub_soon();
    Ok(())
}

pub(super) fn from_columns(first: Option<i64>, parts: Option<i64>) -> Option<Payload> {
    Some(Payload {
        first: first?,
        parts: from_stored(parts?),
    })
}
