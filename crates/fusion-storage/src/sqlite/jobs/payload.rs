//! A job's input: kept apart from its history, and really gone once it is deleted.
//!
//! All inputs lie one after another in an endless row of bytes, cut into parts; those that come together share parts. A part
//! fills a page of the file, so that the tree never moves it about and leaves copies behind. An input is erased where it stands,
//! and a part in which nothing stands any more is deleted.

use rusqlite::{Connection, MAIN_DB};
use serde_json::Value;

use super::super::{from_stored, to_stored, writer::Transaction};
use crate::error::StoreError;

/// Bytes of a part. One fills a page of 4096 bytes, so no two ever share one, and none spills over onto a second.
const PART: usize = 4000;
/// Stands where no input does; JSON has none.
const NOTHING: u8 = 0;

/// Where an input is in the row of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Payload {
    pub(super) at: u64,
    pub(super) bytes: u64,
}

impl Payload {
    fn parts(self) -> std::ops::Range<u64> {
        self.at / PART as u64..(self.at + self.bytes).div_ceil(PART as u64)
    }

    /// Of the part, the bytes that are its own.
    fn within(self, part: u64) -> std::ops::Range<usize> {
        let start = part * PART as u64;
        let from = self.at.max(start) - start;
        let to = (self.at + self.bytes).min(start + PART as u64) - start;
        from as usize..to as usize
    }

    pub(super) fn from_columns(at: Option<i64>, bytes: Option<i64>) -> Option<Self> {
        Some(Self {
            at: from_stored(at?),
            bytes: from_stored(bytes?),
        })
    }
}

/// Inputs that come in together, behind all that are there.
pub(super) struct Incoming {
    first_part: u64,
    text: Vec<u8>,
}

impl Incoming {
    pub(super) fn new(connection: &Connection) -> Result<Self, StoreError> {
        let sql = "SELECT coalesce(max(part), 0) + 1 FROM job_payloads";
        let first_part: i64 = connection
            .prepare_cached(sql)?
            .query_row([], |row| row.get(0))?;
        Ok(Self {
            first_part: from_stored(first_part),
            text: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, input: &Value) -> Result<Payload, StoreError> {
        let before = self.text.len();
        serde_json::to_writer(&mut self.text, input)?;
        Ok(Payload {
            at: self.first_part * PART as u64 + before as u64,
            bytes: (self.text.len() - before) as u64,
        })
    }

    pub(super) fn store(mut self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        self.text
            .resize(self.text.len().next_multiple_of(PART), NOTHING);
        let sql = "INSERT INTO job_payloads (part, body) VALUES (?1, ?2)";
        let mut statement = transaction.prepare_cached(sql)?;
        for (part, body) in (self.first_part..).zip(self.text.chunks(PART)) {
            statement.execute((to_stored(part), body))?;
        }
        Ok(())
    }
}

pub(super) fn load(connection: &Connection, payload: Payload) -> Result<Value, StoreError> {
    let sql = "SELECT body FROM job_payloads WHERE part = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut text = Vec::with_capacity(payload.bytes as usize);
    for part in payload.parts() {
        let mut rows = statement.query([to_stored(part)])?;
        if let Some(row) = rows.next()? {
            let body = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            text.extend_from_slice(body.get(payload.within(part)).unwrap_or_default());
        }
    }
    Ok(serde_json::from_slice(&text)?)
}

pub(super) fn delete(transaction: &Transaction<'_>, payload: Payload) -> Result<(), StoreError> {
    for part in payload.parts() {
        erase(transaction, to_stored(part), payload.within(part))?;
    }
    transaction.scrub_soon();
    Ok(())
}

fn erase(
    transaction: &Transaction<'_>,
    part: i64,
    bytes: std::ops::Range<usize>,
) -> Result<(), StoreError> {
    let mut body = [NOTHING; PART];
    let mut blob = transaction.blob_open(MAIN_DB, "job_payloads", "body", part, false)?;
    blob.read_at_exact(&mut body, 0)?;
    body[bytes.clone()].fill(NOTHING);
    if body.iter().any(|byte| *byte != NOTHING) {
        blob.write_at(&body[bytes.clone()], bytes.start)?;
        return Ok(blob.close()?);
    }
    blob.close()?;
    transaction
        .prepare_cached("DELETE FROM job_payloads WHERE part = ?1")?
        .execute([part])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sqlite::schema::{migrate, migrate_to};

    #[test]
    fn an_input_is_where_its_bytes_are() {
        let across = Payload {
            at: 3_990,
            bytes: 4_020,
        };
        assert_eq!(across.parts(), 0..3);
        assert_eq!(across.within(0), 3_990..4_000);
        assert_eq!(across.within(1), 0..4_000);
        assert_eq!(across.within(2), 0..10);
    }

    /// Before, an input had parts of its own, and spaces behind it.
    #[test]
    fn inputs_of_an_older_database_are_found() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_to(&mut connection, 2).unwrap();
        let input = json!({"prompt": "x".repeat(5_000)});
        let text = format!("{:<8000}", input.to_string());
        for (part, body) in (7..).zip(text.as_bytes().chunks(PART)) {
            let sql = "INSERT INTO job_payloads VALUES (?1, ?2)";
            connection.execute(sql, (part, body)).unwrap();
        }
        let job = "INSERT INTO jobs (id, tenant, status, operation, created_at, run_at, sort_key, timeout_ms, max_attempts, ttl_ms, \
                   payload_first, payload_parts, record) VALUES ('job-1', '', 'queued', 'chat', 0, 0, 0, 0, 1, 0, 7, 2, '{}')";
        connection.execute(job, []).unwrap();
        migrate(&mut connection).unwrap();
        let (at, bytes) = connection
            .query_row("SELECT payload_at, payload_bytes FROM jobs", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        let payload = Payload::from_columns(at, bytes).unwrap();
        assert_eq!(load(&connection, payload).unwrap(), input);
    }
}
