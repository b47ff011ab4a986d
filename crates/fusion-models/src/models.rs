//! The handle that everybody holds.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use fusion_types::{
    Call, Error, Result,
    chat::ChatRequest,
    embedding::EmbedRequest,
    inference::{Choice, Embedded, Generation, Inference, ModelPlanner, Needs, Reranked, WorkEstimate, WorkSize},
    model::{ModelCard, ModelId},
    model_ref::ModelRef,
    rerank::RerankRequest,
    store::RecordStore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Config, LoadPlan, LoadReport, LoadRequest, ModelInfo, QueueStats, UnloadReport};

/// A cheap handle on all models. When the last one is dropped, or the token given to [`Models::start`] is cancelled, every
/// engine is ended.
#[derive(Clone)]
pub struct Models {}

#[expect(clippy::unused_async, reason = "signatures first")]
impl Models {
    /// Finds what can be loaded, and starts loading what the configuration wants loaded.
    ///
    /// The registry runs on `tasks`. Once `token` is cancelled nothing new is accepted; running requests have
    /// [`Config::drain_timeout`] to end, then the engines do, and only then does the registry's task.
    ///
    /// # Errors
    /// `invalid_value` for a definition that can't be, `store_unavailable`, `internal_error` where no runtime folder can be made.
    pub async fn start(
        _config: Config,
        _records: Arc<dyn RecordStore>,
        _tasks: TaskTracker,
        _token: CancellationToken,
    ) -> Result<Self> {
        Err(Error::not_implemented("models"))
    }

    /// Loads a model and remembers it over a restart.
    ///
    /// # Errors
    /// `invalid_value`, `model_not_found`, `model_already_loaded`, `insufficient_vram`, `not_implemented`, and what the engine says.
    pub async fn load(&self, _request: LoadRequest) -> Result<LoadReport> {
        Err(Error::not_implemented("loading"))
    }

    /// What [`Models::load`] would do; changes nothing.
    ///
    /// # Errors
    /// As for [`Models::load`], except for `insufficient_vram`, which the plan itself tells.
    pub async fn plan_load(&self, _request: LoadRequest) -> Result<LoadPlan> {
        Err(Error::not_implemented("planning a load"))
    }

    /// Ends a model's engine; with `force` also while it answers requests, which then end with an error.
    ///
    /// # Errors
    /// `model_not_found`; `model_in_use` without `force`.
    pub async fn unload(&self, _name: &str, _force: bool) -> Result<UnloadReport> {
        Err(Error::not_implemented("unloading"))
    }

    /// All that is loaded or could be, by id.
    pub fn cards(&self) -> Arc<[ModelCard]> {
        Arc::new([])
    }

    /// By id or alias.
    ///
    /// # Errors
    /// `model_not_found` with the nearest names.
    pub fn card(&self, _name: &str) -> Result<ModelCard> {
        Err(Error::not_implemented("models"))
    }

    /// By id or alias.
    ///
    /// # Errors
    /// `model_not_found` with the nearest names.
    pub async fn info(&self, _name: &str) -> Result<ModelInfo> {
        Err(Error::not_implemented("models"))
    }

    pub fn queue_stats(&self) -> QueueStats {
        QueueStats::default()
    }

    /// Looks again at the models folder, for files that came since.
    ///
    /// # Errors
    /// `engine_unavailable` while the server shuts down.
    pub async fn rescan(&self) -> Result<()> {
        Ok(())
    }

    /// # Errors
    /// `not_implemented`, always for now.
    pub async fn warmup(&self, _name: &str, _prompt: &str) -> Result<()> {
        Err(Error::not_implemented("warming a model up"))
    }
}

#[async_trait]
impl Inference for Models {
    async fn chat(&self, _call: &Call, _request: ChatRequest) -> Result<Generation> {
        Err(Error::not_implemented("chat"))
    }

    async fn embed(&self, _call: &Call, _request: EmbedRequest) -> Result<Embedded> {
        Err(Error::not_implemented("embeddings"))
    }

    async fn rerank(&self, _call: &Call, _request: RerankRequest) -> Result<Reranked> {
        Err(Error::not_implemented("reranking"))
    }

    async fn tokenize(&self, _call: &Call, _model: &ModelRef, _texts: Vec<String>) -> Result<Vec<Vec<Range<u32>>>> {
        Err(Error::not_implemented("tokenizing"))
    }
}

impl ModelPlanner for Models {
    fn models(&self) -> Arc<[ModelCard]> {
        self.cards()
    }

    fn choose(&self, _model: &ModelRef, _needs: &Needs) -> Result<Choice> {
        Err(Error::not_implemented("routing"))
    }

    fn estimate(&self, _model: &ModelId, _work: &WorkSize) -> WorkEstimate {
        WorkEstimate::default()
    }
}
