//! What workers and clients do to jobs that are in.

use fusion_types::{
    Error, ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{Fence, Held, Job, JobStatus, JobWrite, Outcome, Owner},
};
use rusqlite::OptionalExtension;

use super::{
    super::{to_stored, writer::Transaction},
    job_not_found,
    row::{self, save_transition},
    sweep::FAILED_PAYLOAD_KEPT,
};
use crate::error::StoreError;

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
        .filter(|row| row.fence == fence && row.job.status == JobStatus::Processing);
    let Some(mut row) = held else {
        let message = format!("job {id} is no longer this worker's");
        return Err(Error::new(ErrorCode::VersionConflict, message).into());
    };
    match write {
        JobWrite::Progress(progress) => {
            row.job.progress = Some(progress);
            row::save(transaction, &mut row)?;
            return Ok(row.job);
        }
        JobWrite::Release { run_at, error } => row.release(run_at, error, now),
        JobWrite::Return => row.give_back(now),
        JobWrite::Finish(outcome) => row.finish(outcome, now),
    }
    save_transition(transaction, &mut row, now)?;
    Ok(row.job)
}

pub(super) fn cancel(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: &JobId,
    now: Timestamp,
) -> Result<Job, StoreError> {
    let mut row =
        row::find_public(transaction, tenant, id, now)?.ok_or_else(|| job_not_found(id))?;
    match row.job.status {
        JobStatus::Queued => {
            row.finish(Outcome::Cancelled, now);
            save_transition(transaction, &mut row, now)?;
        }
        JobStatus::Processing => {
            row.cancel_wanted = true;
            row::save(transaction, &mut row)?;
        }
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
            let message = format!("job {id} is already {}", row.job.status.as_str());
            return Err(Error::new(ErrorCode::JobFinished, message).into());
        }
    }
    Ok(row.job)
}

pub(super) fn retry(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    id: &JobId,
    now: Timestamp,
) -> Result<Job, StoreError> {
    let mut row =
        row::find_public(transaction, tenant, id, now)?.ok_or_else(|| job_not_found(id))?;
    let (JobStatus::Failed, Some(failed_at)) = (row.job.status, row.job.failed_at) else {
        let message = format!(
            "job {id} is {}: only a failed job can be retried",
            row.job.status.as_str()
        );
        return Err(Error::invalid("job_id", message).into());
    };
    if row.payload.is_none() || failed_at.plus(FAILED_PAYLOAD_KEPT) <= now {
        let message = format!("the input of job {id} is no longer kept; submit it again");
        return Err(Error::new(ErrorCode::PayloadGone, message).into());
    }
    row.retry(now);
    save_transition(transaction, &mut row, now)?;
    Ok(row.job)
}
