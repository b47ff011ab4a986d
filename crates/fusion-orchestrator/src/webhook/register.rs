//! From a registration to a webhook.

use fusion_types::{Error, Result, Tenant, Timestamp, id::WebhookId, job::JobEvent};
use serde_json::Value;

use super::{
    record::Webhook,
    signature::Key,
    view::{RegisterRequest, WebhookStatus},
};

/// Of one tenant: each is told of every change that it asked for.
const MOST: usize = 100;
const LONGEST_METADATA: usize = 16 * 1024;

/// # Errors
/// `invalid_value`.
pub(super) fn webhook(
    tenant: &Tenant,
    request: RegisterRequest,
    made: Option<&str>,
    now: Timestamp,
) -> Result<Webhook> {
    let secret = request
        .secret
        .or_else(|| made.map(str::to_owned))
        .unwrap_or_default();
    Key::read(&secret)?;
    let metadata = Value::Object(request.metadata.clone()).to_string();
    if metadata.len() > LONGEST_METADATA {
        return Err(Error::invalid(
            "metadata",
            format!("the metadata is larger than {LONGEST_METADATA} bytes"),
        ));
    }
    Ok(Webhook {
        webhook_id: WebhookId::generate(),
        tenant: tenant.clone(),
        url: request.url,
        events: distinct(request.events)?,
        secret,
        status: WebhookStatus::Active,
        created_at: now,
        metadata: request.metadata,
        last_triggered_at: None,
        success_count: 0,
        failure_count: 0,
        failing_since: None,
        enabled_at: None,
        previous: None,
    })
}

/// # Errors
/// `invalid_value` when the tenant has as many as it may.
pub(super) fn check_count(webhooks: usize) -> Result<()> {
    if webhooks >= MOST {
        return Err(Error::invalid(
            "url",
            format!("there are {MOST} webhooks already, and more are not allowed"),
        ));
    }
    Ok(())
}

fn distinct(events: Vec<JobEvent>) -> Result<Vec<JobEvent>> {
    let mut distinct = Vec::new();
    for event in events {
        if !distinct.contains(&event) {
            distinct.push(event);
        }
    }
    if distinct.is_empty() {
        return Err(Error::invalid("events", "there must be at least one event"));
    }
    Ok(distinct)
}
