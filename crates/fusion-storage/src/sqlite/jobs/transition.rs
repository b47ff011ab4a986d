//! How a job's state changes: decisions alone, on the row in memory.

use fusion_types::{
    ErrorCode, Timestamp,
    job::{ErrorDetail, Fence, JobError, JobStatus, Outcome},
};

use super::row::JobRow;

/// What a lease that ran out leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Lapsed {
    /// Another attempt.
    Claimable,
    /// A client wanted that anyway.
    Cancel,
    /// All attempts were used up, none reported back.
    GiveUp,
}

impl JobRow {
    pub(super) fn after_lapse(&self) -> Lapsed {
        if self.cancel_wanted {
            Lapsed::Cancel
        } else if self.job.attempt >= self.max_attempts {
            Lapsed::GiveUp
        } else {
            Lapsed::Claimable
        }
    }

    /// A worker has it now.
    pub(super) fn start(&mut self, owner: &str, lease_until: Timestamp, now: Timestamp) {
        self.job.status = JobStatus::Processing;
        self.job.started_at = Some(now);
        self.job.progress = None;
        self.job.attempt += 1;
        self.fence = Fence(self.fence.0 + 1);
        self.owner = Some(owner.to_owned());
        self.lease_until = Some(lease_until);
    }

    /// The attempt failed: back to the queue, unless it was the last one or the job is to be cancelled.
    pub(super) fn release(&mut self, run_at: Timestamp, error: JobError, now: Timestamp) {
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
    pub(super) fn give_back(&mut self, now: Timestamp) {
        if self.cancel_wanted {
            return self.finish(Outcome::Cancelled, now);
        }
        let run_at = self.run_at;
        self.queue(run_at);
        self.job.attempt = self.job.attempt.saturating_sub(1);
    }

    /// A failed job gets fresh attempts, and takes its place as if it were handed in now.
    pub(super) fn retry(&mut self, now: Timestamp) {
        self.queue(now);
        let offset = self
            .sort_key
            .saturating_sub(self.job.created_at.as_millis());
        self.sort_key = now.as_millis().saturating_add(offset);
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
    pub(super) fn finish(&mut self, outcome: Outcome, now: Timestamp) {
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
    pub(super) fn gave_up(&self) -> JobError {
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
}
