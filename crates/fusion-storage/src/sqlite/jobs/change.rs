//! The change log: every transition, written in the transaction that made it.

use fusion_types::{
    Tenant, Timestamp,
    job::{Change, Job, JobEvent, Seq},
};
use rusqlite::{Connection, Row};

use super::{
    super::{from_json, from_stored, to_stored, writer::Transaction},
    row::JobRow,
};
use crate::error::StoreError;

const MOST: u32 = 1000;
/// An answer ends after the change that passes this, so that large results don't pile up in memory.
const MOST_BYTES: usize = 16 << 20;

/// `record` is the job's public record without its result, as JSON.
pub(super) fn append(
    transaction: &Transaction<'_>,
    row: &JobRow,
    record: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = JobEvent::from(row.state.job.status).as_str();
    transaction
        .prepare_cached("INSERT INTO changes (job, at, event, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute((row.number, now.as_millis(), event, record))?;
    transaction.announce_change(from_stored(transaction.last_insert_rowid()));
    Ok(())
}

pub(super) fn after(
    connection: &Connection,
    after: Seq,
    limit: u32,
) -> Result<Vec<Change>, StoreError> {
    let sql = "SELECT seq, at, event, tenant, changes.record, callback_url, \
               CASE event WHEN 'job.completed' THEN result END \
               FROM changes CROSS JOIN jobs ON jobs.number = changes.job WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((to_stored(after.0), limit.min(MOST)))?;
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
fn read(row: &Row<'_>) -> Result<(Change, usize), StoreError> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let record = text(4)?;
    let result = row
        .get_ref(6)?
        .as_str_or_null()
        .map_err(rusqlite::Error::from)?;
    let mut job: Job = from_json(record)?;
    job.result = result.map(from_json).transpose()?;
    let change = Change {
        seq: Seq(from_stored(row.get(0)?)),
        at: Timestamp::from_millis(row.get(1)?),
        event: JobEvent::from(job.status),
        tenant: Tenant::new(text(3)?),
        job,
        callback_url: row.get(5)?,
    };
    Ok((change, record.len() + result.map_or(0, str::len)))
}
