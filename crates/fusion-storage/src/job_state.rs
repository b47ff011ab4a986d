//! How a job's state changes: decisions alone, the same for every backend.

use std::time::Duration;

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{ErrorDetail, Fence, Job, JobError, JobStatus, NewJob, Outcome, handicap},
};

/// A job as a store keeps it: the public record, and what only the store needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobState {
    pub(crate) tenant: Tenant,
    pub(crate) job: Job,
    pub(crate) run_at: Timestamp,
    pub(crate) sort_key: i64,
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) ttl: Duration,
    pub(crate) fence: Fence,
    pub(crate) owner: Option<String>,
    pub(crate) lease_until: Option<Timestamp>,
    pub(crate) cancel_wanted: bool,
    /// Set once the job is finished; it counts as gone from then on.
    pub(crate) expires_at: Option<Timestamp>,
}

/// What a lease that ran out leads to.
#[derive(Debug, PartialEq)]
pub(crate) enum Lapsed {
    /// Another attempt.
    Claimable,
    /// A client wanted that anyway.
    Cancel,
    /// All attempts were used up, none reported back.
    GiveUp,
}

impl JobState {
    pub(crate) fn queued(new: &NewJob) -> Self {
        Self {
            tenant: new.tenant.clone(),
            job: Job {
                job_id: new.id.clone(),
                status: JobStatus::Queued,
                model_id: new.model_id.clone(),
                operation: new.operation,
                priority: new.priority,
                created_at: new.created_at,
                started_at: None,
                completed_at: None,
                failed_at: None,
                cancelled_at: None,
                progress: None,
                attempt: 0,
                result: None,
                error: None,
                error_detail: None,
                group: new.group.clone(),
                depends_on: new.depends_on.clone(),
                metadata: new.metadata.clone(),
                request_id: new.request_id.clone(),
            },
            run_at: new.run_at,
            sort_key: new.sort_key,
            timeout: new.timeout,
            max_attempts: new.max_attempts,
            ttl: new.ttl,
            fence: Fence(0),
            owner: None,
            lease_until: None,
            cancel_wanted: false,
            expires_at: None,
        }
    }

    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    pub(crate) fn after_lapse(&self) -> Lapsed {
        if self.cancel_wanted {
            Lapsed::Cancel
        } else if self.job.attempt >= self.max_attempts {
            Lapsed::GiveUp
        } else {
            Lapsed::Claimable
        }
    }

    /// A worker has it now.
    pub(crate) fn start(&mut self, owner: &str, lease_until: Timestamp, now: Timestamp) {
        self.job.status = JobStatus::Processing;
        self.job.started_at = Some(now);
        self.job.progress = None;
        self.job.attempt += 1;
        self.fence = Fence(self.fence.0 + 1);
        self.owner = Some(owner.to_owned());
        self.lease_until = Some(lease_until);
    }

    /// The attempt failed: back to the queue, unless it was the last one or the job is to be cancelled.
    pub(crate) fn release(&mut self, run_at: Timestamp, error: JobError, now: Timestamp) {
        if self.cancel_wanted {
            return self.finish(Outcome::Cancelled, now);
        }
        if self.job.attempt >= self.max_attempts {
            return self.finish(Outcome::Failed(error), now);
        }
        self.queue(run_at);
        self.job.error = Some(error.message);
        self.job.error_detail = Some(error.detail);
    }

    /// The attempt didn't begin: back to the queue as if it had not been claimed, unless the job is to be cancelled.
    pub(crate) fn give_back(&mut self, now: Timestamp) {
        if self.cancel_wanted {
            return self.finish(Outcome::Cancelled, now);
        }
        let run_at = self.run_at;
        self.queue(run_at);
        self.job.attempt = self.job.attempt.saturating_sub(1);
    }

    /// A failed job gets fresh attempts, and takes its place as if it were handed in now.
    pub(crate) fn retry(&mut self, now: Timestamp) {
        self.queue(now);
        self.sort_key = now.as_millis().saturating_add(handicap(self.job.priority));
        self.job.attempt = 0;
        self.job.failed_at = None;
        self.job.error = None;
        self.job.error_detail = None;
        self.expires_at = None;
    }

    fn queue(&mut self, run_at: Timestamp) {
        self.job.status = JobStatus::Queued;
        self.job.started_at = None;
        self.job.progress = None;
        self.run_at = run_at;
        self.cancel_wanted = false;
        self.end_lease();
    }

    /// The one way into a terminal state.
    pub(crate) fn finish(&mut self, outcome: Outcome, now: Timestamp) {
        self.job.error = None;
        self.job.error_detail = None;
        match outcome {
            Outcome::Completed(result) => {
                self.job.status = JobStatus::Completed;
                self.job.completed_at = Some(now);
                self.job.progress = Some(1.0);
                self.job.result = Some(result);
            }
            Outcome::Failed(error) => {
                self.job.status = JobStatus::Failed;
                self.job.failed_at = Some(now);
                self.job.error = Some(error.message);
                self.job.error_detail = Some(error.detail);
            }
            Outcome::Cancelled => {
                self.job.status = JobStatus::Cancelled;
                self.job.cancelled_at = Some(now);
            }
        }
        self.expires_at = Some(now.plus(self.ttl));
        self.end_lease();
    }

    fn end_lease(&mut self) {
        self.owner = None;
        self.lease_until = None;
    }

    /// Why a job whose every worker vanished has failed.
    pub(crate) fn gave_up(&self) -> JobError {
        let message = format!(
            "gave up after {} attempts: none reported back",
            self.job.attempt
        );
        let code = ErrorCode::EngineCrashed;
        JobError {
            message,
            detail: ErrorDetail {
                code,
                retryable: code.is_retryable(),
            },
        }
    }

    /// What becomes of a job that depends on this one, which has ended: `None` where it completed.
    pub(crate) fn outcome_for_dependents(&self) -> Option<Outcome> {
        let id = &self.job.job_id;
        match self.job.status {
            JobStatus::Failed => Some(Outcome::Failed(dependency_failed(id, &self.job))),
            JobStatus::Cancelled => Some(Outcome::Cancelled),
            JobStatus::Queued | JobStatus::Processing | JobStatus::Completed => None,
        }
    }
}

fn dependency_failed(id: &JobId, job: &Job) -> JobError {
    let why = job.error.as_deref().unwrap_or("no reason is known");
    let code = ErrorCode::InternalError;
    JobError {
        message: format!("job {id}, which this one depends on, failed: {why}"),
        detail: job.error_detail.unwrap_or(ErrorDetail {
            code,
            retryable: code.is_retryable(),
        }),
    }
}
