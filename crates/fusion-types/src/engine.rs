//! What the server and its engine children tell each other beside the OpenAI routes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    chat::{ChatEvent, Delta, FinishReason, Usage},
    model::{Capability, ModelType},
};

/// The dialect that both sides must speak; a child with another number is refused.
pub const DIALECT: u32 = 1;

/// The header in which a request for generated text says whose it is: a [`crate::Class`].
pub const CLASS_HEADER: &str = "x-fusion-class";

/// The one line that a child prints on standard output: `{"fusion":1,"ready":{…}}` or `{"fusion":1,"error":{code,message}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub fusion: u32,
    #[serde(flatten)]
    pub outcome: HelloOutcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HelloOutcome {
    Ready(EngineCard),
    Error(HelloError),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloError {
    /// A code of the contract.
    pub code: String,
    pub message: String,
    /// What of the launch is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
}

/// What a loaded model can do; also the answer of `GET /engine/ready`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineCard {
    pub model_type: ModelType,
    pub family: Option<String>,
    pub capabilities: Vec<Capability>,
    /// Tokens that a slot can hold, prompt and answer together.
    pub context_length: u32,
    /// Generations that run side by side.
    pub slots: u32,
    /// Length of an embedding, for models that make them.
    pub dimension: Option<u32>,
    /// Identifies weights, tokenizer, pooling and prompts: two models with the same fingerprint make the same vectors.
    pub fingerprint: String,
    /// What the tensors are stored as: `q4_1`, `f32`, `int8` …
    pub quantization: Option<String>,
}

/// One event of a generation's stream, or the whole of one that isn't streamed: the dialect's chunk without what the server
/// says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineChunk<C> {
    #[serde(default = "Vec::new")]
    pub choices: Vec<C>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// A choice in the shape of its route.
pub trait EngineChoice {
    /// What it adds to the answer, and why that ended.
    fn said(self) -> (Delta, Option<FinishReason>);
}

impl<C: EngineChoice> EngineChunk<C> {
    /// The events that it carries, in order.
    pub fn into_events(self) -> impl Iterator<Item = ChatEvent> {
        let choices = self.choices.into_iter().flat_map(|choice| {
            let (delta, finish) = choice.said();
            let says = delta != Delta::default();
            let delta = says.then_some(ChatEvent::Delta(delta));
            delta.into_iter().chain(finish.map(ChatEvent::Finish))
        });
        choices.chain(self.usage.map(ChatEvent::Usage))
    }
}

/// The answer of `GET /engine/stats`. Byte figures are the engine's own account; the server measures the process itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineStats {
    pub weights_bytes: u64,
    pub kv_used_bytes: u64,
    pub kv_reserved_bytes: u64,
    /// Buffers of the computation, and the most that prefixes may take outside the KV cache.
    pub scratch_bytes: u64,
    /// Prefixes kept outside the KV cache, ready for whoever begins alike.
    pub stowed_bytes: u64,
    pub slots_busy: u32,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// Batches run that generated at least one token: under `tokens_out` when streams share steps.
    pub decode_steps: u64,
    pub prefix_cache_hits: u64,
    /// Tokens guessed ahead of the model, and those of them that the model then chose.
    pub draft_tokens: u64,
    pub draft_accepted: u64,
}

/// A LoRA adapter that a model is loaded with; an engine gets all of them as a JSON list, its option `adapters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    pub name: String,
    pub path: PathBuf,
    /// How strongly it is applied where a request doesn't say.
    pub scale: f32,
}

/// The body of `POST /engine/tokenize`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenizeRequest {
    pub texts: Vec<String>,
}

/// For each text its tokens, special ones left out, as `[start, end)` byte spans into the text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenizeResponse {
    pub spans: Vec<Vec<(u32, u32)>>,
}

/// The body of `POST /engine/limits`, applied between steps.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EngineLimits {
    pub threads: u32,
}

/// What `ENGINE estimate FILE` prints: bytes that the model will need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    pub weights_bytes: u64,
    /// KV cache for all slots.
    pub context_bytes: u64,
    /// Buffers of the computation, and the most that prefixes may take outside the KV cache.
    pub compute_bytes: u64,
}

impl Estimate {
    pub fn total(&self) -> u64 {
        self.weights_bytes
            .saturating_add(self.context_bytes)
            .saturating_add(self.compute_bytes)
    }
}
