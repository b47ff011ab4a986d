//! One attempt at one delivery: read it, sign it, send it, record what came of it.

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    id::WebhookId,
    job::{Change, Job, JobEvent, Seq},
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

/// Beyond the timeout that is asked of the connection itself.
const SLACK: Duration = Duration::from_millis(500);
/// Between tries while the store can't.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The body of a delivery.
#[derive(Serialize)]
struct Payload<'a> {
    event: JobEvent,
    /// When it happened.
    timestamp: Timestamp,
    job: &'a Job,
}

/// A pending delivery as it is stored, and what is needed to send it.
struct Pending {
    delivery: Delivery,
    version: u64,
    secret: String,
    change: Change,
}

/// Attempts the delivery; answers when to do so again, if at all.
pub(super) async fn attempt(parts: Arc<Parts>, key: String) -> Option<Timestamp> {
    let pending = match load(&parts, &key).await {
        Ok(Some(pending)) => pending,
        Ok(None) => return None,
        Err(error) => {
            tracing::warn!(%error, "a delivery can't be read");
            return Some(parts.now().plus(STORE_PAUSE));
        }
    };
    let at = parts.now();
    let result = send(&parts, &pending, at).await;
    let (delivery, next) = concluded(pending.delivery, &result, at, parts.config.retry_count);
    metrics::counter!("fusiond_webhook_attempts_total", "outcome" => outcome(next)).increment(1);
    record(&parts, &delivery, pending.version, next).await;
    delivery.next_attempt_at
}

/// What there is to send; `None` where nobody waits for it any more.
async fn load(parts: &Parts, key: &str) -> Result<Option<Pending>> {
    let Some(record) = parts.records.get(OUTBOX, key).await? else {
        return Ok(None);
    };
    let version = record.version;
    let delivery: Delivery = read(record)?;
    let secret = match &delivery.webhook_id {
        None => Some(parts.config.default_secret.clone()),
        Some(id) => active(parts, id).await?.map(|webhook| webhook.secret),
    };
    let change = change(parts, delivery.seq).await?;
    let (Some(secret), Some(change)) = (secret, change) else {
        let expect = Expect::Version(version);
        parts
            .records
            .commit(vec![RecordWrite::delete(OUTBOX, key).expecting(expect)])
            .await?;
        return Ok(None);
    };
    Ok(Some(Pending {
        delivery,
        version,
        secret,
        change,
    }))
}

async fn active(parts: &Parts, id: &WebhookId) -> Result<Option<Webhook>> {
    let Some(record) = parts.records.get(WEBHOOKS, id.as_str()).await? else {
        return Ok(None);
    };
    let webhook: Webhook = read(record)?;
    Ok(Some(webhook).filter(|webhook| webhook.status == WebhookStatus::Active))
}

async fn change(parts: &Parts, seq: Seq) -> Result<Option<Change>> {
    let mut found = parts.jobs.changes(Seq(seq.0.saturating_sub(1)), 1).await?;
    Ok(found.pop().filter(|change| change.seq == seq))
}

async fn send(parts: &Parts, pending: &Pending, at: Timestamp) -> Result<OutResponse> {
    let change = &pending.change;
    let payload = Payload {
        event: change.event,
        timestamp: change.at,
        job: &change.job,
    };
    let body = serde_json::to_vec(&payload).map_err(|error| Error::internal(error.to_string()))?;
    let signed = Signed {
        delivery: &pending.delivery.delivery_id,
        webhook: pending.delivery.webhook_name(),
        event: change.event.as_str(),
        timestamp: at.as_seconds(),
        body: &body,
    };
    let headers = signed.headers(&Key::read(&pending.secret)?)?;
    post(parts, pending.delivery.url.clone(), headers, body).await
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
fn counted(mut webhook: Webhook, at: Timestamp, next: Next) -> Webhook {
    webhook.last_triggered_at = webhook.last_triggered_at.max(Some(at));
    match next {
        Next::Delivered => webhook.success_count += 1,
        Next::Retry(_) | Next::Failed | Next::Gone => webhook.failure_count += 1,
    }
    if next == Next::Gone {
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
        let webhook = counted(read(record)?, at, next);
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
