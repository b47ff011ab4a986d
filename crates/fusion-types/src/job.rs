//! Jobs: work that was promised, as the store keeps it and as clients see it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ErrorCode, Tenant, Timestamp,
    id::{JobId, RequestId},
    model::Priority,
    page::Window,
};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Chat,
    Completion,
    Embed,
    Rerank,
    ImageGen,
    ImageEdit,
    Transcribe,
    RagQuery,
    RagIngest,
    Workflow,
}

impl Operation {
    /// As it is written in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embed => "embed",
            Self::Rerank => "rerank",
            Self::ImageGen => "image_gen",
            Self::ImageEdit => "image_edit",
            Self::Transcribe => "transcribe",
            Self::RagQuery => "rag_query",
            Self::RagIngest => "rag_ingest",
            Self::Workflow => "workflow",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    Queued,
    Processing,
    Completed,
    Failed,
    Cancelled,
}

impl JobStatus {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job as it is handed in, checked, with its id and times already made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    pub id: JobId,
    pub tenant: Tenant,
    pub request_id: RequestId,
    pub operation: Operation,
    /// A model reference as text; not every operation needs one.
    pub model_id: Option<String>,
    /// Kept apart from the history, and gone when the job is done.
    pub input: Value,
    pub priority: Priority,
    pub metadata: Map<String, Value>,
    pub callback_url: Option<String>,
    pub idempotency: Option<Idempotency>,
    pub created_at: Timestamp,
    /// Not claimed before.
    pub run_at: Timestamp,
    /// Claims are made in this order: milliseconds since 1970, later by [`handicap`] and where the tenant has many jobs waiting.
    pub sort_key: i64,
    pub timeout: Duration,
    pub max_attempts: u32,
    /// How long the record is kept once the job is finished.
    pub ttl: Duration,
    pub group: Option<String>,
    /// Not claimed before all of these are completed. One that fails or is cancelled takes this job with it.
    pub depends_on: Vec<JobId>,
}

/// Milliseconds by which a job's place in the queue is later for its priority. Waiting makes up for it, so that nobody starves.
pub fn handicap(priority: Priority) -> i64 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 30_000,
        Priority::Low => 120_000,
    }
}

/// A client's key, and the hash of the body that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    pub body_hash: String,
}

/// What became of a submitted job.
#[derive(Clone, Debug, PartialEq)]
pub enum Inserted {
    New(Job),
    /// The key was used before with the same body: this is that job.
    Existing(Job),
    /// The key was used before with another body.
    KeyReused,
}

/// A job's public record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub job_id: JobId,
    pub status: JobStatus,
    pub model_id: Option<String>,
    pub operation: Operation,
    pub priority: Priority,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_at: Option<Timestamp>,
    /// From 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f32>,
    /// Starts so far, crashed ones included.
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<JobId>,
    pub metadata: Map<String, Value>,
    pub request_id: RequestId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    pub code: ErrorCode,
    pub retryable: bool,
}

/// Names the worker that holds a job; unique to one run of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub String);

/// Rises with each claim of a job; a write that carries an older one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// Asks for work: due jobs in sort order, those whose lease ran out included.
#[derive(Clone, Debug)]
pub struct Claim {
    pub owner: Owner,
    pub limit: u32,
    pub lease: Duration,
    /// Models that the claimer holds, by every name. Where several servers share a store, their jobs go first.
    pub held_models: Vec<String>,
    /// All names of models that the claimer can run. Where several servers share a store, it leaves jobs that name another model to
    /// who has that.
    pub known_models: Vec<String>,
}

/// A job that is now the claimer's, until its lease runs out or it is finished.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub job: Job,
    pub tenant: Tenant,
    pub input: Value,
    pub fence: Fence,
    pub timeout: Duration,
    pub max_attempts: u32,
}

/// What became of a lease that was to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Kept,
    /// Still held, but a client wants the job cancelled.
    CancelWanted,
    /// Somebody else's now, or finished.
    Lost,
}

/// A worker's write; refused with a stale fence.
#[derive(Clone, Debug, PartialEq)]
pub enum JobWrite {
    Progress(f32),
    /// Back to the queue, to be tried again from `run_at` on.
    Release {
        run_at: Timestamp,
        error: JobError,
    },
    /// Back to the queue at once and uncounted: the worker stops before it began.
    Return,
    Finish(Outcome),
}

#[derive(Clone, Debug, PartialEq)]
pub struct JobError {
    pub message: String,
    pub detail: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Completed(Value),
    Failed(JobError),
    Cancelled,
}

/// Which jobs to list; tenants never see each other's.
#[derive(Clone, Debug)]
pub struct JobQuery {
    pub tenant: Tenant,
    pub status: Option<JobStatus>,
    pub model_id: Option<String>,
    pub operation: Option<Operation>,
    pub group: Option<String>,
    /// Fields of the metadata that must be equal to these texts; numbers and truth values by how JSON writes them.
    pub metadata: Vec<(String, String)>,
    pub sort: JobSort,
    pub descending: bool,
    pub window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobSort {
    CreatedAt,
    CompletedAt,
}

/// How many jobs of each status there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounts {
    pub queued: u64,
    pub processing: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl JobCounts {
    pub fn total(&self) -> u64 {
        self.unfinished() + self.completed + self.failed + self.cancelled
    }

    pub fn unfinished(&self) -> u64 {
        self.queued + self.processing
    }
}

/// A position in the change log; dense, rising, the same for all readers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// One transition of one job, committed together with it: the only outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub seq: Seq,
    pub at: Timestamp,
    pub event: JobEvent,
    pub tenant: Tenant,
    /// As it was right after the transition.
    pub job: Job,
    pub callback_url: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobEvent {
    #[serde(rename = "job.queued")]
    Queued,
    #[serde(rename = "job.processing")]
    Processing,
    #[serde(rename = "job.completed")]
    Completed,
    #[serde(rename = "job.failed")]
    Failed,
    #[serde(rename = "job.cancelled")]
    Cancelled,
}

impl JobEvent {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "job.queued",
            Self::Processing => "job.processing",
            Self::Completed => "job.completed",
            Self::Failed => "job.failed",
            Self::Cancelled => "job.cancelled",
        }
    }
}

impl From<JobStatus> for JobEvent {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Queued => Self::Queued,
            JobStatus::Processing => Self::Processing,
            JobStatus::Completed => Self::Completed,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelled => Self::Cancelled,
        }
    }
}
