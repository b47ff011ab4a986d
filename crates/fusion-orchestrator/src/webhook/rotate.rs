//! A webhook's secret and state, changed by whoever owns it.

use std::time::Duration;

use fusion_types::{
    Call, Error, Result,
    id::WebhookId,
    record::{Expect, RecordWrite},
};

use super::{
    RotateRequest, Rotated, WebhookStatus, WebhookView, Webhooks,
    record::{PreviousSecret, WEBHOOKS, Webhook, written},
    signature::{self, Key},
};

const OLD_KEPT: Duration = Duration::from_secs(24 * 3600);
const OLD_KEPT_MOST: Duration = Duration::from_secs(30 * 24 * 3600);

impl Webhooks {
    /// Another secret from now on. For a while deliveries carry a signature of the old one as well, so that a receiver can change
    /// over in between.
    ///
    /// # Errors
    /// `webhook_not_found`, `invalid_value`, `version_conflict` where somebody else changes it at the same time.
    pub async fn rotate(
        &self,
        call: &Call,
        id: &WebhookId,
        request: RotateRequest,
    ) -> Result<Rotated> {
        let kept = request
            .keep_old_seconds
            .map_or(OLD_KEPT, Duration::from_secs);
        if kept > OLD_KEPT_MOST {
            let most = OLD_KEPT_MOST.as_secs();
            let message = format!("keep_old_seconds must be at most {most}");
            return Err(Error::invalid("keep_old_seconds", message));
        }
        let made = request.secret.is_none().then(signature::made);
        let secret = request.secret.or_else(|| made.clone()).unwrap_or_default();
        Key::read(&secret)?;
        let (mut webhook, version) = self.webhook(call, id).await?;
        let until = self.parts.now().plus(kept);
        webhook.previous = Some(PreviousSecret {
            secret: std::mem::replace(&mut webhook.secret, secret),
            until,
        });
        self.put(&webhook, version).await?;
        Ok(Rotated {
            webhook_id: webhook.webhook_id,
            secret: made,
            old_secret_until: until,
        })
    }

    /// A disabled webhook is told of changes again, those from now on.
    ///
    /// # Errors
    /// `webhook_not_found`, `version_conflict` where somebody else changes it at the same time.
    pub async fn enable(&self, call: &Call, id: &WebhookId) -> Result<WebhookView> {
        let (mut webhook, version) = self.webhook(call, id).await?;
        if webhook.status == WebhookStatus::Disabled {
            webhook.status = WebhookStatus::Active;
            webhook.failing_since = None;
            webhook.enabled_at = Some(self.parts.now());
        }
        self.put(&webhook, version).await?;
        Ok(webhook.view())
    }

    async fn put(&self, webhook: &Webhook, version: u64) -> Result<()> {
        let key = webhook.webhook_id.as_str();
        let write =
            RecordWrite::put(WEBHOOKS, key, written(webhook)?).expecting(Expect::Version(version));
        self.parts.records.commit(vec![write]).await
    }
}
