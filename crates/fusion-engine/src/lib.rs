//! The engine dialect's server side: an executable that carries one model implements [`Engine`] and calls [`main`].
//!
//! The child listens on a Unix socket, prints one line of [`fusion_types::engine::Hello`], answers the OpenAI routes that its
//! model allows and the private `/engine/*` routes, and ends when its standard input does.

mod launch;
mod parent;
mod routes;
mod serve;
mod socket;
mod sse;

use async_trait::async_trait;
use fusion_types::{
    Class, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest},
    completion::CompletionRequest,
    embedding::{EmbedRequest, Vectors},
    engine::{EngineCard, EngineStats, Estimate},
    rerank::{RerankRequest, Scores},
};
use futures::stream::BoxStream;

pub use fusion_types as types;
pub use launch::{Command, Launch};
pub use serve::{main, once, run};

/// Deltas, one finish, one usage; or an error as the last item. Dropping it frees the slot.
pub type ChatStream = BoxStream<'static, Result<ChatEvent>>;

/// One loaded model. What a model can't do keeps its default, which answers `unsupported_operation`.
#[async_trait]
pub trait Engine: Sized + Send + Sync + 'static {
    /// Loads the model; called on a plain thread, may take long.
    ///
    /// # Errors
    /// `invalid_value` for a file that can't be this kind of model, `engine_unavailable` for anything else.
    fn load(launch: &Launch) -> Result<Self>;

    /// What the model would need, without loading it.
    ///
    /// # Errors
    /// As for [`Engine::load`].
    fn estimate(launch: &Launch) -> Result<Estimate>;

    fn card(&self) -> EngineCard;

    fn stats(&self) -> EngineStats;

    /// Starts a generation; an error here is the response's status.
    async fn chat(&self, _request: ChatRequest, _class: Class) -> Result<ChatStream> {
        Err(unsupported("chat"))
    }

    /// Goes on with a text as it is; otherwise as [`Engine::chat`].
    async fn complete(&self, _request: CompletionRequest, _class: Class) -> Result<ChatStream> {
        Err(unsupported("text completion"))
    }

    async fn embed(&self, _request: EmbedRequest) -> Result<Vectors> {
        Err(unsupported("embeddings"))
    }

    async fn rerank(&self, _request: RerankRequest) -> Result<Scores> {
        Err(unsupported("reranking"))
    }

    /// Byte spans of each text's tokens, special tokens left out.
    async fn tokenize(&self, _texts: Vec<String>) -> Result<Vec<Vec<(u32, u32)>>> {
        Err(unsupported("tokenizing"))
    }

    /// Computation threads from the next step on.
    fn set_threads(&self, _threads: u32) {}
}

fn unsupported(what: &str) -> Error {
    Error::new(
        ErrorCode::UnsupportedOperation,
        format!("this model does not support {what}"),
    )
}
