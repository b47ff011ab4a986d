//! What workers and clients do to jobs that are in.

use std::time::Duration;

use fusion_types::{
    Error, ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{Fence, Held, Job, JobStatus, JobWrite, Outcome, Owner},
};
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, doc};

use super::{
    super::{all, clock_offset, schema::JOBS, to_stored, transaction::pause},
    Jobs, dependencies, job_not_found,
    row::{JobRow, NewResult},
    too_busy,
};
use crate::{Inputs, error::StoreError};

/// Writers of one job that may come in between.
const TRIES: u32 = 50;
/// Jobs of a group that are looked up, and cancelled, at once.
const CANCELLED_AT_ONCE: i64 = 200;
const SIDE_BY_SIDE: usize = 8;

/// What a decision did to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Nothing,
    /// What nobody is told of.
    Quietly,
    /// Another state, which goes into the change log.
    State,
}

impl Jobs {
    /// Reads the job, decides, and stores it; from the start where somebody else stored it meanwhile. `None`: no such job.
    pub(super) async fn change(
        &self,
        id: &JobId,
        decide: impl FnMut(&mut JobRow) -> Result<Changed, StoreError> + Send,
    ) -> Result<Option<JobRow>, StoreError> {
        self.change_with_result(id, None, decide).await
    }

    async fn change_with_result(
        &self,
        id: &JobId,
        result: Option<&NewResult>,
        mut decide: impl FnMut(&mut JobRow) -> Result<Changed, StoreError> + Send,
    ) -> Result<Option<JobRow>, StoreError> {
        for attempt in 0..TRIES {
            let Some(mut row) = self.store.job(id).await? else {
                return Ok(None);
            };
            let changed = decide(&mut row)?;
            if changed == Changed::Nothing {
                return Ok(Some(row));
            }
            let status = row.state.job.status;
            let input = if self.inputs.end_with(status) {
                row.input.take()
            } else {
                None
            };
            let result = result.filter(|_| status == JobStatus::Completed);
            if row
                .save(&self.store, changed == Changed::State, result)
                .await?
            {
                if let Some(input) = input {
                    self.forget(&[input.blob]).await;
                }
                if changed == Changed::State {
                    self.follow_up(&row).await;
                }
                return Ok(Some(row));
            }
            pause(attempt / 4).await;
        }
        Err(too_busy())
    }

    /// The job is stored as it now is; what fails from here on is done again by others.
    async fn follow_up(&self, row: &JobRow) {
        if row.state.job.status.is_terminal() {
            let id = row.state.job.job_id.clone();
            if let Err(error) = dependencies::settle(self, id).await {
                tracing::warn!(%error, "jobs that wait for another are settled later");
            }
        }
        self.wake.written();
    }

    /// What can't be deleted now is found by the sweep.
    pub(super) async fn forget(&self, blobs: &[mongodb::bson::oid::ObjectId]) {
        if let Err(error) = self.store.delete_blobs(blobs).await {
            tracing::warn!(%error, "a value that nobody needs is deleted later");
        }
    }

    pub(super) async fn renew_leases(
        &self,
        owner: &Owner,
        lease: Duration,
        jobs: &[(JobId, Fence)],
    ) -> Result<Vec<Held>, StoreError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let held = doc! {
            "owner": &owner.0,
            "status": "processing",
            "$or": jobs.iter().map(|(id, fence)| doc! { "job_id": id.as_str(), "fence": to_stored(fence.0) }).collect::<Vec<_>>(),
        };
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let renewal = vec![doc! { "$set": {
            "lease_until": { "$add": ["$$NOW", lease] },
            "rev": { "$add": ["$rev", 1_i64] },
        } }];
        let collection = self.store.collection(JOBS);
        collection.update_many(held.clone(), renewal).await?;
        let cursor = collection
            .find(held)
            .projection(doc! { "job_id": 1, "fence": 1, "cancel_wanted": 1 })
            .await?;
        let found = all(cursor).await?;
        Ok(jobs
            .iter()
            .map(|(id, fence)| held_of(&found, id, *fence))
            .collect())
    }

    pub(super) async fn write_job(
        &self,
        id: &JobId,
        fence: Fence,
        write: JobWrite,
    ) -> Result<Job, StoreError> {
        let result = match &write {
            JobWrite::Finish(Outcome::Completed(result)) => {
                Some(self.store.put_result(id, result).await?)
            }
            _ => None,
        };
        let written = self
            .change_with_result(id, result.as_ref(), |row| apply(row, fence, &write))
            .await
            .and_then(|row| row.ok_or_else(|| stale(id)));
        if let (Err(_), Some(NewResult::Parts(blob))) = (&written, &result) {
            self.forget(&[blob.blob]).await;
        }
        Ok(written?.state.job)
    }

    pub(super) async fn cancel_job(&self, tenant: &Tenant, id: &JobId) -> Result<Job, StoreError> {
        let cancelled = self
            .change(id, |row| {
                if !is_visible(row, tenant) {
                    return Err(job_not_found(id).into());
                }
                cancel(row).ok_or_else(|| {
                    let message = format!("job {id} is already {}", row.state.job.status.as_str());
                    Error::new(ErrorCode::JobFinished, message).into()
                })
            })
            .await?
            .ok_or_else(|| job_not_found(id))?;
        // A worker elsewhere is to hear of it.
        self.wake.written();
        Ok(cancelled.state.job)
    }

    pub(super) async fn retry_job(&self, tenant: &Tenant, id: &JobId) -> Result<Job, StoreError> {
        for attempt in 0..TRIES {
            let Some(mut row) = self.store.public_job(tenant, id).await? else {
                return Err(job_not_found(id).into());
            };
            check_retry(&row, self.inputs)?;
            row.waiting_for.clear();
            for parent in row.state.job.depends_on.clone() {
                let found = self.store.public_job(tenant, &parent).await?;
                let found = found.ok_or_else(|| job_not_found(&parent).with_param("depends_on"))?;
                if dependencies::may_complete(&found.state.job)?
                    && !row.waiting_for.contains(&parent)
                {
                    row.waiting_for.push(parent);
                }
            }
            row.state.retry(row.now);
            if row.save(&self.store, true, None).await? {
                self.wake.written();
                dependencies::recheck(self, std::slice::from_ref(&row)).await?;
                return Ok(row.state.job);
            }
            pause(attempt / 4).await;
        }
        Err(too_busy())
    }

    pub(super) async fn cancel_all(&self, tenant: &Tenant, group: &str) -> Result<u64, StoreError> {
        let (mut asked, mut last) = (0, JobId::from_text(""));
        loop {
            let some = doc! {
                "tenant": tenant.as_str(),
                "group": group,
                "job_id": { "$gt": last.as_str() },
                "status": { "$in": ["queued", "processing"] },
            };
            let ids = dependencies::ids(self, some, CANCELLED_AT_ONCE).await?;
            let Some(newest) = ids.last().cloned() else {
                return Ok(asked);
            };
            last = newest;
            let cancelled: Vec<u64> = stream::iter(ids)
                .map(|id| self.cancel_one(id))
                .buffer_unordered(SIDE_BY_SIDE)
                .try_collect()
                .await?;
            asked += cancelled.into_iter().sum::<u64>();
        }
    }

    /// 1 where it was unfinished.
    async fn cancel_one(&self, id: JobId) -> Result<u64, StoreError> {
        let mut was_unfinished = false;
        self.change(&id, |row| {
            let cancelled = cancel(row);
            was_unfinished = cancelled.is_some();
            Ok(cancelled.unwrap_or(Changed::Nothing))
        })
        .await?;
        self.wake.written();
        Ok(u64::from(was_unfinished))
    }
}

fn held_of(found: &[Document], id: &JobId, fence: Fence) -> Held {
    let same = |document: &&Document| {
        document
            .get_str("job_id")
            .is_ok_and(|found| found == id.as_str())
            && document
                .get_i64("fence")
                .is_ok_and(|found| found == to_stored(fence.0))
    };
    match found.iter().find(same) {
        None => Held::Lost,
        Some(found) if found.get_bool("cancel_wanted").unwrap_or(false) => Held::CancelWanted,
        Some(_) => Held::Kept,
    }
}

fn apply(row: &mut JobRow, fence: Fence, write: &JobWrite) -> Result<Changed, StoreError> {
    let state = &mut row.state;
    if state.fence != fence || state.job.status != JobStatus::Processing {
        return Err(stale(&state.job.job_id));
    }
    match write.clone() {
        JobWrite::Progress(progress) => {
            state.job.progress = Some(progress);
            return Ok(Changed::Quietly);
        }
        JobWrite::Release { run_at, error } => {
            let run_at = run_at.as_millis().saturating_add(clock_offset(row.now));
            state.release(Timestamp::from_millis(run_at), error, row.now);
        }
        JobWrite::Return => state.give_back(row.now),
        JobWrite::Finish(outcome) => state.finish(outcome, row.now),
    }
    Ok(Changed::State)
}

fn stale(id: &JobId) -> StoreError {
    let message = format!("job {id} is no longer this worker's");
    Error::new(ErrorCode::VersionConflict, message).into()
}

fn is_visible(row: &JobRow, tenant: &Tenant) -> bool {
    row.state.tenant == *tenant && !row.state.is_expired(row.now)
}

/// `None` where the job is finished.
fn cancel(row: &mut JobRow) -> Option<Changed> {
    match row.state.job.status {
        JobStatus::Queued => {
            row.state.finish(Outcome::Cancelled, row.now);
            row.waiting_for.clear();
            Some(Changed::State)
        }
        JobStatus::Processing => {
            row.state.cancel_wanted = true;
            Some(Changed::Quietly)
        }
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => None,
    }
}

fn check_retry(row: &JobRow, inputs: Inputs) -> Result<(), StoreError> {
    let job = &row.state.job;
    let id = &job.job_id;
    let (JobStatus::Failed, Some(failed_at)) = (job.status, job.failed_at) else {
        let status = job.status.as_str();
        let message = format!("job {id} is {status}: only a failed job can be retried");
        return Err(Error::invalid("job_id", message).into());
    };
    if row.input.is_none() || inputs.are_forgotten(failed_at, row.now) {
        let message = format!("the input of job {id} is no longer kept; submit it again");
        return Err(Error::new(ErrorCode::PayloadGone, message).into());
    }
    Ok(())
}
