//! What the store keeps of webhooks, and under which keys.

use fusion_types::{
    Error, Result, Tenant, Timestamp,
    id::{DeliveryId, JobId, WebhookId},
    job::{Change, JobEvent, Seq},
    record::Record,
    store::RecordStore,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::view::{Attempt, DeliveryStatus, DeliveryView, WebhookStatus, WebhookView};

/// Webhooks by id.
pub(super) const WEBHOOKS: &str = "webhooks";
/// Deliveries that are still to be made; one leaves it for [`HISTORY`] in the same commit.
pub(super) const OUTBOX: &str = "webhook_outbox";
/// Deliveries that were made or given up.
pub(super) const HISTORY: &str = "webhook_deliveries";
/// How far the change log was read.
pub(super) const CURSORS: &str = "cursors";
pub(super) const CURSOR: &str = "webhooks";
/// Stands for the webhook's id where a job named the address itself.
pub(super) const CALLBACK: &str = "callback";

const PAGE: u32 = 500;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Webhook {
    pub(super) webhook_id: WebhookId,
    pub(super) tenant: Tenant,
    pub(super) url: String,
    pub(super) events: Vec<JobEvent>,
    pub(super) secret: String,
    pub(super) status: WebhookStatus,
    pub(super) created_at: Timestamp,
    pub(super) metadata: Map<String, Value>,
    pub(super) last_triggered_at: Option<Timestamp>,
    pub(super) success_count: u64,
    pub(super) failure_count: u64,
}

impl Webhook {
    /// Whether it is told of the change: of its tenant, of an event asked for, and not from before it was there.
    pub(super) fn wants(&self, change: &Change) -> bool {
        self.status == WebhookStatus::Active
            && self.tenant == change.tenant
            && self.events.contains(&change.event)
            && self.created_at <= change.at
    }

    pub(super) fn view(self) -> WebhookView {
        WebhookView {
            webhook_id: self.webhook_id,
            url: self.url,
            events: self.events,
            status: self.status,
            created_at: self.created_at,
            metadata: self.metadata,
            last_triggered_at: self.last_triggered_at,
            success_count: self.success_count,
            failure_count: self.failure_count,
        }
    }
}

/// One change for one address. What is sent is read from the change log, so it is the same at each attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) delivery_id: DeliveryId,
    /// `None` for a job's `callback_url`.
    pub(super) webhook_id: Option<WebhookId>,
    pub(super) url: String,
    pub(super) seq: Seq,
    pub(super) event: JobEvent,
    pub(super) job_id: JobId,
    pub(super) status: DeliveryStatus,
    pub(super) attempts: Vec<Attempt>,
    /// Attempts since it was made or asked for again.
    pub(super) tries: u32,
    pub(super) next_attempt_at: Option<Timestamp>,
    pub(super) created_at: Timestamp,
}

impl Delivery {
    pub(super) fn new(
        webhook_id: Option<WebhookId>,
        url: &str,
        change: &Change,
        now: Timestamp,
    ) -> Self {
        Self {
            delivery_id: DeliveryId::generate(),
            webhook_id,
            url: url.to_owned(),
            seq: change.seq,
            event: change.event,
            job_id: change.job.job_id.clone(),
            status: DeliveryStatus::Pending,
            attempts: Vec::new(),
            tries: 0,
            next_attempt_at: Some(now),
            created_at: now,
        }
    }

    pub(super) fn webhook_name(&self) -> &str {
        self.webhook_id.as_ref().map_or(CALLBACK, WebhookId::as_str)
    }

    /// One for each change and webhook; the newest of a webhook come first.
    pub(super) fn key(&self) -> String {
        format!(
            "{}{:020}",
            key_prefix(self.webhook_name()),
            u64::MAX - self.seq.0
        )
    }

    pub(super) fn view(self) -> DeliveryView {
        DeliveryView {
            delivery_id: self.delivery_id,
            event: self.event,
            job_id: self.job_id,
            status: self.status,
            attempts: self.attempts,
            next_attempt_at: self.next_attempt_at,
        }
    }
}

/// What the keys of a webhook's deliveries start with.
pub(super) fn key_prefix(webhook: &str) -> String {
    format!("{webhook}/")
}

pub(super) fn read<T: DeserializeOwned>(record: Record) -> Result<T> {
    serde_json::from_value(record.value).map_err(|error| {
        Error::internal(format!("the record {} can't be read: {error}", record.key))
    })
}

pub(super) fn written<T: Serialize>(record: &T) -> Result<Value> {
    serde_json::to_value(record).map_err(|error| Error::internal(error.to_string()))
}

/// Every record whose key starts with the prefix.
pub(super) async fn all(
    records: &dyn RecordStore,
    namespace: &str,
    prefix: &str,
) -> Result<Vec<Record>> {
    let mut found: Vec<Record> = Vec::new();
    loop {
        let after = found.last().map(|record| record.key.clone());
        let page = records
            .list(namespace, prefix, after.as_deref(), PAGE)
            .await?;
        let last = page.len() < PAGE as usize;
        found.extend(page);
        if last {
            return Ok(found);
        }
    }
}
