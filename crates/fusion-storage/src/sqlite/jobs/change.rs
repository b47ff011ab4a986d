//! The change log: every transition, written in the transaction that made it.

use fusion_types::{
    Tenant, Timestamp,
    job::{Change, ErrorDetail, Job, JobEvent, JobStatus, Seq},
};
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::{
    super::{from_json, from_stored, to_json, to_stored, writer::Transaction},
    row::JobRow,
};
use crate::error::StoreError;

const MOST: u32 = 1000;
/// An answer ends after the change that passes this, so that large results don't pile up in memory.
const MOST_BYTES: usize = 16 << 20;

/// What transitions change of a public record; the result, which never changes, stays with the job. Older changes hold the whole
/// record, of which this is a part.
#[derive(Serialize, Deserialize)]
struct Moment {
    status: JobStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cancelled_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
    attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_detail: Option<ErrorDetail>,
}

impl Moment {
    fn of(job: &Job) -> Self {
        Self {
            status: job.status,
            started_at: job.started_at,
            completed_at: job.completed_at,
            failed_at: job.failed_at,
            cancelled_at: job.cancelled_at,
            progress: job.progress,
            attempt: job.attempt,
            error: job.error.clone(),
            error_detail: job.error_detail,
        }
    }

    /// The job as it was then.
    fn of_job(self, job: Job) -> Job {
        Job {
            status: self.status,
            started_at: self.started_at,
            completed_at: self.completed_at,
            failed_at: self.failed_at,
            cancelled_at: self.cancelled_at,
            progress: self.progress,
            attempt: self.attempt,
            error: self.error,
            error_detail: self.error_detail,
            ..job
        }
    }
}

pub(super) fn append(
    transaction: &Transaction<'_>,
    row: &JobRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    let moment = to_json(&Moment::of(&row.state.job))?;
    let event = JobEvent::from(row.state.job.status).as_str();
    transaction
        .prepare_cached("INSERT INTO changes (job, at, event, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute((row.number, now.as_millis(), event, moment))?;
    transaction.announce_change(from_stored(transaction.last_insert_rowid()));
    Ok(())
}

pub(super) fn after(
    connection: &Connection,
    after: Seq,
    limit: u32,
) -> Result<Vec<Change>, StoreError> {
    let sql = "SELECT seq, at, tenant, callback_url, changes.record, jobs.record, \
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
    let (moment, record) = (text(4)?, text(5)?);
    let result = row
        .get_ref(6)?
        .as_str_or_null()
        .map_err(rusqlite::Error::from)?;
    let mut job = from_json::<Moment>(moment)?.of_job(from_json(record)?);
    job.result = result.map(from_json).transpose()?;
    let change = Change {
        seq: Seq(from_stored(row.get(0)?)),
        at: Timestamp::from_millis(row.get(1)?),
        event: JobEvent::from(job.status),
        tenant: Tenant::new(text(2)?),
        job,
        callback_url: row.get(3)?,
    };
    let size = moment.len() + record.len();
    Ok((change, size + result.map_or(0, str::len)))
}
