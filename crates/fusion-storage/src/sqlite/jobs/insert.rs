//! Taking jobs in.

use fusion_types::{
    Timestamp,
    job::{Idempotency, Inserted, JobStatus, NewJob},
};
use rusqlite::{OptionalExtension, named_params};

use super::{
    super::{to_json, to_stored, writer::Transaction},
    change, dependencies,
    payload::Incoming,
    row::{self, JobRow},
    sweep,
};
use crate::{error::StoreError, job_state::JobState};

pub(super) fn insert_all(
    transaction: &Transaction<'_>,
    jobs: &[NewJob],
    now: Timestamp,
) -> Result<Vec<Inserted>, StoreError> {
    let mut inputs = Incoming::new(transaction)?;
    let inserted = jobs
        .iter()
        .map(|job| insert(transaction, job, &mut inputs, now))
        .collect::<Result<_, _>>()?;
    inputs.store(transaction)?;
    Ok(inserted)
}

fn insert(
    transaction: &Transaction<'_>,
    new: &NewJob,
    inputs: &mut Incoming,
    now: Timestamp,
) -> Result<Inserted, StoreError> {
    if let Some((row, body_hash)) = holder_of_key(transaction, new)? {
        if !row.state.is_expired(now) {
            let is_same = new
                .idempotency
                .as_ref()
                .is_some_and(|idempotency| idempotency.body_hash == body_hash);
            return Ok(if is_same {
                Inserted::Existing(row.state.job)
            } else {
                Inserted::KeyReused
            });
        }
        sweep::remove(transaction, &row)?;
    }
    let waits_for = dependencies::unfinished(transaction, &new.tenant, &new.depends_on, now)?;
    let mut row = JobRow {
        number: 0,
        state: JobState::queued(new),
        payload: Some(inputs.add(&new.input)?),
        blocked: waits_for.len() as u32,
        counted: JobStatus::Queued,
    };
    row.number = store(transaction, new, &row)?;
    transaction.count(&row.state, row.counted, 1);
    dependencies::keep(transaction, row.number, &waits_for)?;
    change::append(transaction, &row, now)?;
    Ok(Inserted::New(row.state.job))
}

/// The job that came with the same key, and the hash of its body.
fn holder_of_key(
    transaction: &Transaction<'_>,
    new: &NewJob,
) -> Result<Option<(JobRow, String)>, StoreError> {
    let Some(Idempotency { key, .. }) = &new.idempotency else {
        return Ok(None);
    };
    let sql = "SELECT number, body_hash FROM jobs WHERE tenant = ?1 AND idempotency_key = ?2";
    let found: Option<(i64, String)> = transaction
        .prepare_cached(sql)?
        .query_row((new.tenant.as_str(), key), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((number, body_hash)) = found else {
        return Ok(None);
    };
    Ok(row::by_number(transaction, number)?.map(|row| (row, body_hash)))
}

/// Returns the job's number.
fn store(transaction: &Transaction<'_>, new: &NewJob, row: &JobRow) -> Result<i64, StoreError> {
    let sql = "INSERT INTO jobs (id, tenant, status, operation, model_id, job_group, created_at, run_at, sort_key, timeout_ms, \
               max_attempts, ttl_ms, payload_at, payload_bytes, idempotency_key, body_hash, callback_url, blocked, record) \
               VALUES (:id, :tenant, 'queued', :operation, :model_id, :job_group, :created_at, :run_at, :sort_key, :timeout_ms, \
               :max_attempts, :ttl_ms, :payload_at, :payload_bytes, :idempotency_key, :body_hash, :callback_url, :blocked, :record)";
    let millis =
        |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":id": new.id.as_str(),
        ":tenant": new.tenant.as_str(),
        ":operation": new.operation.as_str(),
        ":model_id": new.model_id,
        ":job_group": new.group,
        ":created_at": new.created_at.as_millis(),
        ":run_at": new.run_at.as_millis(),
        ":sort_key": new.sort_key,
        ":timeout_ms": millis(new.timeout),
        ":max_attempts": new.max_attempts,
        ":ttl_ms": millis(new.ttl),
        ":payload_at": row.payload.map(|payload| to_stored(payload.at)),
        ":payload_bytes": row.payload.map(|payload| to_stored(payload.bytes)),
        ":idempotency_key": new.idempotency.as_ref().map(|idempotency| &idempotency.key),
        ":body_hash": new.idempotency.as_ref().map(|idempotency| &idempotency.body_hash),
        ":callback_url": new.callback_url,
        ":blocked": row.blocked,
        ":record": to_json(&row.state.job)?,
    })?;
    Ok(transaction.last_insert_rowid())
}
