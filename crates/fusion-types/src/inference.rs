//! The one way to run a model, and the one way to ask which.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    Call, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest},
    completion::CompletionRequest,
    embedding::{EmbedRequest, Vectors},
    model::{Capability, ModelCard, ModelId},
    model_ref::ModelRef,
    rerank::{RerankRequest, Scores},
};

/// Runs models; implemented by fusion-models. The `model` in a request is a [`ModelRef`] as text.
///
/// Every method waits for the model to be loaded and for a slot, within the call's deadline. Dropping the future or the
/// stream cancels the work down to the engine.
#[async_trait]
pub trait Inference: Send + Sync {
    /// # Errors
    /// Everything that goes wrong before the first event: an unknown model, a full queue, a prompt that doesn't fit, a
    /// crash. What goes wrong later is the stream's last item.
    async fn chat(&self, call: &Call, request: ChatRequest) -> Result<Generation>;

    /// Goes on with a text as it is, without a chat template around it.
    ///
    /// # Errors
    /// As for [`Inference::chat`]; `unsupported_operation` where the model can't.
    async fn complete(&self, _call: &Call, _request: CompletionRequest) -> Result<Generation> {
        let message = "text completion is not supported here";
        Err(Error::new(ErrorCode::UnsupportedOperation, message))
    }

    async fn embed(&self, call: &Call, request: EmbedRequest) -> Result<Embedded>;

    async fn rerank(&self, call: &Call, request: RerankRequest) -> Result<Reranked>;

    /// For each text its tokens as byte spans, special tokens left out, so that a document is tokenized once and then cut
    /// by arithmetic.
    async fn tokenize(
        &self,
        call: &Call,
        model: &ModelRef,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<Range<u32>>>>;
}

/// A running generation. The stream owns the model's lease: it ends when the stream is dropped.
pub struct Generation {
    pub model: ModelId,
    /// Why this model, where it was chosen by routing.
    pub route: Option<Arc<str>>,
    /// Deltas, one finish, one usage; or an error as the last item.
    pub events: BoxStream<'static, Result<ChatEvent>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Embedded {
    pub model: ModelId,
    pub vectors: Vectors,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reranked {
    pub model: ModelId,
    pub scores: Scores,
}

/// Answers from a snapshot, without waiting. Advice only: leases alone bind, so runs can't deadlock.
pub trait ModelPlanner: Send + Sync {
    fn models(&self) -> Arc<[ModelCard]>;

    /// Every `model` with which a request gets one of these.
    fn names(&self) -> Vec<String>;

    /// The model that a request for `model` would get now.
    ///
    /// # Errors
    /// `model_not_found` with the nearest names, or `unsupported_operation` when the model lacks a need.
    fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Choice>;

    /// How long one piece of work is expected to wait and to run.
    fn estimate(&self, model: &ModelId, work: &WorkSize) -> WorkEstimate;
}

/// What a request needs of its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub capability: Option<Capability>,
    pub min_context: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub model: ModelId,
    /// Tokens that it reads, where that is known.
    pub context_length: Option<u32>,
    /// One line for people, such as `auto: loaded, least busy of 2`.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkSize {
    pub prompt_tokens: u32,
    pub max_tokens: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkEstimate {
    pub wait: Duration,
    pub run: Duration,
    /// Slots that could start work now; 0 also where the model would first have to be loaded.
    pub free_slots: u32,
    /// Loaded, or could be loaded within the budget now.
    pub runnable: bool,
}
