//! Jobs: work that is promised before it is done. Submitted here, kept by the [`JobStore`], done by the [`Runner`].

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Call, Error, ErrorCode, Result, Timestamp,
    id::JobId,
    inference::ModelPlanner,
    job::{Inserted, Job, JobQuery, JobSort, JobStatus, Seq},
    outgoing::Outgoing,
    page::Window,
    store::JobStore,
};
use tokio::{sync::Notify, time::Instant};

mod attempt;
mod backoff;
mod bulk;
mod changes;
mod estimate;
mod follow;
mod group;
mod grouped;
mod live;
mod operation;
mod queue;
mod request;
mod runner;
mod seal;
mod submit;
mod sync;
mod turns;
mod view;

pub use bulk::{BulkAccepted, BulkEntry, BulkRequest, MOST_AT_ONCE};
pub use follow::{JobDelta, JobUpdate};
pub use group::{GroupCancelled, GroupView};
pub use operation::{Forecast, Generated, LocalOperations, Operations, Progress, Route, Work};
pub use request::{ListParams, Order, SubmitRequest, SyncParams};
pub use runner::{Runner, RunnerConfig};
pub use seal::Seal;
pub use view::{Accepted, Cancelled, JobList, JobView, SyncEvent, SyncPage};

pub(crate) use changes::wait_for_changes;
pub(crate) use grouped::{Group, Member};
use live::Live;
use queue::{Place, QueueLength};
use turns::Turns;

/// How long a cancellation waits for the worker to let go before it answers.
const CANCEL_WAIT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Config {
    /// How long a finished job is kept; a request may ask for less.
    pub job_ttl: Duration,
    /// Queued jobs of all tenants; more are refused with `queue_full`.
    pub max_queued: u64,
    /// Of one attempt, where the request says nothing.
    pub default_timeout: Duration,
    pub longest_timeout: Duration,
    /// Starts of a job, where the request says nothing.
    pub max_attempts: u32,
    /// Of the input as JSON.
    pub max_input_bytes: usize,
    /// Jobs that run side by side, at most.
    pub parallel: u32,
    /// Encrypts inputs while they wait.
    pub seal: Option<Arc<Seal>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            job_ttl: Duration::from_secs(7 * 24 * 3600),
            max_queued: 1_000_000,
            default_timeout: Duration::from_secs(600),
            longest_timeout: Duration::from_secs(24 * 3600),
            max_attempts: 3,
            max_input_bytes: 10_000_000,
            parallel: 8,
            seal: None,
        }
    }
}

/// Tells the time; another than the machine's in tests.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The handle that routes hold.
#[derive(Clone)]
pub struct Jobs {
    parts: Arc<Parts>,
}

pub(crate) struct Parts {
    store: Arc<dyn JobStore>,
    planner: Arc<dyn ModelPlanner>,
    outgoing: Arc<dyn Outgoing>,
    operations: Arc<dyn Operations>,
    config: Config,
    clock: Clock,
    queue: QueueLength,
    turns: Turns,
    live: Live,
    /// Tells the runner of this process that a cancellation waits for it.
    cancellation: Notify,
}

impl Jobs {
    pub fn new(
        store: Arc<dyn JobStore>,
        planner: Arc<dyn ModelPlanner>,
        outgoing: Arc<dyn Outgoing>,
        operations: Arc<dyn Operations>,
        config: Config,
    ) -> Self {
        let clock = Arc::new(Timestamp::now);
        Self::with_clock(store, planner, outgoing, operations, config, clock)
    }

    pub fn with_clock(
        store: Arc<dyn JobStore>,
        planner: Arc<dyn ModelPlanner>,
        outgoing: Arc<dyn Outgoing>,
        operations: Arc<dyn Operations>,
        config: Config,
        clock: Clock,
    ) -> Self {
        let parts = Parts {
            store,
            planner,
            outgoing,
            operations,
            config,
            clock,
            queue: QueueLength::default(),
            turns: Turns::default(),
            live: Live::default(),
            cancellation: Notify::new(),
        };
        Self {
            parts: Arc::new(parts),
        }
    }

    /// The worker that does the jobs; one a process.
    pub fn runner(&self, config: RunnerConfig) -> Runner {
        Runner::new(Arc::clone(&self.parts), config)
    }

    /// Checks the request and keeps the job; the answer means that it is durable. `key` is the `Idempotency-Key` header.
    ///
    /// # Errors
    /// What [`Operations::check`] says; `invalid_value`, `url_not_allowed`, `not_implemented`, `idempotency_mismatch`,
    /// `queue_full`, `store_unavailable`.
    pub async fn submit(
        &self,
        call: &Call,
        request: SubmitRequest,
        key: Option<String>,
    ) -> Result<Accepted> {
        let (new, forecast) = submit::check(&self.parts, call, request, key)?;
        self.parts
            .queue
            .admit(&*self.parts.store, 1, self.parts.config.max_queued)
            .await?;
        let place = Place::of(&new);
        let inserted = self.parts.store.insert(vec![new]).await?.pop();
        let inserted = inserted.ok_or_else(|| Error::internal("the store answered for no job"))?;
        self.accepted(inserted, place, &forecast).await
    }

    /// The job; with `wait`, once it is finished or the time is up.
    ///
    /// # Errors
    /// `job_not_found`, `store_unavailable`.
    pub async fn get(&self, call: &Call, id: &JobId, wait: Option<Duration>) -> Result<JobView> {
        let job = self.settled(call, id, wait.unwrap_or_default()).await?;
        self.view(job).await
    }

    /// # Errors
    /// `invalid_value` for a window out of bounds, `store_unavailable`.
    pub async fn list(&self, call: &Call, params: ListParams) -> Result<JobList> {
        let window = window(params.limit, params.offset)?;
        let query = JobQuery {
            tenant: call.tenant.clone(),
            status: params.status,
            model_id: params.model_id,
            operation: params.operation,
            group: params.group,
            metadata: params.metadata,
            sort: params.sort_by.unwrap_or(JobSort::CreatedAt),
            descending: params.order.unwrap_or(Order::Desc) == Order::Desc,
            window,
        };
        let page = self.parts.store.list(&query).await?;
        Ok(JobList {
            jobs: page.items,
            total: page.total,
            limit: window.limit,
            offset: window.offset,
        })
    }

    /// Cancels a queued job at once, a running one as soon as its worker has let go, which is waited for briefly.
    ///
    /// # Errors
    /// `job_not_found`, `job_finished`, `store_unavailable`.
    pub async fn cancel(&self, call: &Call, id: &JobId) -> Result<Cancelled> {
        let mut job = self.parts.store.cancel(&call.tenant, id).await?;
        if !job.status.is_terminal() {
            self.parts.cancellation.notify_one();
            job = self.settled(call, id, CANCEL_WAIT).await?;
        }
        if matches!(job.status, JobStatus::Completed | JobStatus::Failed) {
            let message = format!(
                "the job was {} before it could be cancelled",
                job.status.as_str()
            );
            return Err(Error::new(ErrorCode::JobFinished, message));
        }
        Ok(Cancelled {
            job_id: job.job_id,
            status: job.status,
            cancelled_at: job.cancelled_at,
        })
    }

    /// Queues a failed job again, with fresh attempts.
    ///
    /// # Errors
    /// `job_not_found`, `payload_gone`, `invalid_value` when it didn't fail, `store_unavailable`.
    pub async fn retry(&self, call: &Call, id: &JobId) -> Result<JobView> {
        let job = self.parts.store.retry(&call.tenant, id).await?;
        self.view(job).await
    }

    /// The job once it is finished, or as it is when the time is up.
    async fn settled(&self, call: &Call, id: &JobId, at_most: Duration) -> Result<Job> {
        let until = Instant::now() + at_most;
        loop {
            // The cursor is taken first, so that no change between the look and the wait is missed.
            let seen = if at_most.is_zero() {
                Seq::default()
            } else {
                self.parts.store.head().await?
            };
            let job = self.found(call, id).await?;
            let left = until.saturating_duration_since(Instant::now());
            if job.status.is_terminal() || left.is_zero() {
                return Ok(job);
            }
            wait_for_changes(&*self.parts.store, seen, left).await;
        }
    }

    async fn found(&self, call: &Call, id: &JobId) -> Result<Job> {
        let job = self.parts.store.get(&call.tenant, id).await?;
        job.ok_or_else(|| Error::new(ErrorCode::JobNotFound, format!("there is no job {id}")))
    }

    async fn accepted(
        &self,
        inserted: Inserted,
        place: Place,
        forecast: &Forecast,
    ) -> Result<Accepted> {
        let (job, position) = match inserted {
            Inserted::New(job) => {
                let position = self.position_of_new(&job, place).await?;
                (job, position)
            }
            Inserted::Existing(job) => {
                let position = self.parts.store.position(&job.job_id).await?;
                (job, position)
            }
            Inserted::KeyReused => return Err(bulk::key_reused()),
        };
        let estimate = position.and_then(|position| self.parts.estimate(forecast, position));
        Ok(Accepted {
            job_id: job.job_id,
            status: job.status,
            created_at: job.created_at,
            estimated_completion_ms: estimate,
            position_in_queue: position,
        })
    }

    async fn position_of_new(&self, job: &Job, place: Place) -> Result<Option<u64>> {
        let queue = &self.parts.queue;
        if job.depends_on.is_empty()
            && let Some(position) = queue.position_far_behind(place)
        {
            return Ok(Some(position));
        }
        let position = self.parts.store.position(&job.job_id).await?;
        if let Some(position) = position {
            queue.learn(place, position);
        }
        Ok(position)
    }

    async fn view(&self, job: Job) -> Result<JobView> {
        if job.status != JobStatus::Queued {
            return Ok(JobView {
                job,
                position_in_queue: None,
                estimated_completion_ms: None,
            });
        }
        let position = self.parts.store.position(&job.job_id).await?;
        let forecast = self.parts.forecast(&job);
        let estimate = position.and_then(|position| self.parts.estimate(&forecast, position));
        Ok(JobView {
            job,
            position_in_queue: position,
            estimated_completion_ms: estimate,
        })
    }
}

fn window(limit: Option<u32>, offset: Option<u64>) -> Result<Window> {
    let limit = limit.unwrap_or(Window::DEFAULT_LIMIT);
    if !(1..=Window::MOST).contains(&limit) {
        return Err(Error::invalid(
            "limit",
            format!("limit must be from 1 to {}", Window::MOST),
        ));
    }
    Ok(Window {
        limit,
        offset: offset.unwrap_or(0),
    })
}
