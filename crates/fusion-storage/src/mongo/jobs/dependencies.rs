//! Jobs that wait for others, without transactions.
//!
//! A job names those it waits for. Whoever ends a job settles those that wait for it right away, and the change log's mover does so
//! again before it lets go of the change: a crash in between costs a moment. A job that is inserted while one it waits for ends is
//! looked at again after its insertion, and by the sweep should that have been cut off, too.

use fusion_types::{
    Error, ErrorCode,
    id::JobId,
    job::{ErrorDetail, Job, JobError, JobStatus, NewJob, Outcome},
};
use futures::future::BoxFuture;
use mongodb::bson::{Document, doc};

use super::{
    super::{all, schema::JOBS},
    Jobs, job_not_found,
    row::JobRow,
};
use crate::error::StoreError;

/// Waiting jobs that one round of the sweep looks at.
const CHECKED_AT_ONCE: i64 = 500;

/// Those that the job depends on and that are not completed yet; `earlier` ones come in with it.
///
/// # Errors
/// `job_not_found` for one that isn't there, `invalid_value` for one that will not complete.
pub(super) async fn unfinished<'a>(
    jobs: &Jobs,
    new: &NewJob,
    earlier: impl Iterator<Item = &'a Job> + Clone,
) -> Result<Vec<JobId>, StoreError> {
    let mut unfinished: Vec<JobId> = Vec::new();
    for id in &new.depends_on {
        if unfinished.contains(id) {
            continue;
        }
        let comes_along = earlier.clone().any(|job| job.job_id == *id);
        if comes_along || is_unfinished(jobs, new, id).await? {
            unfinished.push(id.clone());
        }
    }
    Ok(unfinished)
}

async fn is_unfinished(jobs: &Jobs, new: &NewJob, id: &JobId) -> Result<bool, StoreError> {
    let parent = jobs
        .store
        .public_job(&new.tenant, id)
        .await?
        .ok_or_else(|| job_not_found(id).with_param("depends_on"))?;
    may_complete(&parent.state.job)
}

/// False where it did already.
///
/// # Errors
/// `invalid_value` where it will not.
pub(super) fn may_complete(parent: &Job) -> Result<bool, StoreError> {
    match parent.status {
        JobStatus::Completed => Ok(false),
        JobStatus::Queued | JobStatus::Processing => Ok(true),
        JobStatus::Failed | JobStatus::Cancelled => {
            let id = &parent.job_id;
            let message = format!(
                "job {id} is {}: it will not complete",
                parent.status.as_str()
            );
            Err(Error::invalid("depends_on", message).into())
        }
    }
}

/// Settles what ended while these were stored.
pub(super) async fn recheck(jobs: &Jobs, rows: &[JobRow]) -> Result<(), StoreError> {
    for row in rows {
        for parent in &row.waiting_for {
            if rows.iter().any(|row| row.state.job.job_id == *parent) {
                continue;
            }
            settle(jobs, parent.clone()).await?;
        }
    }
    Ok(())
}

/// Those that wait for the job may run, or end with it, and so on. Nothing where it is unfinished, or nobody waits for it.
pub(super) fn settle(jobs: &Jobs, parent: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
    Box::pin(async move {
        let waiting = doc! { "waiting_for": parent.as_str(), "blocked": { "$gt": 0 } };
        let children = ids(jobs, waiting, 0).await?;
        if children.is_empty() {
            return Ok(());
        }
        let outcome = match jobs.store.job(&parent).await? {
            Some(row) if !row.state.job.status.is_terminal() => return Ok(()),
            Some(row) => row.state.outcome_for_dependents(),
            None => Some(Outcome::Failed(gone(&parent))),
        };
        for child in children {
            settle_child(jobs, &child, &parent, outcome.as_ref()).await?;
        }
        Ok(())
    })
}

async fn settle_child(
    jobs: &Jobs,
    child: &JobId,
    parent: &JobId,
    outcome: Option<&Outcome>,
) -> Result<(), StoreError> {
    jobs.change(child, |row| {
        if row.state.job.status != JobStatus::Queued || !row.waiting_for.contains(parent) {
            return Ok(super::write::Changed::Nothing);
        }
        let now = row.now;
        match outcome {
            None => {
                row.waiting_for.retain(|id| id != parent);
                Ok(super::write::Changed::Quietly)
            }
            Some(outcome) => {
                row.waiting_for.clear();
                row.state.finish(outcome.clone(), now);
                Ok(super::write::Changed::State)
            }
        }
    })
    .await?;
    // It may run now, which no change tells.
    jobs.wake.written();
    Ok(())
}

/// The sweep's part: settles what a crash left unsettled.
pub(super) async fn settle_forgotten(jobs: &Jobs) -> Result<(), StoreError> {
    let waiting = doc! { "status": "queued", "blocked": { "$gt": 0 } };
    let parents = jobs
        .store
        .collection(JOBS)
        .aggregate([
            doc! { "$match": waiting },
            doc! { "$limit": CHECKED_AT_ONCE * 20 },
            doc! { "$unwind": "$waiting_for" },
            doc! { "$group": { "_id": "$waiting_for" } },
            doc! { "$lookup": { "from": JOBS, "localField": "_id", "foreignField": "job_id", "as": "parent" } },
            doc! { "$match": { "parent.status": { "$nin": ["queued", "processing"] } } },
            doc! { "$project": { "job_id": "$_id" } },
            doc! { "$limit": CHECKED_AT_ONCE },
        ])
        .await?;
    for parent in all(parents).await? {
        if let Ok(id) = parent.get_str("job_id") {
            settle(jobs, JobId::from_text(id)).await?;
        }
    }
    Ok(())
}

/// The jobs' ids; all of them where `limit` is zero.
pub(super) async fn ids(
    jobs: &Jobs,
    filter: Document,
    limit: i64,
) -> Result<Vec<JobId>, StoreError> {
    let cursor = jobs
        .store
        .collection(JOBS)
        .find(filter)
        .projection(doc! { "job_id": 1 })
        .sort(doc! { "job_id": 1 })
        .limit(limit)
        .await?;
    let found = all(cursor).await?;
    let ids = found
        .iter()
        .filter_map(|found| found.get_str("job_id").ok());
    Ok(ids.map(JobId::from_text).collect())
}

/// Why a job fails whose parent was removed before it was settled.
fn gone(parent: &JobId) -> JobError {
    let code = ErrorCode::InternalError;
    JobError {
        message: format!("job {parent}, which this one depends on, is gone"),
        detail: ErrorDetail {
            code,
            retryable: code.is_retryable(),
        },
    }
}
