//! What clients ask of the webhook routes, and what they are answered.

use fusion_types::{
    Timestamp,
    id::{DeliveryId, JobId, WebhookId},
    job::JobEvent,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The body of `POST /api/mcp/webhook`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    pub url: String,
    pub events: Vec<JobEvent>,
    /// `whsec_` and base64, or any other text; made here where it is left out.
    #[serde(default)]
    pub secret: Option<String>,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registered {
    pub webhook_id: WebhookId,
    pub url: String,
    pub events: Vec<JobEvent>,
    pub status: WebhookStatus,
    pub created_at: Timestamp,
    /// This once, and only where it was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookStatus {
    Active,
    /// The endpoint said that it is gone, or failed for days.
    Disabled,
}

/// A webhook without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WebhookView {
    pub webhook_id: WebhookId,
    pub url: String,
    pub events: Vec<JobEvent>,
    pub status: WebhookStatus,
    pub created_at: Timestamp,
    pub metadata: Map<String, Value>,
    pub last_triggered_at: Option<Timestamp>,
    /// Since when no attempt has succeeded; after days of it the webhook is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    pub success_count: u64,
    /// Attempts that failed.
    pub failure_count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WebhookList {
    pub webhooks: Vec<WebhookView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deleted {
    pub webhook_id: WebhookId,
    /// Always `deleted`.
    pub status: &'static str,
}

/// The body of `POST /api/mcp/webhooks/{id}/rotate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotateRequest {
    /// Made here where it is left out.
    pub secret: Option<String>,
    /// How long deliveries are signed with the old secret as well: 24 hours unless said otherwise.
    pub keep_old_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rotated {
    pub webhook_id: WebhookId,
    /// This once, and only where it was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    pub old_secret_until: Timestamp,
}

/// Newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deliveries {
    pub deliveries: Vec<DeliveryView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeliveryView {
    pub delivery_id: DeliveryId,
    /// `job.…`, or `group.finished`.
    pub event: &'static str,
    pub job_id: JobId,
    pub status: DeliveryStatus,
    pub attempts: Vec<Attempt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    Pending,
    Delivered,
    Failed,
}

/// One POST and what became of it: a status, or why there was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a test delivery met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tested {
    pub webhook_id: WebhookId,
    pub delivered: bool,
    #[serde(flatten)]
    pub attempt: Attempt,
}
