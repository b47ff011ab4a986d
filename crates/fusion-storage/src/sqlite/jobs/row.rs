//! A job's row.

use std::time::Duration;

use fusion_types::{
    Tenant, Timestamp,
    id::JobId,
    job::{Fence, Job, JobStatus},
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, named_params};

use super::{
    super::{from_json, from_stored, to_json, to_stored, writer::Transaction},
    change, dependencies,
    payload::{self, Payload},
};
use crate::{error::StoreError, job_state::JobState};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct JobRow {
    pub(super) number: i64,
    pub(super) state: JobState,
    pub(super) payload: Option<Payload>,
    /// Jobs it depends on that are not completed.
    pub(super) blocked: u32,
    /// As it is counted, which is as it is stored.
    pub(super) counted: JobStatus,
}

impl JobRow {
    /// Moves it to the count of its status as it now is.
    fn count(&mut self, transaction: &Transaction<'_>) {
        let before = std::mem::replace(&mut self.counted, self.state.job.status);
        if before != self.counted {
            transaction.count(&self.state, before, -1);
            transaction.count(&self.state, self.counted, 1);
        }
    }
}

/// What [`read`] expects, in its order.
pub(super) const COLUMNS: &str = "number, tenant, record, result, run_at, sort_key, timeout_ms, max_attempts, ttl_ms, fence, owner, \
     lease_until, cancel_wanted, payload_at, payload_bytes, expires_at, blocked";

pub(super) fn by_number(
    connection: &Connection,
    number: i64,
) -> Result<Option<JobRow>, StoreError> {
    one(connection, "number = ?1", [number])
}

pub(super) fn by_id(connection: &Connection, id: &JobId) -> Result<Option<JobRow>, StoreError> {
    one(connection, "id = ?1", [id.as_str()])
}

/// The job as its tenant sees it: not once it has expired.
pub(super) fn find_public(
    connection: &Connection,
    tenant: &Tenant,
    id: &JobId,
    now: Timestamp,
) -> Result<Option<JobRow>, StoreError> {
    let row = by_id(connection, id)?;
    Ok(row.filter(|row| row.state.tenant == *tenant && !row.state.is_expired(now)))
}

fn one(
    connection: &Connection,
    condition: &str,
    parameters: impl Params,
) -> Result<Option<JobRow>, StoreError> {
    let mut statement = select(connection, condition)?;
    statement
        .query_row(parameters, |row| Ok(read(row)))
        .optional()?
        .transpose()
}

fn select<'a>(
    connection: &'a Connection,
    condition: &str,
) -> rusqlite::Result<CachedStatement<'a>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE {condition}"))
}

pub(super) fn read(row: &Row<'_>) -> Result<JobRow, StoreError> {
    let mut job: Job = from_json(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)?;
    let result = row
        .get_ref(3)?
        .as_str_or_null()
        .map_err(rusqlite::Error::from)?;
    job.result = result.map(from_json).transpose()?;
    let state = JobState {
        tenant: Tenant::new(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?),
        job,
        run_at: Timestamp::from_millis(row.get(4)?),
        sort_key: row.get(5)?,
        timeout: Duration::from_millis(from_stored(row.get(6)?)),
        max_attempts: row.get(7)?,
        ttl: Duration::from_millis(from_stored(row.get(8)?)),
        fence: Fence(from_stored(row.get(9)?)),
        owner: row.get(10)?,
        lease_until: row.get::<_, Option<i64>>(11)?.map(Timestamp::from_millis),
        cancel_wanted: row.get(12)?,
        expires_at: row.get::<_, Option<i64>>(15)?.map(Timestamp::from_millis),
    };
    Ok(JobRow {
        counted: state.job.status,
        number: row.get(0)?,
        state,
        payload: Payload::from_columns(row.get(13)?, row.get(14)?),
        blocked: row.get(16)?,
    })
}

/// Stores a job that is in another state than before, with its change, and what follows for the jobs that depend on it.
pub(super) fn save_transition(
    transaction: &Transaction<'_>,
    row: &mut JobRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    save_alone(transaction, row, now)?;
    if row.state.job.status.is_terminal() {
        dependencies::settle(transaction, row, now)?;
    }
    Ok(())
}

/// Stores the job with its change, and forgets the input where nobody needs it any more.
pub(super) fn save_alone(
    transaction: &Transaction<'_>,
    row: &mut JobRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    if transaction.inputs().end_with(row.state.job.status)
        && let Some(gone) = row.payload.take()
    {
        payload::delete(transaction, gone)?;
    }
    save(transaction, row)?;
    change::append(transaction, row, now)
}

pub(super) fn save(transaction: &Transaction<'_>, row: &mut JobRow) -> Result<(), StoreError> {
    let (record, result) = take_apart(&mut row.state.job)?;
    let sql = "UPDATE jobs SET status = :status, completed_at = :completed_at, failed_at = :failed_at, expires_at = :expires_at, \
               run_at = :run_at, sort_key = :sort_key, fence = :fence, owner = :owner, lease_until = :lease_until, \
               cancel_wanted = :cancel_wanted, payload_at = :payload_at, payload_bytes = :payload_bytes, \
               blocked = :blocked, record = :record, result = :result WHERE number = :number";
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":number": row.number,
        ":status": row.state.job.status.as_str(),
        ":completed_at": row.state.job.completed_at.map(Timestamp::as_millis),
        ":failed_at": row.state.job.failed_at.map(Timestamp::as_millis),
        ":expires_at": row.state.expires_at.map(Timestamp::as_millis),
        ":run_at": row.state.run_at.as_millis(),
        ":sort_key": row.state.sort_key,
        ":fence": to_stored(row.state.fence.0),
        ":owner": row.state.owner,
        ":lease_until": row.state.lease_until.map(Timestamp::as_millis),
        ":cancel_wanted": row.state.cancel_wanted,
        ":payload_at": row.payload.map(|payload| to_stored(payload.at)),
        ":payload_bytes": row.payload.map(|payload| to_stored(payload.bytes)),
        ":blocked": row.blocked,
        ":record": record,
        ":result": result,
    })?;
    row.count(transaction);
    Ok(())
}

/// The record without its result, and the result, both as JSON.
fn take_apart(job: &mut Job) -> Result<(String, Option<String>), StoreError> {
    let result = job.result.take();
    let record = to_json(job)?;
    job.result = result;
    let result = job.result.as_ref().map(to_json).transpose()?;
    Ok((record, result))
}
