//! Webhooks: what happened to jobs, told to whoever registered for it, at least once and signed.

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Call, Error, Result,
    id::{DeliveryId, WebhookId},
    outgoing::Outgoing,
    store::{JobStore, RecordStore},
};

mod dispatcher;
mod view;

pub use dispatcher::Dispatcher;
pub use view::{
    Attempt, Deleted, Deliveries, DeliveryStatus, DeliveryView, RegisterRequest, Registered,
    Tested, WebhookList, WebhookStatus, WebhookView,
};

#[derive(Clone)]
pub struct Config {
    /// Of one attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retry_count: u32,
    /// Signs what goes to a job's `callback_url`: `whsec_` and base64, or any other text.
    pub default_secret: String,
    /// How long deliveries are kept.
    pub job_ttl: Duration,
}

/// The handle that routes hold.
#[derive(Clone)]
pub struct Webhooks {
    parts: Arc<Parts>,
}

pub(crate) struct Parts {
    records: Arc<dyn RecordStore>,
    jobs: Arc<dyn JobStore>,
    outgoing: Arc<dyn Outgoing>,
    config: Config,
}

impl Webhooks {
    pub fn new(
        records: Arc<dyn RecordStore>,
        jobs: Arc<dyn JobStore>,
        outgoing: Arc<dyn Outgoing>,
        config: Config,
    ) -> Self {
        Self {
            parts: Arc::new(Parts {
                records,
                jobs,
                outgoing,
                config,
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
        let _ = (call, request);
        Err(Error::not_implemented("webhooks"))
    }

    pub async fn list(&self, call: &Call) -> Result<WebhookList> {
        let _ = call;
        Err(Error::not_implemented("webhooks"))
    }

    /// # Errors
    /// `webhook_not_found`.
    pub async fn get(&self, call: &Call, id: &WebhookId) -> Result<WebhookView> {
        let _ = (call, id);
        Err(Error::not_implemented("webhooks"))
    }

    /// # Errors
    /// `webhook_not_found`.
    pub async fn delete(&self, call: &Call, id: &WebhookId) -> Result<Deleted> {
        let _ = (call, id);
        Err(Error::not_implemented("webhooks"))
    }

    /// # Errors
    /// `webhook_not_found`.
    pub async fn deliveries(&self, call: &Call, id: &WebhookId) -> Result<Deliveries> {
        let _ = (call, id);
        Err(Error::not_implemented("webhooks"))
    }

    /// Sends a test delivery at once and tells how it went.
    ///
    /// # Errors
    /// `webhook_not_found`.
    pub async fn test(&self, call: &Call, id: &WebhookId) -> Result<Tested> {
        let _ = (call, id);
        Err(Error::not_implemented("webhooks"))
    }

    /// Sends a finished delivery again.
    ///
    /// # Errors
    /// `webhook_not_found`, `delivery_not_found`.
    pub async fn redeliver(
        &self,
        call: &Call,
        id: &WebhookId,
        delivery: &DeliveryId,
    ) -> Result<DeliveryView> {
        let _ = (call, id, delivery);
        Err(Error::not_implemented("webhooks"))
    }
}
