//! Jobs with everything around them scripted: operations that do as they are told, a planner of three models.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fusion_orchestrator::jobs::{self, Forecast, Jobs, Operations, Progress, RunnerConfig, Work};
use fusion_types::{
    Call, Error, ErrorCode, Result, Tenant, Timestamp,
    id::{JobId, RequestId},
    inference::{Choice, ModelPlanner, Needs, WorkEstimate, WorkSize},
    job::Owner,
    model::{Capability, ModelCard, ModelId, ModelStatus, ModelType, Priority},
    model_ref::ModelRef,
    outgoing::{OutRequest, OutResponse, Outgoing},
    store::JobStore,
};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::jobs_store::MemoryJobs;

pub(crate) fn call() -> Call {
    Call::interactive(RequestId::generate(), Tenant::default())
}

/// What an operation does when it is its turn.
pub(crate) enum Act {
    Answer(Value),
    Fail(Error),
    Hang,
    Panic,
    /// Answers once the token is cancelled.
    AnswerAfter(CancellationToken, Value),
    /// Says the first, and once the token is cancelled the second, then answers.
    Say(&'static str, CancellationToken, &'static str),
    /// Says how far it is, then hangs.
    Tell(f32),
}

/// Does the acts in turn; afterwards every job is answered with `null`.
#[derive(Default)]
pub(crate) struct Script {
    acts: Mutex<VecDeque<Act>>,
    pub(crate) running: watch::Sender<usize>,
    pub(crate) most: AtomicUsize,
}

impl Script {
    pub(crate) fn new(acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self {
            acts: Mutex::new(acts.into_iter().collect()),
            ..Self::default()
        })
    }

    /// Once so many operations run at the same time.
    pub(crate) async fn running(&self, count: usize) {
        let mut running = self.running.subscribe();
        let wait = running.wait_for(|now| *now == count);
        tokio::time::timeout(Duration::from_secs(3600), wait)
            .await
            .expect("never so many")
            .unwrap();
    }
}

/// Counts an operation as running until its future is dropped.
struct Running<'a>(&'a Script);

impl<'a> Running<'a> {
    fn new(script: &'a Script) -> Self {
        script.running.send_modify(|count| *count += 1);
        script
            .most
            .fetch_max(*script.running.borrow(), Ordering::SeqCst);
        Self(script)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.send_modify(|count| *count -= 1);
    }
}

#[async_trait]
impl Operations for Script {
    fn check(&self, _work: &Work) -> Result<Forecast> {
        Ok(Forecast {
            model: Some(ModelId::new("talker")),
            size: WorkSize::default(),
        })
    }

    async fn run(&self, _call: &Call, _work: Work, progress: Progress) -> Result<Value> {
        let _running = Running::new(self);
        let act = self.acts.lock().unwrap().pop_front();
        match act {
            None => Ok(Value::Null),
            Some(Act::Answer(value)) => Ok(value),
            Some(Act::Fail(error)) => Err(error),
            Some(Act::Hang) => pending().await,
            Some(Act::Panic) => panic!("as the script says"),
            Some(Act::AnswerAfter(token, value)) => {
                token.cancelled().await;
                Ok(value)
            }
            Some(Act::Say(first, token, second)) => {
                progress.add(first, "");
                token.cancelled().await;
                progress.add(second, "");
                Ok(json!({ "content": format!("{first}{second}") }))
            }
            Some(Act::Tell(part)) => {
                progress.set(part);
                pending().await
            }
        }
    }
}

/// Knows `talker` (chat), `embedder` (embeddings) and `judge` (rerank), two loaded slots each.
pub(crate) struct Planner;

fn cards() -> [(&'static str, Capability); 3] {
    [
        ("talker", Capability::Chat),
        ("embedder", Capability::Embeddings),
        ("judge", Capability::Rerank),
    ]
}

impl ModelPlanner for Planner {
    fn names(&self) -> Vec<String> {
        cards().map(|(id, _)| id.to_owned()).to_vec()
    }

    fn models(&self) -> Arc<[ModelCard]> {
        let card = |(id, capability)| ModelCard {
            id: ModelId::new(id),
            model_type: ModelType::Lm,
            status: ModelStatus::Loaded,
            family: None,
            description: None,
            tags: Vec::new(),
            capabilities: vec![capability],
            context_length: None,
            dimension: None,
            fingerprint: None,
            footprint_bytes: None,
            file_bytes: 0,
            load: 0.0,
            slots: 2,
            pinned: false,
            priority: Priority::Normal,
            aliases: Vec::new(),
            adapters: Vec::new(),
            created_at: Timestamp::from_millis(0),
            metadata: Map::new(),
        };
        cards().into_iter().map(card).collect()
    }

    fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Choice> {
        let ModelRef::Named(name) = model else {
            return Err(Error::not_implemented("routing"));
        };
        let Some((id, capability)) = cards().into_iter().find(|(id, _)| id == name) else {
            return Err(Error::new(ErrorCode::ModelNotFound, "no such model"));
        };
        if needs.capability.is_some_and(|needed| needed != capability) {
            return Err(Error::new(ErrorCode::UnsupportedOperation, "it can't"));
        }
        Ok(Choice {
            model: ModelId::new(id),
            context_length: None,
            reason: "named".to_owned(),
        })
    }

    fn estimate(&self, _model: &ModelId, _work: &WorkSize) -> WorkEstimate {
        WorkEstimate {
            wait: Duration::ZERO,
            run: Duration::from_millis(200),
            free_slots: 2,
            runnable: true,
        }
    }
}

/// Lets nothing out; allows what is `https`.
pub(crate) struct NoWayOut;

#[async_trait]
impl Outgoing for NoWayOut {
    fn check(&self, url: &str) -> Result<()> {
        if url.starts_with("https://") {
            return Ok(());
        }
        Err(Error::new(ErrorCode::UrlNotAllowed, "only https"))
    }

    async fn post(&self, _request: OutRequest) -> Result<OutResponse> {
        Err(Error::new(ErrorCode::UrlNotAllowed, "nothing goes out"))
    }
}

pub(crate) struct Setup {
    pub(crate) store: Arc<MemoryJobs>,
    pub(crate) jobs: Jobs,
    pub(crate) tasks: TaskTracker,
    pub(crate) token: CancellationToken,
}

impl Setup {
    pub(crate) fn new(operations: Arc<dyn Operations>) -> Self {
        Self::with_config(operations, jobs::Config::default())
    }

    pub(crate) fn with_config(operations: Arc<dyn Operations>, config: jobs::Config) -> Self {
        let store = Arc::new(MemoryJobs::new());
        let dyn_store: Arc<dyn JobStore> = Arc::clone(&store) as Arc<dyn JobStore>;
        let clock = Arc::clone(&store);
        let jobs = Jobs::with_clock(
            dyn_store,
            Arc::new(Planner),
            Arc::new(NoWayOut),
            operations,
            config,
            Arc::new(move || clock.now()),
        );
        Self {
            store,
            jobs,
            tasks: TaskTracker::new(),
            token: CancellationToken::new(),
        }
    }

    /// Starts a runner on everything.
    pub(crate) fn start(self) -> Self {
        let runner = self
            .jobs
            .runner(RunnerConfig::new(Owner("runner".to_owned())));
        self.tasks
            .spawn(runner.run(self.tasks.clone(), self.token.clone()));
        self
    }

    /// Ends the runner and waits until nothing of it is left.
    pub(crate) async fn stop(&self) {
        self.token.cancel();
        self.tasks.close();
        let ended = self.tasks.wait();
        tokio::time::timeout(Duration::from_secs(3600), ended)
            .await
            .expect("the runner does not end");
    }

    /// Submits a job that the script does.
    pub(crate) async fn submit(&self, more: Value) -> JobId {
        let mut body = json!({"operation": "chat", "model_id": "talker", "input": {}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let request = serde_json::from_value(body).unwrap();
        self.jobs
            .submit(&call(), request, None)
            .await
            .unwrap()
            .job_id
    }
}
