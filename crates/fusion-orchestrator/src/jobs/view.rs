//! What the jobs routes answer.

use fusion_types::{
    Timestamp,
    id::JobId,
    job::{Job, JobEvent, JobStatus, Seq},
};
use serde::Serialize;

/// The answer to a submitted job. For a key that was used before it describes the job of then.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accepted {
    pub job_id: JobId,
    pub status: JobStatus,
    pub created_at: Timestamp,
    /// From now; `None` while nothing is known about the model's speed.
    pub estimated_completion_ms: Option<u64>,
    /// Jobs that will start before this one; `None` when it isn't queued.
    pub position_in_queue: Option<u64>,
}

/// A job with where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobView {
    #[serde(flatten)]
    pub job: Job,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_in_queue: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_completion_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobList {
    pub jobs: Vec<Job>,
    pub total: u64,
    pub limit: u32,
    pub offset: u64,
}

/// The answer to a cancellation. `status` is still `processing` where the worker has not yet let go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cancelled {
    pub job_id: JobId,
    pub status: JobStatus,
    pub cancelled_at: Option<Timestamp>,
}

/// One page of the change log, as far as it is the tenant's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncPage {
    pub events: Vec<SyncEvent>,
    /// `since` of the next page.
    pub cursor: Seq,
    /// Whether the next page has something already.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncEvent {
    pub event: JobEvent,
    pub seq: Seq,
    pub at: Timestamp,
    pub job: Job,
}
