//! `POST /api/fusion/orchestrate`: what is asked, and what became of it.

use std::collections::BTreeMap;

use fusion_types::{ErrorCode, Timestamp, id::RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrchestrateRequest {
    /// A workflow's id or name, or `id@version`.
    pub workflow: String,
    #[serde(default)]
    pub input: Map<String, Value>,
    /// Role → model reference; for roles not given a model is chosen by capability.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
    #[serde(default)]
    pub config: Map<String, Value>,
    /// The steps of a `custom` workflow.
    #[serde(default)]
    pub steps: Option<Value>,
    #[serde(default)]
    pub stream: bool,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// What a run came to. A run that started has one whatever its status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    pub workflow_id: String,
    pub run_id: RunId,
    pub status: RunStatus,
    /// `null` where the run failed.
    pub result: Value,
    pub execution_trace: Vec<TraceEntry>,
    pub total_latency_ms: u64,
    pub created_at: Timestamp,
    pub completed_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Completed,
    /// An optional step failed; the result holds everything that was made.
    Partial,
    Failed,
}

/// One step of a run, with its real times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceEntry {
    pub step: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub status: StepStatus,
    pub duration_ms: u64,
    /// Starts of the step; 0 where it was skipped.
    pub attempts: u32,
    pub started_at: Timestamp,
    /// Tokens read and written by models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    Completed,
    Failed,
    Skipped,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    pub code: ErrorCode,
    pub message: String,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    pub code: ErrorCode,
    pub message: String,
    pub step: String,
}
