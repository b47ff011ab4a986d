//! A job's input: kept apart from its history, and really gone once it is deleted.
//!
//! All inputs lie one after another in an endless row of bytes, cut into parts; those that come together share parts. A part
//! fills a page of the file, so that the tree never moves it about and leaves copies behind. An input is erased where it stands,
//! and a part in which nothing stands any more is deleted.

use rusqlite::{Connection, MAIN_DB, blob::Blob};
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

/// Inputs that come in together, behind all that are there: in the last part that was begun in the same transaction, as long as it
/// has room, else in a new one.
pub(super) struct Incoming {
    at: u64,
    text: Vec<u8>,
}

impl Incoming {
    pub(super) fn new(transaction: &Transaction<'_>) -> Result<Self, StoreError> {
        let at = match transaction.room_for_inputs() {
            Some(at) => at,
            None => {
                let sql = "SELECT coalesce(max(part), 0) + 1 FROM job_payloads";
                let part: i64 = transaction
                    .prepare_cached(sql)?
                    .query_row([], |row| row.get(0))?;
                from_stored(part) * PART as u64
            }
        };
        Ok(Self {
            at,
            text: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, input: &Value) -> Result<Payload, StoreError> {
        let before = self.text.len();
        serde_json::to_writer(&mut self.text, input)?;
        Ok(Payload {
            at: self.at + before as u64,
            bytes: (self.text.len() - before) as u64,
        })
    }

    pub(super) fn store(self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let end = self.at + self.text.len() as u64;
        let (mut part, used) = (self.at / PART as u64, (self.at % PART as u64) as usize);
        let mut text = self.text;
        if used > 0 && transaction.room_for_inputs() == Some(self.at) {
            let rest = text.split_off(text.len().min(PART - used));
            let mut blob = open(transaction, part)?;
            blob.write_at(&text, used)?;
            blob.close()?;
            (part, text) = (part + 1, rest);
        } else {
            text.splice(0..0, [NOTHING].repeat(used));
        }
        text.resize(text.len().next_multiple_of(PART), NOTHING);
        let sql = "INSERT INTO job_payloads (part, body) VALUES (?1, ?2)";
        let mut statement = transaction.prepare_cached(sql)?;
        for (part, body) in (part..).zip(text.chunks(PART)) {
            statement.execute((to_stored(part), body))?;
        }
        let has_room = !end.is_multiple_of(PART as u64);
        transaction.set_room_for_inputs(has_room.then_some(end));
        Ok(())
    }
}

fn open<'a>(transaction: &'a Transaction<'_>, part: u64) -> rusqlite::Result<Blob<'a>> {
    transaction.blob_open(MAIN_DB, "job_payloads", "body", to_stored(part), false)
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
        erase(transaction, part, payload.within(part))?;
    }
    transaction.scrub_soon();
    Ok(())
}

fn erase(
    transaction: &Transaction<'_>,
    part: u64,
    bytes: std::ops::Range<usize>,
) -> Result<(), StoreError> {
    let mut body = [NOTHING; PART];
    let mut blob = open(transaction, part)?;
    blob.read_at_exact(&mut body, 0)?;
    body[bytes.clone()].fill(NOTHING);
    if body.iter().any(|byte| *byte != NOTHING) {
        blob.write_at(&body[bytes.clone()], bytes.start)?;
        return Ok(blob.close()?);
    }
    blob.close()?;
    transaction
        .prepare_cached("DELETE FROM job_payloads WHERE part = ?1")?
        .execute([to_stored(part)])?;
    // It may have been the one with room.
    transaction.set_room_for_inputs(None);
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
