//! What the store keeps of batches, and under which keys.

use std::time::Duration;

use fusion_types::{
    Result, Tenant, Timestamp,
    id::{BatchId, BlobId, FileId, JobId},
    job::{JobCounts, Owner},
    record::{Expect, RecordWrite},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BatchView, Endpoint, Errors, RequestCounts, Status, line::LineError, lines::Place};
use crate::{files::written, jobs::Group, newest_first};

/// Batches by tenant and id.
pub(super) const BATCHES: &str = "batches";
/// Batches that have not ended, by id, so the oldest come first. One leaves it in the commit that ends it.
pub(super) const OPEN: &str = "batches_open";

/// A batch as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    pub(super) tenant: Tenant,
    pub(super) endpoint: Endpoint,
    pub(super) input: FileId,
    pub(super) blob: BlobId,
    pub(super) completion_window: String,
    pub(super) metadata: Option<Map<String, Value>>,
    /// How long the files that it writes are kept, where the request says so.
    pub(super) output_seconds: Option<u64>,
    pub(super) status: Status,
    pub(super) times: Times,
    /// Of its input, where that is why it failed.
    pub(super) errors: Vec<LineError>,
    /// Lines that ask for something; known once they are checked.
    pub(super) total: u64,
    /// Up to where its lines are jobs.
    pub(super) fed: Place,
    pub(super) is_fed: bool,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) output: Option<FileId>,
    pub(super) error: Option<FileId>,
    /// The server that works on it.
    pub(super) lease: Option<Lease>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Times {
    pub(super) created: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) in_progress: Option<Timestamp>,
    pub(super) finalizing: Option<Timestamp>,
    pub(super) completed: Option<Timestamp>,
    pub(super) failed: Option<Timestamp>,
    /// When its window was over before its lines were done.
    pub(super) expired: Option<Timestamp>,
    pub(super) cancelling: Option<Timestamp>,
    pub(super) cancelled: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) owner: String,
    pub(super) until: Timestamp,
}

/// Where an open batch is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) key: String,
}

impl Lease {
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        self.owner == owner.0
    }
}

impl Times {
    pub(super) fn new(created: Timestamp, window: Duration) -> Self {
        Self {
            created,
            expires: created.plus(window),
            in_progress: None,
            finalizing: None,
            completed: None,
            failed: None,
            expired: None,
            cancelling: None,
            cancelled: None,
        }
    }
}

impl Batch {
    pub(super) fn key(&self) -> String {
        newest_first::key(&self.tenant, self.id.as_str())
    }

    /// The jobs of its lines.
    pub(super) fn group(&self) -> Group {
        let (created, expires) = (self.times.created, self.times.expires);
        let window = expires.since(created);
        Group {
            name: self.id.to_string(),
            tenant: self.tenant.clone(),
            // Idle capacity only, until half of the time is over.
            behind_until: created.plus(window / 2),
            ttl: window * 2,
        }
    }

    /// The job of a line; the same however often it is asked for.
    pub(super) fn job_id(&self, line: u64) -> JobId {
        JobId::from_text(&format!("{}{}-{line}", JobId::PREFIX, self.own()))
    }

    pub(super) fn answer_id(&self, line: u64) -> String {
        format!("batch_req_{}{line:06}", self.own())
    }

    fn own(&self) -> &str {
        let id = self.id.as_str();
        id.strip_prefix(BatchId::PREFIX).unwrap_or(id)
    }

    pub(super) fn put(&self, expect: Expect) -> Result<RecordWrite> {
        Ok(RecordWrite::put(BATCHES, self.key(), written(self)?).expecting(expect))
    }

    pub(super) fn opening(&self) -> Result<RecordWrite> {
        let open = Open { key: self.key() };
        Ok(RecordWrite::put(OPEN, self.id.as_str(), written(&open)?))
    }

    pub(super) fn closing(&self) -> RecordWrite {
        RecordWrite::delete(OPEN, self.id.as_str())
    }

    /// With the counts of its jobs, while it has not ended.
    pub(super) fn view(self, jobs: Option<JobCounts>) -> BatchView {
        let seconds = |time: Option<Timestamp>| time.map(Timestamp::as_seconds);
        let times = &self.times;
        BatchView {
            object: "batch",
            endpoint: self.endpoint.path(),
            errors: (!self.errors.is_empty()).then_some(Errors {
                object: "list",
                data: self.errors,
            }),
            input_file_id: self.input,
            completion_window: self.completion_window,
            status: self.status,
            output_file_id: self.output.filter(|_| self.status.is_ended()),
            error_file_id: self.error.filter(|_| self.status.is_ended()),
            created_at: times.created.as_seconds(),
            in_progress_at: seconds(times.in_progress),
            expires_at: times.expires.as_seconds(),
            finalizing_at: seconds(times.finalizing),
            completed_at: seconds(times.completed),
            failed_at: seconds(times.failed),
            expired_at: seconds(times.expired.filter(|_| self.status == Status::Expired)),
            cancelling_at: seconds(times.cancelling),
            cancelled_at: seconds(times.cancelled),
            request_counts: RequestCounts {
                total: self.total,
                completed: jobs.map_or(self.completed, |jobs| jobs.completed),
                failed: jobs.map_or(self.failed, |jobs| jobs.failed),
            },
            metadata: self.metadata,
            id: self.id,
        }
    }
}
