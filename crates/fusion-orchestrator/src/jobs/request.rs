//! What clients ask of the jobs routes.

use fusion_types::{
    Error, Result, Timestamp,
    job::{JobSort, JobStatus, Operation, Seq},
    json,
    model::Priority,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The body of `POST /api/mcp/jobs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// A model reference; optional for the operations that choose their own models.
    #[serde(default)]
    pub model_id: Option<String>,
    pub operation: Operation,
    /// The operation's body.
    pub input: Value,
    #[serde(default)]
    pub callback_url: Option<String>,
    #[serde(default = "normal")]
    pub priority: Priority,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    #[serde(default, skip_serializing)]
    pub idempotency_key: Option<String>,
    /// Not started before.
    #[serde(default)]
    pub run_at: Option<Timestamp>,
    /// Of each attempt.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// How long the record is kept once the job is finished.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    #[serde(default)]
    pub depends_on: Vec<String>,
    #[serde(default)]
    pub group: Option<String>,
}

impl SubmitRequest {
    /// A request with nothing optional set.
    pub fn new(operation: Operation, input: Value) -> Self {
        Self {
            model_id: None,
            operation,
            input,
            callback_url: None,
            priority: normal(),
            metadata: Map::new(),
            idempotency_key: None,
            run_at: None,
            timeout_ms: None,
            max_attempts: None,
            ttl_seconds: None,
            depends_on: Vec::new(),
            group: None,
        }
    }
}

fn normal() -> Priority {
    Priority::Normal
}

const MOST_METADATA: usize = 16;

/// The query of `GET /api/mcp/jobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListParams {
    pub status: Option<JobStatus>,
    pub model_id: Option<String>,
    pub operation: Option<Operation>,
    pub group: Option<String>,
    /// From parameters named `metadata.KEY`.
    #[serde(skip)]
    pub metadata: Vec<(String, String)>,
    pub limit: Option<u32>,
    pub offset: Option<u64>,
    pub sort_by: Option<JobSort>,
    /// Newest first unless asked otherwise.
    pub order: Option<Order>,
}

impl ListParams {
    /// From the parameters as they stand in the address.
    ///
    /// # Errors
    /// `unknown_field`, `invalid_value`.
    pub fn read(all: Vec<(String, String)>) -> Result<Self> {
        let mut metadata = Vec::new();
        let mut named = Map::new();
        for (name, value) in all {
            if let Some(key) = name.strip_prefix("metadata.") {
                metadata.push((key.to_owned(), value));
                continue;
            }
            let value = match name.as_str() {
                "limit" | "offset" => number(&name, &value)?,
                _ => Value::from(value),
            };
            named.insert(name, value);
        }
        if metadata.len() > MOST_METADATA {
            let message =
                format!("a list is filtered by {MOST_METADATA} fields of the metadata at most");
            return Err(Error::invalid("metadata", message));
        }
        let params: Self = json::parse_value(Value::Object(named))?;
        Ok(Self { metadata, ..params })
    }
}

fn number(name: &str, value: &str) -> Result<Value> {
    let number = value.parse::<u64>();
    number.map(Value::from).map_err(|_| {
        Error::invalid(
            name,
            format!("{name} must be a whole number that isn't negative"),
        )
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Asc,
    Desc,
}

/// The query of `GET /api/mcp/sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncParams {
    /// The cursor of the page before; without it from the start of the history.
    pub since: Option<Seq>,
    pub limit: Option<u32>,
}
