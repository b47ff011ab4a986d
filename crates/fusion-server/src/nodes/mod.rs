//! The servers that share a store: each says again and again that it is there, and what it has.
//!
//! One whose record stands still for long enough, by the steady clock of who looks, is gone. No two clocks are ever compared.

mod inference;
mod peers;
mod planner;
pub(crate) mod wire;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fusion_models::Models;
use fusion_types::{
    Error, Result, Timestamp,
    inference::{Choice, Needs},
    model::ModelStatus,
    model_ref::ModelRef,
    record::{Record, RecordWrite},
    store::RecordStore,
};
use reqwest::{Client, Url, redirect};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

pub(crate) use inference::Anywhere;
pub(crate) use peers::{Have, Peer};
pub(crate) use planner::Everywhere;

const NAMESPACE: &str = "nodes";
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Who wasn't heard of for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(20);
/// Its record goes later: nobody's clock is that wrong.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
/// Between looks whether the way to another server still holds, and how many in vain cut it off.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const LOST_AFTER: u32 = 3;
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
    /// The machine's name.
    host: String,
    started_at: Timestamp,
    /// Known only to those that read the store: the others know a request from this server by it.
    token: String,
    http: Client,
    /// The versions of the servers' records, and since when they are those.
    seen: Arc<Mutex<HashMap<String, (u64, Instant)>>>,
    /// The others that can be asked.
    peers: watch::Sender<Arc<[Peer]>>,
}

impl Node {
    /// `url` is where the others can ask it.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub(crate) fn new(
        records: Arc<dyn RecordStore>,
        models: Models,
        id: String,
        url: String,
    ) -> Result<Self> {
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECTS_WITHIN)
            // A server that still reaches the store isn't gone; the way to it may be.
            .tcp_keepalive(KEEP_ALIVE)
            .tcp_keepalive_interval(KEEP_ALIVE)
            .tcp_keepalive_retries(LOST_AFTER);
        #[cfg(target_os = "linux")]
        let http = http.tcp_user_timeout(GONE_AFTER);
        let http = http
            .build()
            .map_err(|error| Error::internal(format!("can't set up requests: {error}")))?;
        let host = rustix::system::uname();
        Ok(Self {
            records,
            models,
            id,
            url,
            host: host.nodename().to_string_lossy().into_owned(),
            started_at: Timestamp::now(),
            token: format!("{:032x}", rand::random::<u128>()),
            http,
            seen: Arc::default(),
            peers: watch::Sender::new(Arc::new([])),
        })
    }

    /// Until the token is cancelled; then it is gone at once.
    pub(crate) async fn run(self, token: CancellationToken) {
        while !token.is_cancelled() {
            if let Err(error) = self.say().await {
                tracing::debug!(%error, "the others can't be told of this server");
            }
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the other servers can't be looked for");
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
            "host": self.host,
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at,
            "seen_at": Timestamp::now(),
            "token": self.token,
            "models": loaded.map(|card| &card.id).collect::<Vec<_>>(),
            "cards": cards,
        });
        let until = Timestamp::now().plus(FORGOTTEN_AFTER);
        let write = RecordWrite::put(NAMESPACE, &self.id, value).expiring(until);
        self.records.commit(vec![write]).await
    }

    /// A server at this one's address was a run of it before.
    async fn look(&self) -> Result<()> {
        let own = Url::parse(&self.url).ok();
        let others = self
            .list()
            .await?
            .into_iter()
            .filter_map(|record| serde_json::from_value::<Peer>(record.value).ok())
            .filter(|peer| peer.id != self.id && Some(&peer.url) != own.as_ref())
            .filter(|peer| peer.is_reachable_from(&self.host));
        self.peers.send_replace(others.collect());
        Ok(())
    }

    /// Those that are there.
    async fn list(&self) -> Result<Vec<Record>> {
        let mut records = self.records.list(NAMESPACE, "", None, MOST).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|id, _| records.iter().any(|record| record.key == *id));
        let now = Instant::now();
        records.retain(|record| {
            let last = seen.entry(record.key.clone()).or_insert((0, now));
            if last.0 != record.version {
                *last = (record.version, now);
            }
            now.duration_since(last.1) < GONE_AFTER
        });
        Ok(records)
    }

    /// All that are there, this one included once it has said so, and whether this one would pass requests on to them.
    pub(crate) async fn all(&self) -> Result<Vec<Value>> {
        let peers = Arc::clone(&self.peers.borrow());
        let nodes = self.list().await?.into_iter().map(|record| {
            let mut node = record.value;
            if let Some(fields) = node.as_object_mut() {
                fields.remove("token");
                fields.remove("cards");
            }
            node["is_this"] = (record.key == self.id).into();
            let is_peer = peers.iter().any(|peer| peer.id == record.key);
            node["is_reachable"] = (is_peer || record.key == self.id).into();
            node
        });
        Ok(nodes.collect())
    }

    fn has_peers(&self) -> bool {
        !self.peers.borrow().is_empty()
    }

    /// What this server sends with requests to others.
    fn sign(&self) -> String {
        format!("{} {}", self.id, self.token)
    }

    /// Whether this is sent by a server that shares this one's store: one that isn't known yet is looked up there.
    pub(crate) async fn sent(&self, sign: &str) -> Result<bool> {
        let Some((id, token)) = sign.split_once(' ') else {
            return Ok(false);
        };
        if self.peers.borrow().iter().any(|peer| peer.sent(id, token)) {
            return Ok(true);
        }
        let record = self.records.get(NAMESPACE, id).await?;
        Ok(record.is_some_and(|record| record.value["token"] == token))
    }

    /// What a server that isn't this one would choose: `None` where none knows such a model.
    fn choose_elsewhere(&self, model: &ModelRef, needs: &Needs) -> Option<Result<Choice>> {
        peers::choose(&self.peers.borrow(), model, needs)
    }

    /// What this server has of a model that a request names.
    fn have(&self, model: &ModelRef) -> Have {
        peers::have(&self.models.cards(), model)
    }

    /// The server that answers a request for this model better than this one would.
    fn better_for(&self, model: &ModelRef) -> Option<Peer> {
        let peers = Arc::clone(&self.peers.borrow());
        peers::better(&peers, model, self.have(model))
    }

    /// Once the other server is there no more.
    pub(crate) async fn gone(&self, id: &str) {
        let mut peers = self.peers.subscribe();
        // The sender lives as long as this.
        let _ = peers
            .wait_for(|peers| peers.iter().all(|peer| peer.id != id))
            .await;
    }
}
