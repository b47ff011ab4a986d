//! Jobs that were handed in under one name.

use fusion_types::{
    Call, Error, ErrorCode, Result,
    job::{JobCounts, JobStatus},
};
use serde::{Deserialize, Serialize};

use super::Jobs;

/// The answer of `GET /api/mcp/groups/{group}`, and what a group's callback is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    pub group: String,
    /// `queued` until the first starts, `processing` until the last ends; then `failed` if one failed, else `cancelled` if one was,
    /// else `completed`.
    pub status: JobStatus,
    pub total: u64,
    pub counts: JobCounts,
}

impl GroupView {
    pub(crate) fn new(group: &str, counts: JobCounts) -> Self {
        Self {
            group: group.to_owned(),
            status: status(&counts),
            total: counts.total(),
            counts,
        }
    }
}

/// The answer to a group's cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupCancelled {
    /// Jobs that were unfinished, and now are cancelled or about to be.
    pub cancelled: u64,
    #[serde(flatten)]
    pub group: GroupView,
}

impl Jobs {
    /// # Errors
    /// `job_not_found` where no job is of the group, `store_unavailable`.
    pub async fn group(&self, call: &Call, group: &str) -> Result<GroupView> {
        let counts = self.parts.store.group(&call.tenant, group).await?;
        if counts.total() == 0 {
            let message = format!("there is no job of the group {group}");
            return Err(Error::new(ErrorCode::JobNotFound, message));
        }
        Ok(GroupView::new(group, counts))
    }

    /// Cancels what is queued at once, and tells those that run to stop.
    ///
    /// # Errors
    /// `job_not_found` where no job is of the group, `store_unavailable`.
    pub async fn cancel_group(&self, call: &Call, group: &str) -> Result<GroupCancelled> {
        let cancelled = self.parts.store.cancel_group(&call.tenant, group).await?;
        self.parts.cancellation.notify_one();
        Ok(GroupCancelled {
            cancelled,
            group: self.group(call, group).await?,
        })
    }
}

fn status(counts: &JobCounts) -> JobStatus {
    if counts.unfinished() > 0 {
        let is_untouched = counts.queued == counts.total();
        return if is_untouched {
            JobStatus::Queued
        } else {
            JobStatus::Processing
        };
    }
    match (counts.failed, counts.cancelled) {
        (0, 0) => JobStatus::Completed,
        (0, _) => JobStatus::Cancelled,
        _ => JobStatus::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_its_jobs_are() {
        let counts = |queued, processing, completed, failed, cancelled| JobCounts {
            queued,
            processing,
            completed,
            failed,
            cancelled,
        };
        assert_eq!(status(&counts(2, 0, 0, 0, 0)), JobStatus::Queued);
        assert_eq!(status(&counts(1, 0, 1, 0, 0)), JobStatus::Processing);
        assert_eq!(status(&counts(0, 1, 0, 3, 0)), JobStatus::Processing);
        assert_eq!(status(&counts(0, 0, 3, 0, 0)), JobStatus::Completed);
        assert_eq!(status(&counts(0, 0, 3, 0, 1)), JobStatus::Cancelled);
        assert_eq!(status(&counts(0, 0, 3, 1, 1)), JobStatus::Failed);
    }
}
