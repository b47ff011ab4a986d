//! What workers and clients do to jobs that are in.

use fusion_types::{
    Error, ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{Fence, Held, Job, JobStatus, JobWrite, Outcome, Owner},
};
use rusqlite::OptionalExtension;

use super::{
    super::{to_stored, writer::Transaction},
    dependencies, job_not_found,
    row::{self, JobRow, save_transition},
};
use crate::error::StoreError;

/// Jobs of a group that one transaction looks at.
const CANCELLED_AT_ONCE: u32 = 200;

pub(super) fn renew(
    transaction: &Transaction<'_>,
    owner: &Owner,
    id: &JobId,
    fence: Fence,
    until: Timestamp,
) -> Result<Held, StoreError> {
    let sql = "UPDATE jobs SET lease_until = ?1 WHERE id = ?2 AND fence = ?3 AND owner = ?4 AND status = 'processing' \
               RETURNING cancel_wanted";
    let cancel_wanted = transaction
        .prepare_cached(sql)?
        .query_row(
            (until.as_millis(), id.as_str(), to_stored(fence.0), &owner.0),
            |row| row.get(0),
        )
        .optional()?;
    Ok(match cancel_wanted {
        Some(false) => Held::Kept,
        Some(true) => Held::CancelWanted,
        None => Held::Lost,
    })
}

pub(super) fn write(
    transaction: &Transaction<'_>,
    id: &JobId,
    fence: Fence,
    write: JobWrite,
    now: Timestamp,
) -> Result<Job, StoreError> {
    let held = row::by_id(transaction, id)?
        .filter(|row| row.state.fence == fence && row.state.job.status == JobStatus::Processing);
    let Some(mut row) = held else {
        let message = format!("job {id} is no longer this worker's");
        return Err(Error::new(ErrorCode::VersionConflict, message).into());
    };
    match write {
        JobWrite::Progress(progress) => {
            row.state.job.progress = Some(progress);
            row::save(transaction, &mut row)?;
            return Ok(row.state.job);
        }
        JobWrite::Release { run_at, error } => row.state.release(run_at, error, now),
        JobWrite::Return => row.state.give_back(now),
        JobWrite::Finish(outcome) => row.state.finish(outcome, now),
    }
    save_transition(transaction, &mut row, now)?;
    Ok(row.state.job)
}

pub(super) fn cancel(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: &JobId,
    now: Timestamp,
) -> Result<Job, StoreError> {
    let mut row =
        row::find_public(transaction, tenant, id, now)?.ok_or_else(|| job_not_found(id))?;
    if !cancel_row(transaction, &mut row, now)? {
        let message = format!("job {id} is already {}", row.state.job.status.as_str());
        return Err(Error::new(ErrorCode::JobFinished, message).into());
    }
    Ok(row.state.job)
}

/// Whether the job was unfinished.
fn cancel_row(
    transaction: &Transaction<'_>,
    row: &mut JobRow,
    now: Timestamp,
) -> Result<bool, StoreError> {
    match row.state.job.status {
        JobStatus::Queued => {
            row.state.finish(Outcome::Cancelled, now);
            row.blocked = 0;
            save_transition(transaction, row, now)?;
        }
        JobStatus::Processing => {
            row.state.cancel_wanted = true;
            row::save(transaction, row)?;
        }
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => return Ok(false),
    }
    Ok(true)
}

pub(super) struct SomeCancelled {
    /// Jobs that were unfinished.
    pub(super) asked: u64,
    /// Where to go on; `None` at the end.
    pub(super) last: Option<i64>,
}

/// Some of the group's jobs with a number above `after`: one transaction for all would keep other writers waiting.
pub(super) fn cancel_group(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    group: &str,
    after: i64,
    now: Timestamp,
) -> Result<SomeCancelled, StoreError> {
    let sql = "SELECT number FROM jobs INDEXED BY jobs_group WHERE tenant = ?1 AND job_group = ?2 AND number > ?3 \
               ORDER BY number LIMIT ?4";
    let numbers = transaction
        .prepare_cached(sql)?
        .query_map((tenant.as_str(), group, after, CANCELLED_AT_ONCE), |row| {
            row.get::<_, i64>(0)
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut asked = 0;
    for number in &numbers {
        if let Some(mut row) = row::by_number(transaction, *number)? {
            asked += u64::from(cancel_row(transaction, &mut row, now)?);
        }
    }
    Ok(SomeCancelled {
        asked,
        last: numbers.last().copied(),
    })
}

pub(super) fn retry(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: &JobId,
    now: Timestamp,
) -> Result<Job, StoreError> {
    let mut row =
        row::find_public(transaction, tenant, id, now)?.ok_or_else(|| job_not_found(id))?;
    let (JobStatus::Failed, Some(failed_at)) = (row.state.job.status, row.state.job.failed_at)
    else {
        let message = format!(
            "job {id} is {}: only a failed job can be retried",
            row.state.job.status.as_str()
        );
        return Err(Error::invalid("job_id", message).into());
    };
    if row.payload.is_none() || transaction.inputs().are_forgotten(failed_at, now) {
        let message = format!("the input of job {id} is no longer kept; submit it again");
        return Err(Error::new(ErrorCode::PayloadGone, message).into());
    }
    let waits_for = dependencies::unfinished(transaction, tenant, &row.state.job.depends_on, now)?;
    dependencies::keep(transaction, row.number, &waits_for)?;
    row.blocked = waits_for.len() as u32;
    row.state.retry(now);
    save_transition(transaction, &mut row, now)?;
    Ok(row.state.job)
}
