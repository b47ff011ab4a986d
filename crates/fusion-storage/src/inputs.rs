//! How long the inputs of jobs are kept.

use std::time::Duration;

use fusion_types::{Timestamp, job::JobStatus};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Until the job is completed or cancelled. A failed job's stays for a time, in which it can be retried.
    UntilDone { after_failure: Duration },
    /// As long as the job's record.
    Keep,
}

impl Default for Inputs {
    fn default() -> Self {
        Self::UntilDone {
            after_failure: Duration::from_secs(24 * 3600),
        }
    }
}

impl Inputs {
    /// Whether a job that now has this status leaves its input behind.
    pub(crate) fn end_with(self, status: JobStatus) -> bool {
        self != Self::Keep && matches!(status, JobStatus::Completed | JobStatus::Cancelled)
    }

    /// Jobs that failed by then have none any more.
    pub(crate) fn forgotten_if_failed_by(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::UntilDone { after_failure } => Some(now.minus(after_failure)),
            Self::Keep => None,
        }
    }

    pub(crate) fn are_forgotten(self, failed_at: Timestamp, now: Timestamp) -> bool {
        self.forgotten_if_failed_by(now)
            .is_some_and(|until| failed_at <= until)
    }
}
