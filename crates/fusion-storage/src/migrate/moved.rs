//! What one store hands to another.

use fusion_types::{
    Timestamp,
    id::JobId,
    job::{Change, Idempotency},
};
use serde_json::Value;

use crate::job_state::JobState;

/// A job with all that belongs to it, but for its changes.
pub(crate) struct MovedJob {
    /// Its place among the jobs of the store that it leaves.
    pub(crate) number: i64,
    pub(crate) state: JobState,
    pub(crate) callback_url: Option<String>,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) input: Option<Value>,
    pub(crate) waits_for: Vec<JobId>,
    /// How many it has in the change log.
    pub(crate) changes: u64,
}

pub(crate) struct MovedChange {
    /// Among those of its job, from 1.
    pub(crate) number: u64,
    pub(crate) change: Change,
}

pub(crate) struct MovedRecord {
    pub(crate) namespace: String,
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) version: u64,
    pub(crate) expires_at: Option<Timestamp>,
}
