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
use crate::jobs::GroupView;

/// Webhooks by id.
pub(super) const WEBHOOKS: &str = "webhooks";
/// Deliveries that are still to be made; one leaves it for [`HISTORY`] in the same commit.
pub(super) const OUTBOX: &str = "webhook_outbox";
/// Deliveries that were made or given up.
pub(super) const HISTORY: &str = "webhook_deliveries";
/// How far the change log was read.
pub(super) const CURSORS: &str = "cursors";
pub(super) const CURSOR: &str = "webhooks";
/// Callbacks of groups that are not finished, by tenant and group.
pub(super) const GROUPS: &str = "job_groups";
/// Stands for the webhook's id where a job named the address itself.
pub(super) const CALLBACK: &str = "callback";
/// The same for a group of jobs.
pub(super) const GROUP_CALLBACK: &str = "group_callback";
/// The event of a group's callback.
pub(super) const GROUP_FINISHED: &str = "group.finished";

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
    /// Since when no attempt has succeeded, where the last one failed.
    #[serde(default)]
    pub(super) failing_since: Option<Timestamp>,
    /// When it was last enabled again: what happened before is not told.
    #[serde(default)]
    pub(super) enabled_at: Option<Timestamp>,
    /// Signs as well for a while after a rotation.
    #[serde(default)]
    pub(super) previous: Option<PreviousSecret>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PreviousSecret {
    pub(super) secret: String,
    pub(super) until: Timestamp,
}

/// Who is to be told when a group of jobs is finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct GroupCallback {
    pub(super) tenant: Tenant,
    pub(super) group: String,
    pub(super) url: String,
}

impl GroupCallback {
    pub(super) fn key(tenant: &Tenant, group: &str) -> String {
        format!("{}/{group}", tenant.as_str())
    }
}

impl Webhook {
    /// Whether it is told of the change: of its tenant, of an event asked for, and not from before it was there.
    pub(super) fn wants(&self, change: &Change) -> bool {
        self.status == WebhookStatus::Active
            && self.tenant == change.tenant
            && self.events.contains(&change.event)
            && self.enabled_at.unwrap_or(self.created_at) <= change.at
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
            failing_since: self.failing_since,
            success_count: self.success_count,
            failure_count: self.failure_count,
        }
    }
}

/// One change for one address. What is sent is read from the change log, so it is the same at each attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) delivery_id: DeliveryId,
    /// `None` for the `callback_url` of a job or a group.
    pub(super) webhook_id: Option<WebhookId>,
    /// What a group's callback tells.
    #[serde(default)]
    pub(super) group: Option<GroupView>,
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
            group: None,
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
        match (&self.webhook_id, &self.group) {
            (Some(id), _) => id.as_str(),
            (None, Some(_)) => GROUP_CALLBACK,
            (None, None) => CALLBACK,
        }
    }

    pub(super) fn event_name(&self) -> &'static str {
        match &self.group {
            Some(_) => GROUP_FINISHED,
            None => self.event.as_str(),
        }
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
            event: self.event_name(),
            delivery_id: self.delivery_id,
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
