//! Batches with everything around them in memory: a dialect of two fields, operations that do as the line says.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fusion_orchestrator::{
    batch::{self, Asked, BatchView, Batches, CreateBatch, Dialect, Endpoint},
    files::{Files, FilesConfig, NewFile},
    jobs::{self, Forecast, Jobs, Operations, Progress, Runner, RunnerConfig, Work},
};
use fusion_types::{
    Call, Error, ErrorCode, Result, Timestamp,
    blob::{BlobStore, ByteStream},
    id::{BatchId, BlobId, FileId},
    job::{Job, Owner},
    record::{Record, RecordWrite},
    store::RecordStore,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    jobs_setup::{NoWayOut, Planner, call},
    jobs_store::MemoryJobs,
    webhook_setup::MemoryRecords,
};

/// Longer than anything here may take, on a clock that tests pause.
const LONG: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Default)]
pub(crate) struct MemoryBlobs {
    blobs: Mutex<HashMap<BlobId, Bytes>>,
}

impl MemoryBlobs {
    pub(crate) fn count(&self) -> usize {
        self.blobs.lock().unwrap().len()
    }
}

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn put(&self, id: &BlobId, source: ByteStream<'_>) -> Result<u64> {
        let pieces: Vec<Bytes> = source.try_collect().await?;
        let bytes = Bytes::from(pieces.concat());
        let length = bytes.len() as u64;
        self.blobs.lock().unwrap().insert(id.clone(), bytes);
        Ok(length)
    }

    async fn get(&self, id: &BlobId, offset: u64) -> Result<ByteStream<'static>> {
        let found = self.blobs.lock().unwrap().get(id).cloned();
        let bytes = found.ok_or_else(|| Error::new(ErrorCode::FileNotFound, "no such blob"))?;
        let rest = bytes.slice((offset as usize).min(bytes.len())..);
        Ok(stream::iter([Ok(rest)]).boxed())
    }

    async fn delete(&self, id: &BlobId) -> Result<()> {
        self.blobs.lock().unwrap().remove(id);
        Ok(())
    }
}

/// A record store whose server dies at one of its commits, before or after it.
pub(crate) struct Dying {
    inner: Arc<MemoryRecords>,
    left: AtomicI64,
    after: bool,
    died: Notify,
}

impl Dying {
    pub(crate) fn new(inner: &Arc<MemoryRecords>, commits: i64, after: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            left: AtomicI64::new(commits),
            after,
            died: Notify::new(),
        })
    }

    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }
}

#[async_trait]
impl RecordStore for Dying {
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Record>> {
        self.inner.get(namespace, key).await
    }

    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>> {
        self.inner.list(namespace, prefix, after, limit).await
    }

    async fn commit(&self, writes: Vec<RecordWrite>) -> Result<()> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 {
            return self.inner.commit(writes).await;
        }
        if left == 0 && self.after {
            self.inner.commit(writes).await?;
        }
        self.died.notify_one();
        pending().await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64> {
        self.inner.sweep(now).await
    }
}

/// `{model, text}` in, `{said}` out.
struct Plain;

impl Dialect for Plain {
    fn read(&self, _endpoint: Endpoint, body: Value) -> Result<Asked> {
        let model = body["model"].as_str().map(str::to_owned);
        let missing = || Error::new(ErrorCode::MissingField, "no model").with_param("model");
        Ok(Asked {
            model: model.ok_or_else(missing)?,
            input: json!({ "text": body["text"] }),
            answer: Map::from_iter([("loud".to_owned(), body["loud"].clone())]),
        })
    }

    fn answer(&self, _endpoint: Endpoint, job: &Job) -> Result<Value> {
        Ok(json!({ "said": job.result, "loud": job.metadata["loud"] }))
    }
}

/// Says the text again; `fail` fails, `hang` hangs.
pub(crate) struct Obedient;

#[async_trait]
impl Operations for Obedient {
    fn check(&self, work: &Work) -> Result<Forecast> {
        if work.model_id.as_deref() != Some("talker") {
            let error = Error::new(ErrorCode::ModelNotFound, "no such model");
            return Err(error.with_param("model_id"));
        }
        match work.input["text"].is_string() {
            true => Ok(Forecast::default()),
            false => Err(Error::invalid("input.text", "text must be a string")),
        }
    }

    async fn run(&self, _call: &Call, work: Work, _progress: Progress) -> Result<Value> {
        match work.input["text"].as_str() {
            Some("fail") => Err(Error::new(ErrorCode::ContextLengthExceeded, "too long")),
            Some("hang") => pending().await,
            _ => Ok(work.input["text"].clone()),
        }
    }
}

pub(crate) struct Setup {
    pub(crate) store: Arc<MemoryJobs>,
    pub(crate) records: Arc<MemoryRecords>,
    pub(crate) blobs: Arc<MemoryBlobs>,
    pub(crate) files: Files,
    pub(crate) jobs: Jobs,
    pub(crate) batches: Batches,
    config: batch::Config,
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with(jobs::Config::default(), batch::Config::default())
    }

    pub(crate) fn with(jobs_config: jobs::Config, config: batch::Config) -> Self {
        let store = Arc::new(MemoryJobs::new());
        let records = Arc::new(MemoryRecords::default());
        let blobs = Arc::new(MemoryBlobs::default());
        let clock = Arc::clone(&store);
        let jobs = Jobs::with_clock(
            store.clone(),
            Arc::new(Planner),
            Arc::new(NoWayOut),
            Arc::new(Obedient),
            jobs_config,
            Arc::new(move || clock.now()),
        );
        let (files, batches) = on(&store, records.clone(), &blobs, &jobs, config);
        Self {
            store,
            records,
            blobs,
            files,
            jobs,
            batches,
            config,
            tasks: TaskTracker::new(),
            token: CancellationToken::new(),
        }
    }

    /// The same batches as a server sees them whose records go through something else.
    pub(crate) fn over(&self, records: Arc<dyn RecordStore>) -> Batches {
        on(&self.store, records, &self.blobs, &self.jobs, self.config).1
    }

    /// Starts doing jobs.
    pub(crate) fn run_jobs(self) -> Self {
        let config = RunnerConfig::new(Owner("runner".to_owned()));
        let runner: Runner = self.jobs.runner(config);
        self.tasks
            .spawn(runner.run(self.tasks.clone(), self.token.clone()));
        self
    }

    pub(crate) fn work(&self, batches: &Batches, owner: &str) -> JoinHandle<()> {
        let worker = batches.worker(Owner(owner.to_owned()));
        self.tasks
            .spawn(worker.run(self.tasks.clone(), self.token.clone()))
    }

    /// Works on jobs and batches.
    pub(crate) fn start(self) -> Self {
        let started = self.run_jobs();
        started.work(&started.batches, "worker");
        started
    }

    pub(crate) async fn upload(&self, text: &str, purpose: &str) -> FileId {
        let bytes = Bytes::from(text.to_owned());
        let upload = self.files.upload(stream::iter([Ok(bytes)]).boxed()).await;
        let new = NewFile {
            filename: "lines.jsonl".to_owned(),
            purpose: purpose.to_owned(),
            expires_after_seconds: None,
        };
        self.files
            .create(&call(), upload.unwrap(), new)
            .await
            .unwrap()
            .id
    }

    pub(crate) async fn submit(&self, text: &str) -> BatchId {
        let input = self.upload(text, "batch").await;
        self.batches
            .create(&call(), request(&input))
            .await
            .unwrap()
            .id
    }

    pub(crate) async fn get(&self, id: &BatchId) -> BatchView {
        self.batches.get(&call(), id).await.unwrap()
    }

    /// The batch once it has ended.
    pub(crate) async fn ended(&self, id: &BatchId) -> BatchView {
        self.until(id, |batch| batch.status.is_ended()).await
    }

    pub(crate) async fn until(
        &self,
        id: &BatchId,
        holds: impl Fn(&BatchView) -> bool,
    ) -> BatchView {
        let wait = async {
            loop {
                let batch = self.get(id).await;
                if holds(&batch) {
                    return batch;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, wait).await.expect("it never came to this")
    }

    /// The lines of one of its files by their ids, each of which may be there once.
    pub(crate) async fn lines(&self, file: Option<&FileId>) -> HashMap<String, Value> {
        let Some(file) = file else {
            return HashMap::new();
        };
        let (view, bytes) = self.files.content(&call(), file).await.unwrap();
        assert_eq!(view.purpose, "batch_output");
        let pieces: Vec<Bytes> = bytes.try_collect().await.unwrap();
        let text = pieces.concat();
        assert_eq!(text.len() as u64, view.bytes);
        let mut found = HashMap::new();
        for line in std::str::from_utf8(&text).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let id = line["custom_id"].as_str().unwrap().to_owned();
            assert!(found.insert(id, line).is_none(), "a line is there twice");
        }
        found
    }

    /// All of its lines, each exactly once in one of the two files.
    pub(crate) async fn outcomes(
        &self,
        batch: &BatchView,
    ) -> (HashMap<String, Value>, HashMap<String, Value>) {
        let output = self.lines(batch.output_file_id.as_ref()).await;
        let errors = self.lines(batch.error_file_id.as_ref()).await;
        assert!(output.keys().all(|id| !errors.contains_key(id)));
        let counts = batch.request_counts;
        assert_eq!((output.len() + errors.len()) as u64, counts.total);
        assert_eq!(output.len() as u64, counts.completed);
        assert_eq!(errors.len() as u64, counts.failed);
        (output, errors)
    }
}

fn on(
    store: &Arc<MemoryJobs>,
    records: Arc<dyn RecordStore>,
    blobs: &Arc<MemoryBlobs>,
    jobs: &Jobs,
    config: batch::Config,
) -> (Files, Batches) {
    let clock = Arc::clone(store);
    let clock: jobs::Clock = Arc::new(move || clock.now());
    let files = Files::with_clock(
        records.clone(),
        blobs.clone(),
        FilesConfig::default(),
        clock.clone(),
    );
    let batches = Batches::with_clock(
        records,
        files.clone(),
        jobs.clone(),
        Arc::new(Plain),
        config,
        clock,
    );
    (files, batches)
}

pub(crate) fn request(input: &FileId) -> CreateBatch {
    let body = json!({
        "input_file_id": input,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": { "night": "1" },
    });
    serde_json::from_value(body).unwrap()
}

/// A line that asks to say the text.
pub(crate) fn line(custom_id: &str, text: &str) -> String {
    let body = json!({ "model": "talker", "text": text, "loud": true });
    format!("{}\n", with_body(custom_id, &body))
}

pub(crate) fn with_body(custom_id: &str, body: &Value) -> Value {
    json!({
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    })
}

pub(crate) fn many(count: usize) -> String {
    (0..count)
        .map(|n| line(&format!("line-{n}"), &format!("text {n}")))
        .collect()
}
