//! Webhooks: what happened to jobs, told to whoever registered for it, at least once and signed.

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Call, Error, ErrorCode, Result, Timestamp,
    id::{DeliveryId, WebhookId},
    outgoing::Outgoing,
    record::{Expect, Record, RecordWrite},
    store::{JobStore, RecordStore},
};
use serde_json::json;
use tokio::sync::Notify;

mod attempt;
mod breaker;
mod dispatcher;
mod group;
mod intake;
mod record;
mod register;
mod retry;
mod rotate;
mod schedule;
mod signature;
mod view;

pub use crate::jobs::Clock;
pub use dispatcher::Dispatcher;
pub use view::{
    Attempt, Deleted, Deliveries, DeliveryStatus, DeliveryView, RegisterRequest, Registered,
    RotateRequest, Rotated, Tested, WebhookList, WebhookStatus, WebhookView,
};

use record::{Delivery, HISTORY, OUTBOX, WEBHOOKS, Webhook, all, key_prefix, read, written};
use signature::{Key, Signed};

/// The event of a test delivery.
const TEST_EVENT: &str = "webhook.test";
/// Most deliveries in one answer.
const MOST_LISTED: u32 = 1000;
/// Records deleted in one commit.
const BATCH: usize = 500;

#[derive(Clone)]
pub struct Config {
    /// Of one attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retry_count: u32,
    /// A webhook none of whose deliveries has succeeded for this long is disabled.
    pub disable_after: Duration,
    /// Signs what goes to a job's `callback_url`: `whsec_` and base64, or any other text.
    pub default_secret: String,
    /// How long deliveries are kept.
    pub job_ttl: Duration,
}

/// Whether a secret can sign: for a configuration to check what it is given.
///
/// # Errors
/// `invalid_value`.
pub fn check_secret(secret: &str) -> Result<()> {
    Key::read(secret).map(|_| ())
}

/// The handle that routes hold.
#[derive(Clone)]
pub struct Webhooks {
    parts: Arc<Parts>,
}

struct Parts {
    records: Arc<dyn RecordStore>,
    jobs: Arc<dyn JobStore>,
    outgoing: Arc<dyn Outgoing>,
    config: Config,
    clock: Clock,
    /// Tells the dispatcher that there are deliveries that it didn't make.
    more: Notify,
}

impl Parts {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn expiry(&self, delivery: &Delivery) -> Timestamp {
        delivery.created_at.plus(self.config.job_ttl)
    }
}

impl Webhooks {
    pub fn new(
        records: Arc<dyn RecordStore>,
        jobs: Arc<dyn JobStore>,
        outgoing: Arc<dyn Outgoing>,
        config: Config,
    ) -> Self {
        Self::with_clock(records, jobs, outgoing, config, Arc::new(Timestamp::now))
    }

    pub fn with_clock(
        records: Arc<dyn RecordStore>,
        jobs: Arc<dyn JobStore>,
        outgoing: Arc<dyn Outgoing>,
        config: Config,
        clock: Clock,
    ) -> Self {
        let more = Notify::new();
        Self {
            parts: Arc::new(Parts {
                records,
                jobs,
                outgoing,
                config,
                clock,
                more,
            }),
        }
    }

    /// What sends the deliveries; one a process.
    pub fn dispatcher(&self) -> Dispatcher {
        Dispatcher::new(Arc::clone(&self.parts))
    }

    /// # Errors
    /// `url_not_allowed`, `invalid_value`, `store_unavailable`.
    pub async fn register(&self, call: &Call, request: RegisterRequest) -> Result<Registered> {
        self.parts
            .outgoing
            .check(&request.url)
            .map_err(|error| error.with_param("url"))?;
        let made = request.secret.is_none().then(signature::made);
        let webhook = register::webhook(&call.tenant, request, made.as_deref(), self.parts.now())?;
        register::check_count(self.webhooks(call).await?.len())?;
        let key = webhook.webhook_id.as_str();
        let write = RecordWrite::put(WEBHOOKS, key, written(&webhook)?).expecting(Expect::Absent);
        self.parts.records.commit(vec![write]).await?;
        Ok(Registered {
            webhook_id: webhook.webhook_id,
            url: webhook.url,
            events: webhook.events,
            status: webhook.status,
            created_at: webhook.created_at,
            secret: made,
        })
    }

    /// The tenant's webhooks, oldest first.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn list(&self, call: &Call) -> Result<WebhookList> {
        let webhooks = self
            .webhooks(call)
            .await?
            .into_iter()
            .map(Webhook::view)
            .collect();
        Ok(WebhookList { webhooks })
    }

    /// # Errors
    /// `webhook_not_found`.
    pub async fn get(&self, call: &Call, id: &WebhookId) -> Result<WebhookView> {
        Ok(self.webhook(call, id).await?.0.view())
    }

    /// Forgets the webhook and its deliveries, those not yet made included.
    ///
    /// # Errors
    /// `webhook_not_found`.
    pub async fn delete(&self, call: &Call, id: &WebhookId) -> Result<Deleted> {
        self.webhook(call, id).await?;
        self.parts
            .records
            .commit(vec![RecordWrite::delete(WEBHOOKS, id.as_str())])
            .await?;
        for namespace in [OUTBOX, HISTORY] {
            let found = all(&*self.parts.records, namespace, &key_prefix(id.as_str())).await?;
            for batch in found.chunks(BATCH) {
                let deletes = batch
                    .iter()
                    .map(|record| RecordWrite::delete(namespace, &record.key));
                self.parts.records.commit(deletes.collect()).await?;
            }
        }
        Ok(Deleted {
            webhook_id: id.clone(),
            status: "deleted",
        })
    }

    /// The newest deliveries of the webhook, newest first.
    ///
    /// # Errors
    /// `webhook_not_found`.
    pub async fn deliveries(&self, call: &Call, id: &WebhookId) -> Result<Deliveries> {
        self.webhook(call, id).await?;
        let prefix = key_prefix(id.as_str());
        let mut found: Vec<Delivery> = Vec::new();
        for namespace in [OUTBOX, HISTORY] {
            for record in self
                .parts
                .records
                .list(namespace, &prefix, None, MOST_LISTED)
                .await?
            {
                found.push(read(record)?);
            }
        }
        found.sort_by_key(|delivery| std::cmp::Reverse(delivery.seq));
        found.truncate(MOST_LISTED as usize);
        Ok(Deliveries {
            deliveries: found.into_iter().map(Delivery::view).collect(),
        })
    }

    /// Sends a signed delivery without a job at once and tells how it went; it isn't recorded.
    ///
    /// # Errors
    /// `webhook_not_found`.
    pub async fn test(&self, call: &Call, id: &WebhookId) -> Result<Tested> {
        let (webhook, _) = self.webhook(call, id).await?;
        let at = self.parts.now();
        let body = json!({ "event": TEST_EVENT, "timestamp": at, "job": null })
            .to_string()
            .into_bytes();
        let signed = Signed {
            delivery: &DeliveryId::generate(),
            webhook: id.as_str(),
            event: TEST_EVENT,
            timestamp: at.as_seconds(),
            body: &body,
        };
        let (key, older) = attempt::keys(&webhook, at)?;
        let headers = signed.headers(&key, &older)?;
        let result = attempt::post(&self.parts, webhook.url, headers, body).await;
        let delivered = result
            .as_ref()
            .is_ok_and(|response| (200..300).contains(&response.status));
        Ok(Tested {
            webhook_id: id.clone(),
            delivered,
            attempt: attempt::described(&result, at),
        })
    }

    /// Sends a finished delivery again, with a fresh schedule; one that is pending stays as it is.
    ///
    /// # Errors
    /// `webhook_not_found`, `delivery_not_found`, `invalid_value` for a disabled webhook.
    pub async fn redeliver(
        &self,
        call: &Call,
        id: &WebhookId,
        delivery: &DeliveryId,
    ) -> Result<DeliveryView> {
        let (webhook, _) = self.webhook(call, id).await?;
        if webhook.status == WebhookStatus::Disabled {
            return Err(Error::invalid("webhook_id", "the webhook is disabled"));
        }
        let prefix = key_prefix(id.as_str());
        if let Some((pending, _)) = self.delivery(OUTBOX, &prefix, delivery).await? {
            return Ok(pending.view());
        }
        let Some((mut again, version)) = self.delivery(HISTORY, &prefix, delivery).await? else {
            return Err(Error::new(
                ErrorCode::DeliveryNotFound,
                format!("there is no delivery {delivery}"),
            ));
        };
        again.status = DeliveryStatus::Pending;
        again.tries = 0;
        again.next_attempt_at = Some(self.parts.now());
        let put = RecordWrite::put(OUTBOX, again.key(), written(&again)?)
            .expecting(Expect::Absent)
            .expiring(self.parts.expiry(&again));
        let delete = RecordWrite::delete(HISTORY, again.key()).expecting(Expect::Version(version));
        self.parts.records.commit(vec![put, delete]).await?;
        self.parts.more.notify_one();
        Ok(again.view())
    }

    async fn delivery(
        &self,
        namespace: &str,
        prefix: &str,
        id: &DeliveryId,
    ) -> Result<Option<(Delivery, u64)>> {
        for record in all(&*self.parts.records, namespace, prefix).await? {
            let (delivery, version) = versioned::<Delivery>(record)?;
            if delivery.delivery_id == *id {
                return Ok(Some((delivery, version)));
            }
        }
        Ok(None)
    }

    async fn webhooks(&self, call: &Call) -> Result<Vec<Webhook>> {
        let found = all(&*self.parts.records, WEBHOOKS, "").await?;
        let webhooks: Result<Vec<Webhook>> = found.into_iter().map(read).collect();
        Ok(webhooks?
            .into_iter()
            .filter(|webhook| webhook.tenant == call.tenant)
            .collect())
    }

    async fn webhook(&self, call: &Call, id: &WebhookId) -> Result<(Webhook, u64)> {
        let found = self
            .parts
            .records
            .get(WEBHOOKS, id.as_str())
            .await?
            .map(versioned::<Webhook>)
            .transpose()?;
        found
            .filter(|(webhook, _)| webhook.tenant == call.tenant)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::WebhookNotFound,
                    format!("there is no webhook {id}"),
                )
            })
    }
}

fn versioned<T: serde::de::DeserializeOwned>(record: Record) -> Result<(T, u64)> {
    let version = record.version;
    Ok((read(record)?, version))
}
