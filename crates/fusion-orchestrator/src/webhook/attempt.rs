//! One attempt at one delivery: read it, sign it, send it, record what came of it.

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    id::WebhookId,
    job::{Change, Job, Seq},
    outgoing::{OutRequest, OutResponse},
    record::{Expect, RecordWrite},
};
use serde::Serialize;
use tokio::time;

use super::{
    Parts,
    record::{Delivery, HISTORY, OUTBOX, WEBHOOKS, Webhook, read, written},
    retry::{Next, after_attempt},
    signature::{Key, Signed},
    view::{Attempt, DeliveryStatus, WebhookStatus},
};
use crate::jobs::GroupView;

/// Beyond the timeout that is asked of the connection itself.
const SLACK: Duration = Duration::from_millis(500);
/// Between tries while the store can't.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The body of a delivery.
#[derive(Serialize)]
struct Payload<'a> {
    event: &'a str,
    /// When it happened.
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a Job>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a GroupView>,
}

/// A pending delivery as it is stored, and what is needed to send it.
struct Pending {
    delivery: Delivery,
    version: u64,
    key: Key,
    older: Vec<Key>,
    content: Content,
}

enum Content {
    Change(Box<Change>),
    Group(GroupView),
}

/// What became of an attempt.
pub(super) struct Attempted {
    /// When to try again, if at all.
    pub(super) again: Option<Timestamp>,
    /// Whether the endpoint works; `None` where it was not asked.
    pub(super) worked: Option<bool>,
}

impl Attempted {
    fn unasked(again: Option<Timestamp>) -> Self {
        Self {
            again,
            worked: None,
        }
    }
}

pub(super) async fn attempt(parts: Arc<Parts>, key: String) -> Attempted {
    let pending = match load(&parts, &key).await {
        Ok(Some(pending)) => pending,
        Ok(None) => return Attempted::unasked(None),
        Err(error) => {
            tracing::warn!(%error, "a delivery can't be read");
            return Attempted::unasked(Some(parts.now().plus(STORE_PAUSE)));
        }
    };
    let at = parts.now();
    let result = send(&parts, &pending, at).await;
    let (delivery, next) = concluded(pending.delivery, &result, at, parts.config.retry_count);
    metrics::counter!("fusiond_webhook_attempts_total", "outcome" => outcome(next)).increment(1);
    record(&parts, &delivery, pending.version, next).await;
    Attempted {
        again: delivery.next_attempt_at,
        worked: Some(next == Next::Delivered),
    }
}

/// What there is to send; `None` where nobody waits for it any more.
async fn load(parts: &Parts, key: &str) -> Result<Option<Pending>> {
    let Some(record) = parts.records.get(OUTBOX, key).await? else {
        return Ok(None);
    };
    let version = record.version;
    let delivery: Delivery = read(record)?;
    let webhook = match &delivery.webhook_id {
        None => None,
        Some(id) => match webhook(parts, id).await? {
            None => return drop_delivery(parts, key, version).await,
            Some(webhook) if webhook.status == WebhookStatus::Disabled => {
                give_up(parts, delivery, version).await?;
                return Ok(None);
            }
            Some(webhook) => Some(webhook),
        },
    };
    let content = match &delivery.group {
        Some(group) => Content::Group(group.clone()),
        None => match change(parts, delivery.seq).await? {
            None => return drop_delivery(parts, key, version).await,
            Some(change) => Content::Change(Box::new(change)),
        },
    };
    let (key, older) = match &webhook {
        Some(webhook) => keys(webhook, parts.now())?,
        None => (Key::read(&parts.config.default_secret)?, Vec::new()),
    };
    Ok(Some(Pending {
        delivery,
        version,
        key,
        older,
        content,
    }))
}

/// What signs for the webhook: its secret, and the one before for as long as it was asked for.
pub(super) fn keys(webhook: &Webhook, now: Timestamp) -> Result<(Key, Vec<Key>)> {
    let previous = webhook.previous.iter().filter(|old| now < old.until);
    let older: Result<Vec<Key>> = previous.map(|old| Key::read(&old.secret)).collect();
    Ok((Key::read(&webhook.secret)?, older?))
}

/// Nobody waits for it, or there is nothing left to tell.
async fn drop_delivery(parts: &Parts, key: &str, version: u64) -> Result<Option<Pending>> {
    let delete = RecordWrite::delete(OUTBOX, key).expecting(Expect::Version(version));
    parts.records.commit(vec![delete]).await?;
    Ok(None)
}

/// Its webhook was disabled meanwhile: kept as failed, so that it can be asked for again.
async fn give_up(parts: &Parts, mut delivery: Delivery, version: u64) -> Result<()> {
    (delivery.status, delivery.next_attempt_at) = (DeliveryStatus::Failed, None);
    let key = delivery.key();
    let expiry = parts.expiry(&delivery);
    let writes = vec![
        RecordWrite::put(HISTORY, &key, written(&delivery)?).expiring(expiry),
        RecordWrite::delete(OUTBOX, &key).expecting(Expect::Version(version)),
    ];
    parts.records.commit(writes).await
}

async fn webhook(parts: &Parts, id: &WebhookId) -> Result<Option<Webhook>> {
    let record = parts.records.get(WEBHOOKS, id.as_str()).await?;
    record.map(read).transpose()
}

async fn change(parts: &Parts, seq: Seq) -> Result<Option<Change>> {
    let mut found = parts.jobs.changes(Seq(seq.0.saturating_sub(1)), 1).await?;
    Ok(found.pop().filter(|change| change.seq == seq))
}

async fn send(parts: &Parts, pending: &Pending, at: Timestamp) -> Result<OutResponse> {
    let delivery = &pending.delivery;
    let event = delivery.event_name();
    let payload = match &pending.content {
        Content::Change(change) => Payload {
            event,
            timestamp: change.at,
            job: Some(&change.job),
            group: None,
        },
        Content::Group(group) => Payload {
            event,
            timestamp: delivery.created_at,
            job: None,
            group: Some(group),
        },
    };
    let body = serde_json::to_vec(&payload).map_err(|error| Error::internal(error.to_string()))?;
    let signed = Signed {
        delivery: &delivery.delivery_id,
        webhook: delivery.webhook_name(),
        event,
        timestamp: at.as_seconds(),
        body: &body,
    };
    let headers = signed.headers(&pending.key, &pending.older)?;
    post(parts, delivery.url.clone(), headers, body).await
}

/// A POST that ends in time, whatever is at the other end.
pub(super) async fn post(
    parts: &Parts,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
) -> Result<OutResponse> {
    let timeout = parts.config.timeout;
    let request = OutRequest {
        url,
        headers,
        body,
        timeout,
    };
    match time::timeout(timeout + SLACK, parts.outgoing.post(request)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Error::new(
            ErrorCode::Timeout,
            "the endpoint did not answer in time",
        )),
    }
}

/// What an attempt looks like in the record.
pub(super) fn described(result: &Result<OutResponse>, at: Timestamp) -> Attempt {
    match result {
        Ok(response) => Attempt {
            at,
            status: Some(response.status),
            error: None,
        },
        Err(error) => Attempt {
            at,
            status: None,
            error: Some(error.message.clone()),
        },
    }
}

/// The delivery after an attempt.
fn concluded(
    mut delivery: Delivery,
    result: &Result<OutResponse>,
    at: Timestamp,
    retry_count: u32,
) -> (Delivery, Next) {
    delivery.attempts.push(described(result, at));
    delivery.tries += 1;
    let next = after_attempt(result, delivery.tries, retry_count);
    (delivery.status, delivery.next_attempt_at) = match next {
        Next::Delivered => (DeliveryStatus::Delivered, None),
        Next::Retry(delay) => (DeliveryStatus::Pending, Some(at.plus(delay))),
        Next::Failed | Next::Gone => (DeliveryStatus::Failed, None),
    };
    (delivery, next)
}

/// The webhook after an attempt.
fn counted(mut webhook: Webhook, at: Timestamp, next: Next, disable_after: Duration) -> Webhook {
    webhook.last_triggered_at = webhook.last_triggered_at.max(Some(at));
    if next == Next::Delivered {
        webhook.success_count += 1;
        webhook.failing_since = None;
        return webhook;
    }
    webhook.failure_count += 1;
    let since = *webhook.failing_since.get_or_insert(at);
    if next == Next::Gone || at.since(since) >= disable_after {
        tracing::warn!(webhook_id = %webhook.webhook_id, "a webhook is disabled: its endpoint is gone, or failed for too long");
        webhook.status = WebhookStatus::Disabled;
    }
    webhook
}

/// Commits the outcome. It was sent already, so it isn't let go of while the store can't.
async fn record(parts: &Parts, delivery: &Delivery, version: u64, next: Next) {
    loop {
        match try_record(parts, delivery, version, next).await {
            Ok(()) => return,
            // Another attempt counted at the same time, or the delivery itself is gone: the next look tells.
            Err(error) if error.code == ErrorCode::VersionConflict => {}
            Err(error) if error.code.is_retryable() => time::sleep(STORE_PAUSE).await,
            Err(error) => {
                tracing::error!(delivery_id = %delivery.delivery_id, %error, "an attempt can't be recorded");
                return;
            }
        }
    }
}

async fn try_record(parts: &Parts, delivery: &Delivery, version: u64, next: Next) -> Result<()> {
    let key = delivery.key();
    let stored = parts.records.get(OUTBOX, &key).await?;
    if stored.is_none_or(|record| record.version != version) {
        return Ok(());
    }
    let namespace = if delivery.status == DeliveryStatus::Pending {
        OUTBOX
    } else {
        HISTORY
    };
    let put =
        RecordWrite::put(namespace, &key, written(delivery)?).expiring(parts.expiry(delivery));
    let mut writes = if namespace == OUTBOX {
        vec![put.expecting(Expect::Version(version))]
    } else {
        vec![
            put,
            RecordWrite::delete(OUTBOX, &key).expecting(Expect::Version(version)),
        ]
    };
    if let Some(id) = &delivery.webhook_id
        && let Some(record) = parts.records.get(WEBHOOKS, id.as_str()).await?
    {
        let expect = Expect::Version(record.version);
        let at = delivery
            .attempts
            .last()
            .map_or_else(|| parts.now(), |attempt| attempt.at);
        let webhook = counted(read(record)?, at, next, parts.config.disable_after);
        writes.push(RecordWrite::put(WEBHOOKS, id.as_str(), written(&webhook)?).expecting(expect));
    }
    parts.records.commit(writes).await
}

fn outcome(next: Next) -> &'static str {
    match next {
        Next::Delivered => "delivered",
        Next::Retry(_) => "retried",
        Next::Failed | Next::Gone => "failed",
    }
}
