//! What is asked of [`crate::Models`], and what it reports.

use std::{collections::BTreeMap, time::Duration};

use fusion_types::{
    Timestamp,
    model::{ModelCard, ModelId, ModelStatus, ModelType, Priority},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Concurrency, MachineMemory, MemoryOf};

/// The body of `POST /v1/models/load`. Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// A local file or folder, the id of a model in the models folder, or a pulled `owner/name[:file-or-quant]`.
    pub model_path: String,
    #[serde(default)]
    pub model_type: Option<ModelType>,
    #[serde(default)]
    pub model_id: Option<String>,
    #[serde(default)]
    pub context_length: Option<u32>,
    #[serde(default)]
    pub priority: Option<Priority>,
    #[serde(default)]
    pub pinned: Option<bool>,
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
    /// The plain name of an engine executable, or of a foreign engine.
    #[serde(default)]
    pub engine: Option<String>,
    #[serde(default)]
    pub replicas: Option<u32>,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub adapters: Vec<Value>,
    #[serde(default)]
    pub draft_model: Option<String>,
    #[serde(default)]
    pub options: Map<String, Value>,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

impl LoadRequest {
    pub fn new(model_path: impl Into<String>) -> Self {
        Self {
            model_path: model_path.into(),
            ..Self::default()
        }
    }
}

/// A model that is loaded now.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReport {
    pub model_id: ModelId,
    pub status: ModelStatus,
    /// Bytes charged to the budget.
    pub footprint_bytes: u64,
    /// Zero where the model was loaded already.
    pub load_time: Duration,
    /// Models that went to make room.
    pub evicted: Vec<ModelId>,
    pub card: ModelCard,
}

/// What a load would do now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadPlan {
    pub model_id: ModelId,
    pub already_loaded: bool,
    /// Whether the load could begin now.
    pub fits: bool,
    /// Whether it could once the requests that run now have ended.
    pub possible: bool,
    /// Processes that there would be.
    pub replicas: u32,
    pub needed_bytes: u64,
    pub budget_bytes: u64,
    pub free_bytes: u64,
    /// Models that would go to make room.
    pub evict: Vec<ModelId>,
    /// Resident models that may not be evicted now.
    pub protected: Vec<ModelId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UnloadReport {
    pub model_id: ModelId,
    /// Bytes that went back to the budget; 0 where the model wasn't loaded.
    pub freed_bytes: u64,
    pub unload_time: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ForgetReport {
    pub model_id: ModelId,
    /// Bytes that went back to the budget.
    pub freed_bytes: u64,
    /// Bytes that went from the disk.
    pub deleted_bytes: u64,
    /// Whether it is still listed: the configuration names it, or its files lie where models are found.
    pub listed: bool,
}

/// Everything that is known about a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    pub card: ModelCard,
    pub engine: String,
    pub path: String,
    pub pid: Option<u32>,
    /// Its processes, the first one first.
    pub replicas: Vec<ReplicaInfo>,
    pub predicted_bytes: Option<u64>,
    pub measured_bytes: Option<u64>,
    pub load_time: Option<Duration>,
    pub loaded_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub active_requests: u32,
    pub queued_requests: usize,
    pub request_count: u64,
    pub error_count: u64,
    pub stats: ModelStats,
    /// Deaths that count towards the `failed` state.
    pub recent_crashes: u32,
    pub last_error: Option<String>,
    /// The last lines that the engine printed.
    pub log_tail: Vec<String>,
    /// How it last came to be unloaded, where that is remembered.
    pub last_eviction: Option<Eviction>,
    /// What loading it would take now; `None` while its need isn't known.
    pub plan: Option<LoadPlan>,
}

/// One of a model's processes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplicaInfo {
    pub id: ModelId,
    pub status: ModelStatus,
    pub pid: Option<u32>,
    /// With the weights that it may share with others.
    pub footprint_bytes: u64,
    pub active_requests: u32,
    pub queued_requests: usize,
    pub recent_crashes: u32,
    pub last_error: Option<String>,
}

/// How fast a model answered, over the last requests that it answered whole; tokens over all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelStats {
    /// Requests that the percentiles are of.
    pub window: usize,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// From the call to the end of the answer, waiting included.
    pub latency_ms: Option<Percentiles>,
    /// From the call to the first token.
    pub first_token_ms: Option<Percentiles>,
    pub tokens_per_second: Option<Percentiles>,
    /// Whether the last requests went at less than half the usual pace.
    pub is_slow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    pub avg: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// A model that was ended, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Eviction {
    pub at: Timestamp,
    pub model: ModelId,
    #[serde(flatten)]
    pub reason: EvictionReason,
    /// What it was charged to the budget.
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", content = "for_model", rename_all = "snake_case")]
pub enum EvictionReason {
    /// Another model needed the room.
    RoomFor(ModelId),
    /// Models grew, or the machine ran short of memory.
    OverBudget,
    /// Nobody used it for its time to live.
    Idle,
    /// The server shut down.
    Draining,
    /// Somebody asked for it.
    Requested,
}

/// Something that went wrong with a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecentError {
    pub at: Timestamp,
    pub model: ModelId,
    pub message: String,
}

/// What somebody wants to know who looks for the cause of something.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostics {
    /// Since the registry started.
    pub uptime: Duration,
    pub machine: Option<MachineMemory>,
    /// Which memory the bytes below are of.
    pub memory_of: MemoryOf,
    pub configured_bytes: u64,
    /// Less than configured while that memory itself runs short.
    pub budget_bytes: u64,
    pub charged_bytes: u64,
    pub free_bytes: u64,
    /// The latest first.
    pub evictions: Vec<Eviction>,
    /// The latest first.
    pub errors: Vec<RecentError>,
}

/// Who runs and who waits, over all models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    pub running: u32,
    pub queued: usize,
    /// A model's own limit.
    pub max_queue: usize,
    /// Slots of the loaded models together.
    pub slots: u32,
    pub models: BTreeMap<ModelId, ModelQueue>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelQueue {
    pub running: u32,
    pub queued: usize,
    pub slots: u32,
}
