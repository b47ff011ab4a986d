//! Webhooks with everything around them in memory: a record store, endpoints that answer as they are told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fusion_orchestrator::{
    jobs::{Jobs, SubmitRequest},
    webhook::{Config, RegisterRequest, Webhooks},
};
use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    id::{JobId, WebhookId},
    job::Operation,
    outgoing::{OutRequest, OutResponse, Outgoing},
    record::{Expect, Record, RecordWrite},
    store::{JobStore, RecordStore},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    jobs_setup::{Planner, Script, call},
    jobs_store::MemoryJobs,
};

pub(crate) const HOOK: &str = "https://tier2.example/hook";
/// A webhook that fails for longer is disabled.
pub(crate) const DISABLE_AFTER: Duration = Duration::from_secs(3600);
pub(crate) const DEFAULT_SECRET: &str = "the server's own secret";

type Key = (String, String);

#[derive(Default)]
pub(crate) struct MemoryRecords {
    records: Mutex<BTreeMap<Key, (Value, u64)>>,
    commits: watch::Sender<u64>,
}

impl MemoryRecords {
    /// Once so many records are in the namespace; looked at after every commit.
    pub(crate) async fn count(&self, namespace: &str, count: usize) {
        let mut commits = self.commits.subscribe();
        let wait = async {
            loop {
                commits.mark_unchanged();
                let found = self
                    .records
                    .lock()
                    .unwrap()
                    .keys()
                    .filter(|(space, _)| space == namespace)
                    .count();
                if found == count {
                    return;
                }
                commits.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(24 * 3600), wait)
            .await
            .expect("never so many records");
    }
}

#[async_trait]
impl RecordStore for MemoryRecords {
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Record>> {
        let records = self.records.lock().unwrap();
        let found = records.get(&(namespace.to_owned(), key.to_owned()));
        Ok(found.map(|(value, version)| Record {
            key: key.to_owned(),
            value: value.clone(),
            version: *version,
        }))
    }

    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>> {
        let records = self.records.lock().unwrap();
        let found = records.iter().filter(|((space, key), _)| {
            space == namespace
                && key.starts_with(prefix)
                && after.is_none_or(|after| key.as_str() > after)
        });
        let found = found.map(|((_, key), (value, version))| Record {
            key: key.clone(),
            value: value.clone(),
            version: *version,
        });
        Ok(found.take(limit as usize).collect())
    }

    async fn commit(&self, writes: Vec<RecordWrite>) -> Result<()> {
        let mut records = self.records.lock().unwrap();
        let mut after = records.clone();
        for write in writes {
            let key = (write.namespace.to_owned(), write.key);
            let version = after.get(&key).map(|(_, version)| *version);
            let is_expected = match write.expect {
                Expect::Anything => true,
                Expect::Absent => version.is_none(),
                Expect::Version(expected) => version == Some(expected),
            };
            if !is_expected {
                return Err(Error::new(ErrorCode::VersionConflict, "not as expected"));
            }
            match write.value {
                Some(value) => after.insert(key, (value, version.unwrap_or(0) + 1)),
                None => after.remove(&key),
            };
        }
        *records = after;
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn sweep(&self, _now: Timestamp) -> Result<u64> {
        Ok(0)
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Status(u16),
    Unreachable,
    Hang,
}

/// Endpoints by URL, each with its answers in turn and `200` once they are used up.
pub(crate) struct Endpoints {
    answers: Mutex<HashMap<String, VecDeque<Answer>>>,
    received: watch::Sender<Vec<Received>>,
    clock: Arc<MemoryJobs>,
}

#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) at: Timestamp,
    pub(crate) request: OutRequest,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self
            .request
            .headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name));
        &found.unwrap().1
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.request.body).unwrap()
    }

    pub(crate) fn standard_headers(&self) -> http::HeaderMap {
        let headers = self.request.headers.iter();
        headers
            .map(|(name, value)| {
                (
                    name.parse::<http::HeaderName>().unwrap(),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }
}

impl Endpoints {
    pub(crate) fn will(&self, url: &str, answers: &[Answer]) {
        self.answers
            .lock()
            .unwrap()
            .insert(url.to_owned(), answers.iter().copied().collect());
    }

    /// Once so many requests came in, whatever became of them.
    pub(crate) async fn received(&self, count: usize) -> Vec<Received> {
        let mut received = self.received.subscribe();
        let wait = received.wait_for(|received| received.len() >= count);
        let wait = tokio::time::timeout(Duration::from_secs(7 * 24 * 3600), wait).await;
        wait.expect("never so many requests").unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.received.borrow().len()
    }
}

#[async_trait]
impl Outgoing for Endpoints {
    fn check(&self, url: &str) -> Result<()> {
        if url.starts_with("https://") {
            return Ok(());
        }
        Err(Error::new(ErrorCode::UrlNotAllowed, "only https"))
    }

    async fn post(&self, request: OutRequest) -> Result<OutResponse> {
        let answer = self
            .answers
            .lock()
            .unwrap()
            .get_mut(&request.url)
            .and_then(VecDeque::pop_front);
        let at = self.clock.now();
        self.received
            .send_modify(|received| received.push(Received { at, request }));
        match answer.unwrap_or(Answer::Status(200)) {
            Answer::Status(status) => Ok(OutResponse {
                status,
                retry_after: None,
            }),
            Answer::Unreachable => Err(Error::new(
                ErrorCode::EngineUnavailable,
                "connection refused",
            )),
            Answer::Hang => pending().await,
        }
    }
}

pub(crate) struct Setup {
    pub(crate) store: Arc<MemoryJobs>,
    pub(crate) records: Arc<MemoryRecords>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) jobs: Jobs,
    pub(crate) webhooks: Webhooks,
    pub(crate) tasks: TaskTracker,
    pub(crate) token: CancellationToken,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryJobs::new());
        let records = Arc::new(MemoryRecords::default());
        let endpoints = Arc::new(Endpoints {
            answers: Mutex::default(),
            received: watch::channel(Vec::new()).0,
            clock: Arc::clone(&store),
        });
        let job_store: Arc<dyn JobStore> = Arc::clone(&store) as Arc<dyn JobStore>;
        let outgoing: Arc<dyn Outgoing> = Arc::clone(&endpoints) as Arc<dyn Outgoing>;
        let clock = Arc::clone(&store);
        let jobs = Jobs::with_clock(
            Arc::clone(&job_store),
            Arc::new(Planner),
            Arc::clone(&outgoing),
            Script::new([]),
            fusion_orchestrator::jobs::Config::default(),
            Arc::new(move || clock.now()),
        );
        let config = Config {
            timeout: Duration::from_secs(10),
            retry_count: 3,
            disable_after: DISABLE_AFTER,
            default_secret: DEFAULT_SECRET.to_owned(),
            job_ttl: Duration::from_secs(7 * 24 * 3600),
        };
        let clock = Arc::clone(&store);
        let records_store: Arc<dyn RecordStore> = Arc::clone(&records) as Arc<dyn RecordStore>;
        let webhooks = Webhooks::with_clock(
            records_store,
            job_store,
            outgoing,
            config,
            Arc::new(move || clock.now()),
        );
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        Self {
            store,
            records,
            endpoints,
            jobs,
            webhooks,
            tasks,
            token,
        }
    }

    pub(crate) fn start(self) -> Self {
        self.tasks.spawn(
            self.webhooks
                .dispatcher()
                .run(self.tasks.clone(), self.token.clone()),
        );
        self
    }

    /// Ends the dispatcher and waits until nothing of it is left.
    pub(crate) async fn stop(&self) {
        self.token.cancel();
        self.tasks.close();
        let ended = self.tasks.wait();
        tokio::time::timeout(Duration::from_secs(3600), ended)
            .await
            .expect("the dispatcher does not end");
    }

    pub(crate) async fn register(
        &self,
        url: &str,
        events: Value,
        secret: Option<&str>,
    ) -> WebhookId {
        let body = json!({"url": url, "events": events, "secret": secret});
        let request: RegisterRequest = serde_json::from_value(body).unwrap();
        self.webhooks
            .register(&call(), request)
            .await
            .unwrap()
            .webhook_id
    }
}

/// A job that nobody runs: one change, `job.queued`.
pub(crate) async fn submitted_job(setup: &Setup, callback_url: Option<&str>) -> JobId {
    let mut request = SubmitRequest::new(Operation::Chat, json!({}));
    request.callback_url = callback_url.map(str::to_owned);
    setup
        .jobs
        .submit(&call(), request, None)
        .await
        .unwrap()
        .job_id
}

/// A job that is cancelled at once: two changes, `job.queued` and `job.cancelled`.
pub(crate) async fn cancelled_job(setup: &Setup, callback_url: Option<&str>) -> JobId {
    let id = submitted_job(setup, callback_url).await;
    setup.jobs.cancel(&call(), &id).await.unwrap();
    id
}
