//! The connection to Redis: kept by one task, done without while it is away.

use std::{sync::Arc, time::Duration};

use fusion_types::{Result, id::JobId, job::Claim};
use futures::StreamExt;
use redis::{
    AsyncCommands, AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisError,
    RedisResult,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::{
    sync::{Notify, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{RedisConfig, rate, ready};
use crate::{
    error::unavailable,
    kick::Kick,
    queue::{Queue, Ready},
    rate::Rate,
};

/// A hint that takes longer is none.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
const CONNECTS_WITHIN: Duration = Duration::from_secs(3);
const RECONNECT_EVERY: Duration = Duration::from_secs(1);
/// How often what is due in the store is compared with the ready set, by one server of all.
const REFILL_EVERY: Duration = Duration::from_secs(1);
/// Ready jobs that one comparison brings.
const REFILLED_AT_ONCE: u32 = 1000;
const CLOSES_WITHIN: Duration = Duration::from_secs(2);

pub(crate) struct Link {
    client: Client,
    names: Names,
    /// `None` while Redis is away.
    connection: watch::Sender<Option<MultiplexedConnection>>,
    /// A command failed: the task is to look whether Redis is still there.
    doubted: Notify,
    tasks: TaskTracker,
    token: CancellationToken,
}

/// Keys and channels, by the name of the database that they belong to.
struct Names {
    ready: String,
    refill: String,
    changed: String,
    /// A client's name follows.
    rate: String,
}

impl Link {
    /// # Errors
    /// `store_unavailable` where Redis can't be reached: later on it may come and go.
    pub(crate) async fn open(config: &RedisConfig, store: &str) -> Result<Arc<Self>> {
        let info = connection_info(config).map_err(|error| {
            unavailable(format!("state.redis_uri can't be read: {}", short(&error)))
        })?;
        let address = info.addr().to_string();
        let unreachable = |error: &RedisError| {
            unavailable(format!(
                "Redis can't be used at {address}: {}; see that it runs and that state.redis_uri (REDIS_URI, --redis-uri) is \
                 right, or leave that out: the store is the queue then",
                short(error)
            ))
        };
        let client = Client::open(info).map_err(|error| unreachable(&error))?;
        let connection = connect(&client)
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(Arc::new(Self {
            client,
            names: Names {
                ready: format!("fusiond:{store}:ready"),
                refill: format!("fusiond:{store}:refill"),
                changed: format!("fusiond:{store}:changed"),
                rate: format!("fusiond:{store}:rate:"),
            },
            connection: watch::Sender::new(Some(connection)),
            doubted: Notify::new(),
            tasks: TaskTracker::new(),
            token: CancellationToken::new(),
        }))
    }

    /// Passes words on in both directions, and refills the ready set.
    pub(crate) fn start(self: &Arc<Self>, store: Arc<dyn Queue>, kick: Kick) {
        let (link, token) = (Arc::clone(self), self.token.clone());
        self.tasks.spawn(async move {
            token.run_until_cancelled(link.keep(store, kick)).await;
        });
        self.tasks.close();
    }

    pub(crate) async fn close(&self) {
        self.token.cancel();
        let _ = time::timeout(CLOSES_WITHIN, self.tasks.wait()).await;
        self.connection.send_replace(None);
    }

    pub(crate) async fn is_connected(&self) -> bool {
        self.with(async |mut connection| connection.ping::<()>().await)
            .await
            .is_some()
    }

    /// The first ready jobs, which are in the set no more. Empty where Redis is away.
    pub(super) async fn take(&self, claim: &Claim) -> Vec<JobId> {
        if claim.limit == 0 {
            return Vec::new();
        }
        let (key, claim) = (self.names.ready.clone(), claim.clone());
        self.with(async move |mut connection| ready::take(&mut connection, &key, &claim).await)
            .await
            .unwrap_or_default()
    }

    pub(super) async fn offer(&self, jobs: &[Ready]) {
        if jobs.is_empty() {
            return;
        }
        let (key, jobs) = (self.names.ready.clone(), jobs.to_vec());
        self.with(async move |mut connection| ready::put(&mut connection, &key, &jobs).await)
            .await;
    }

    /// `None` where Redis is away.
    pub(crate) async fn admit(
        &self,
        client: &str,
        rate: Rate,
    ) -> Option<std::result::Result<(), Duration>> {
        let key = format!("{}{client}", self.names.rate);
        self.with(async move |mut connection| rate::admit(&mut connection, &key, rate).await)
            .await
    }

    /// `None` where Redis is away, or doesn't answer in time.
    async fn with<T, F>(&self, ask: impl FnOnce(MultiplexedConnection) -> F) -> Option<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let connection = self.connection.borrow().clone()?;
        match time::timeout(ANSWERS_WITHIN, ask(connection)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) | Err(_) => {
                self.doubted.notify_one();
                None
            }
        }
    }

    async fn keep(&self, store: Arc<dyn Queue>, kick: Kick) {
        loop {
            let connected = self.connected().await;
            match connected {
                Ok(words) => {
                    // What was said while nobody listened.
                    kick.written_elsewhere();
                    let why = self.serve(words, &*store, &kick).await;
                    tracing::warn!(
                        why,
                        "redis is away; the store is asked instead until it is back"
                    );
                }
                Err(error) => tracing::debug!(error = short(&error), "redis is still away"),
            }
            self.connection.send_replace(None);
            time::sleep(RECONNECT_EVERY).await;
        }
    }

    async fn connected(&self) -> RedisResult<PubSub> {
        let connection = connect(&self.client).await?;
        let subscribe = async {
            let mut words = self.client.get_async_pubsub().await?;
            words.subscribe(&self.names.changed).await?;
            RedisResult::Ok(words)
        };
        let words = within(CONNECTS_WITHIN, subscribe).await?;
        self.connection.send_replace(Some(connection));
        tracing::info!("redis is connected");
        Ok(words)
    }

    /// Until Redis is away; why it is taken to be.
    async fn serve(&self, words: PubSub, store: &dyn Queue, kick: &Kick) -> &'static str {
        let mut words = words.into_on_message();
        let mut here = kick.listen_here();
        let mut refill = time::interval(REFILL_EVERY);
        refill.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                word = words.next() => match word {
                    Some(_) => kick.written_elsewhere(),
                    None => return "the connection ended",
                },
                _ = here.changed() => {
                    if self.say_changed().await.is_none() {
                        return "a word can't be passed on";
                    }
                }
                _ = refill.tick() => {
                    if self.refill(store).await.is_none() {
                        return "it doesn't answer";
                    }
                }
                () = self.doubted.notified() => {
                    if !self.is_connected().await {
                        return "it doesn't answer";
                    }
                }
            }
        }
    }

    async fn say_changed(&self) -> Option<()> {
        let channel = self.names.changed.clone();
        self.with(async move |mut connection| connection.publish(channel, "").await)
            .await
    }

    /// Where no other server has just done so. What the store can't tell now, it tells next time.
    async fn refill(&self, store: &dyn Queue) -> Option<()> {
        let key = self.names.refill.clone();
        let millis = REFILL_EVERY.as_millis() as u64;
        let is_mine: Option<String> = self
            .with(async move |mut connection| {
                let mut set = redis::cmd("SET");
                set.arg(key)
                    .arg("")
                    .arg("NX")
                    .arg("PX")
                    .arg(millis / 10 * 9);
                set.query_async(&mut connection).await
            })
            .await?;
        if is_mine.is_none() {
            return Some(());
        }
        if let Ok(due) = store.due(REFILLED_AT_ONCE).await {
            self.offer(&due).await;
        }
        Some(())
    }
}

fn connection_info(config: &RedisConfig) -> RedisResult<ConnectionInfo> {
    let info = config.uri.as_str().into_connection_info()?;
    if info.redis_settings().db() != 0 || config.database == 0 {
        return Ok(info);
    }
    let settings = info.redis_settings().clone().set_db(config.database);
    Ok(info.set_redis_settings(settings))
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECTS_WITHIN))
        .set_response_timeout(Some(ANSWERS_WITHIN));
    let connect = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        connection.ping::<()>().await?;
        Ok(connection)
    };
    within(CONNECTS_WITHIN, connect).await
}

async fn within<T>(
    at_most: Duration,
    work: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    match time::timeout(at_most, work).await {
        Ok(done) => done,
        Err(_elapsed) => {
            let slow = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
            Err(slow.into())
        }
    }
}

/// The error without what the server quotes, which may be a password.
fn short(error: &RedisError) -> String {
    if error.is_io_error() {
        return error.to_string();
    }
    error.category().to_owned()
}
