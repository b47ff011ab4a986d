//! The servers that share a store: each says again and again that it is there.

use std::{sync::Arc, time::Duration};

use fusion_models::Models;
use fusion_types::{
    Result, Timestamp, model::ModelStatus, record::RecordWrite, store::RecordStore,
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "nodes";
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Who wasn't heard of for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(20);
/// More servers than anybody will let share a store.
const MOST: u32 = 1000;

/// This server as the others see it.
#[derive(Clone)]
pub(crate) struct Node {
    records: Arc<dyn RecordStore>,
    models: Models,
    /// Unique to this run.
    id: String,
    url: String,
    started_at: Timestamp,
}

impl Node {
    pub(crate) fn new(
        records: Arc<dyn RecordStore>,
        models: Models,
        id: String,
        url: String,
    ) -> Self {
        Self {
            records,
            models,
            id,
            url,
            started_at: Timestamp::now(),
        }
    }

    /// Where it answers.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Until the token is cancelled; then it is gone at once.
    pub(crate) async fn run(self, token: CancellationToken) {
        while !token.is_cancelled() {
            if let Err(error) = self.say().await {
                tracing::debug!(%error, "the others can't be told of this server");
            }
            token.run_until_cancelled(sleep(SAY_EVERY)).await;
        }
        let gone = RecordWrite::delete(NAMESPACE, &self.id);
        if let Err(error) = self.records.commit(vec![gone]).await {
            tracing::debug!(%error, "the others will miss this server");
        }
    }

    async fn say(&self) -> Result<()> {
        let cards = self.models.cards();
        let loaded = cards
            .iter()
            .filter(|card| card.status == ModelStatus::Loaded);
        let value = json!({
            "node_id": self.id,
            "url": self.url,
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at,
            "seen_at": Timestamp::now(),
            "models": loaded.map(|card| &card.id).collect::<Vec<_>>(),
        });
        let until = Timestamp::now().plus(GONE_AFTER);
        let write = RecordWrite::put(NAMESPACE, &self.id, value).expiring(until);
        self.records.commit(vec![write]).await
    }

    /// All that are there, this one included once it has said so.
    pub(crate) async fn all(&self) -> Result<Vec<Value>> {
        let records = self.records.list(NAMESPACE, "", None, MOST).await?;
        let nodes = records.into_iter().map(|record| {
            let mut node = record.value;
            node["is_this"] = (record.key == self.id).into();
            node
        });
        Ok(nodes.collect())
    }
}
