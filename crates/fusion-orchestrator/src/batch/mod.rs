//! Batches: files of requests that are answered when there is room. Each line is a job of the job store; what is kept here says
//! which lines are jobs, and how far the batch is. Every step can be done again, so that a server that dies costs nothing but time.
//!
//! A batch goes from `validating` through `in_progress` and `finalizing` to `completed`; or to `failed`, `expired`, `cancelled`.

mod finish;
mod hold;
mod line;
mod lines;
mod outcome;
mod progress;
mod record;
mod validate;
mod view;
mod worker;

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Call, Error, ErrorCode, Result, Timestamp,
    id::{BatchId, FileId},
    job::{Job, Owner},
    record::Expect,
    store::RecordStore,
};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use self::record::{BATCHES, Batch, OPEN, Open, Times};
pub use self::{
    line::LineError,
    view::{
        BatchView, CreateBatch, Endpoint, Errors, ExpiresAfter, ListBatches, RequestCounts, Status,
    },
    worker::Worker,
};
use crate::{
    files::{File, Files, Listed, limit, read},
    jobs::{Clock, Jobs},
    newest_first,
};

/// Tries of a commit that others may come before.
const TRIES: u32 = 10;
/// Batches that have not ended, of all tenants.
const MOST_OPEN: u32 = 500;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Lines of a batch, at most.
    pub most_lines: u64,
    /// What doesn't complete within it expires.
    pub window: Duration,
    /// How long the record of a batch that has ended is kept.
    pub ttl: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            most_lines: 50_000,
            window: day,
            ttl: 30 * day,
        }
    }
}

/// How lines are read and answered: as the routes do that they name.
pub trait Dialect: Send + Sync {
    /// What a body asks for.
    ///
    /// # Errors
    /// As the route itself refuses it, the field named from the body on.
    fn read(&self, endpoint: Endpoint, body: Value) -> Result<Asked>;

    /// What the route would have answered, of a job that completed.
    ///
    /// # Errors
    /// What it would have said instead.
    fn answer(&self, endpoint: Endpoint, job: &Job) -> Result<Value>;
}

/// A body as a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub model: String,
    pub input: Value,
    /// What the answer has to know of the body, which is gone by then; part of the job's metadata.
    pub answer: Map<String, Value>,
}

/// The handle that routes hold.
#[derive(Clone)]
pub struct Batches {
    parts: Arc<Parts>,
}

struct Parts {
    records: Arc<dyn RecordStore>,
    files: Files,
    jobs: Jobs,
    dialect: Arc<dyn Dialect>,
    config: Config,
    clock: Clock,
    /// Tells the worker of this process of a new batch.
    more: Notify,
}

impl Batches {
    pub fn new(
        records: Arc<dyn RecordStore>,
        files: Files,
        jobs: Jobs,
        dialect: Arc<dyn Dialect>,
        config: Config,
    ) -> Self {
        let clock = Arc::new(Timestamp::now);
        Self::with_clock(records, files, jobs, dialect, config, clock)
    }

    pub fn with_clock(
        records: Arc<dyn RecordStore>,
        files: Files,
        jobs: Jobs,
        dialect: Arc<dyn Dialect>,
        config: Config,
        clock: Clock,
    ) -> Self {
        let parts = Parts {
            records,
            files,
            jobs,
            dialect,
            config,
            clock,
            more: Notify::new(),
        };
        Self {
            parts: Arc::new(parts),
        }
    }

    /// What works on batches; one a process, under a name that is unique to one run of one server.
    pub fn worker(&self, owner: Owner) -> Worker {
        Worker::new(Arc::clone(&self.parts), owner)
    }

    /// Takes a batch in; its lines are checked afterwards.
    ///
    /// # Errors
    /// `invalid_value`, `file_not_found`, `queue_full`, `store_unavailable`.
    pub async fn create(&self, call: &Call, request: CreateBatch) -> Result<BatchView> {
        request.check()?;
        let open = self.parts.records.list(OPEN, "", None, MOST_OPEN).await?;
        if open.len() >= MOST_OPEN as usize {
            let message = format!("{MOST_OPEN} batches have not ended, which is the limit");
            return Err(Error::new(ErrorCode::QueueFull, message));
        }
        let input = FileId::from_text(&request.input_file_id);
        for _ in 0..TRIES {
            let found = self.parts.files.find(&call.tenant, &input).await;
            let (file, version) = found.map_err(|error| error.with_param("input_file_id"))?;
            if file.purpose != "batch" {
                let message = format!("the file's purpose is {:?}, not \"batch\"", file.purpose);
                return Err(Error::invalid("input_file_id", message));
            }
            let batch = self.new_batch(call, &request, &file);
            let writes = vec![
                file.used(version, true)?,
                batch.put(Expect::Absent)?,
                batch.opening()?,
            ];
            match self.parts.records.commit(writes).await {
                Ok(()) => {
                    self.parts.more.notify_one();
                    return Ok(batch.view(None));
                }
                Err(error) if error.code == ErrorCode::VersionConflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended())
    }

    /// # Errors
    /// `batch_not_found`, `store_unavailable`.
    pub async fn get(&self, call: &Call, id: &BatchId) -> Result<BatchView> {
        let (batch, _) = self.find(call, id).await?;
        self.view(batch).await
    }

    /// The newest first.
    ///
    /// # Errors
    /// `invalid_value`, `store_unavailable`.
    pub async fn list(&self, call: &Call, params: ListBatches) -> Result<Listed<BatchView>> {
        let limit = limit(params.limit, 20, 100)?;
        let after = params.after.map(|id| newest_first::key(&call.tenant, &id));
        let prefix = newest_first::prefix(&call.tenant);
        let most = u32::try_from(limit + 1).unwrap_or(u32::MAX);
        let records = &self.parts.records;
        let page = records
            .list(BATCHES, &prefix, after.as_deref(), most)
            .await?;
        let mut views = Vec::with_capacity(page.len());
        for record in page {
            views.push(self.view(read(record)?).await?);
        }
        Ok(Listed::new(views, limit, |batch: &BatchView| {
            batch.id.to_string()
        }))
    }

    /// Asks for the end of a batch; what is done by then is in its output.
    ///
    /// # Errors
    /// `batch_not_found`; `batch_finished` once its answers are being written; `store_unavailable`.
    pub async fn cancel(&self, call: &Call, id: &BatchId) -> Result<BatchView> {
        for _ in 0..TRIES {
            let (mut batch, version) = self.find(call, id).await?;
            match batch.status {
                Status::Validating | Status::InProgress => {}
                Status::Cancelling => return self.view(batch).await,
                _ => return Err(finished(&batch)),
            }
            batch.status = Status::Cancelling;
            batch.times.cancelling = Some(self.parts.now());
            let write = batch.put(Expect::Version(version))?;
            match self.parts.records.commit(vec![write]).await {
                Ok(()) => return self.view(batch).await,
                Err(error) if error.code == ErrorCode::VersionConflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended())
    }

    /// Ends the leases of a run before: for a store that no other server uses.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn release_all_leases(&self) -> Result<()> {
        let records = &self.parts.records;
        for record in records.list(OPEN, "", None, MOST_OPEN).await? {
            let open: Open = read(record)?;
            let Some(record) = records.get(BATCHES, &open.key).await? else {
                continue;
            };
            let version = record.version;
            let mut batch: Batch = read(record)?;
            if batch.lease.take().is_some() {
                let write = batch.put(Expect::Version(version))?;
                records.commit(vec![write]).await?;
            }
        }
        Ok(())
    }

    fn new_batch(&self, call: &Call, request: &CreateBatch, file: &File) -> Batch {
        Batch {
            id: BatchId::generate(),
            tenant: call.tenant.clone(),
            endpoint: request.endpoint,
            input: file.id.clone(),
            blob: file.blob.clone(),
            completion_window: request.completion_window.clone(),
            metadata: request.metadata.clone(),
            output_seconds: request.output_expires_after.map(|after| after.seconds),
            status: Status::Validating,
            times: Times::new(self.parts.now(), self.parts.config.window),
            errors: Vec::new(),
            total: 0,
            fed: lines::Place::default(),
            is_fed: false,
            completed: 0,
            failed: 0,
            output: None,
            error: None,
            lease: None,
        }
    }

    async fn find(&self, call: &Call, id: &BatchId) -> Result<(Batch, u64)> {
        let key = newest_first::key(&call.tenant, id.as_str());
        let record = self.parts.records.get(BATCHES, &key).await?;
        let record = record.ok_or_else(|| {
            Error::new(ErrorCode::BatchNotFound, format!("there is no batch {id}"))
        })?;
        let version = record.version;
        Ok((read(record)?, version))
    }

    async fn view(&self, batch: Batch) -> Result<BatchView> {
        let has_jobs = !batch.status.is_ended() && batch.status != Status::Validating;
        let counts = match has_jobs {
            true => Some(self.parts.jobs.counts_of(&batch.group()).await?),
            false => None,
        };
        Ok(batch.view(counts))
    }
}

impl Parts {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The longest line: the largest input of a job, and something around it.
    fn longest_line(&self) -> usize {
        self.jobs.max_input_bytes().saturating_add(64 * 1024)
    }
}

fn finished(batch: &Batch) -> Error {
    let status = match batch.status {
        Status::Finalizing => "finalizing",
        Status::Completed => "completed",
        Status::Expired => "expired",
        Status::Failed => "failed",
        _ => "cancelled",
    };
    let message = format!("the batch {} can't be cancelled: it is {status}", batch.id);
    Error::new(ErrorCode::BatchFinished, message)
}

fn contended() -> Error {
    Error::new(
        ErrorCode::StoreUnavailable,
        "the batch is being changed by others; try again",
    )
    .with_retry_after(Duration::from_secs(1))
}
