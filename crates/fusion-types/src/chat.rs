//! Chat as the OpenAI dialect has it: the request that goes to an engine, and the events that come back.

mod answer;
mod content;
mod format;
mod logprobs;
pub mod media_check;
mod tools;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::engine::EngineChoice;

pub use answer::{WholeAnswer, WholeChat, WholeChoice};
pub use content::{Content, ImageUrl, InputAudio, MediaFile, MediaKind, Part, UploadedFile};
pub use format::{NamedSchema, ResponseFormat};
pub use logprobs::{ChoiceLogprobs, TokenLogprob, TopLogprob};
pub use tools::{
    FunctionDelta, FunctionTool, NamedFunction, Tool, ToolCall, ToolCallDelta, ToolCallFunction,
    ToolChoice, ToolKind, ToolMode, collect_tool_calls,
};

/// A chat for one model, checked at the edge. Serialized as it is, it is the body of the engine's `/v1/chat/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub stop: Vec<String>,
    /// Most tokens to generate; without it as many as the context has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(flatten)]
    pub sampling: Sampling,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub chat_template_kwargs: Map<String, Value>,
    #[serde(default)]
    pub stream: bool,
    /// What the answer must look like; enforced while it is drawn.
    #[serde(default, skip_serializing_if = "ResponseFormat::is_text")]
    pub response_format: ResponseFormat,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may hold several calls; without it, yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Added to the logits of tokens, by id; -100 bans, 100 all but forces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<String, f32>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub logprobs: bool,
    /// How many of the likeliest tokens are told at each place; needs `logprobs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// How long a thinking model may think, where its template knows: `none`, `minimal`, `low`, `medium`, `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// How many answers are wanted; without it one. Engines give one each time they are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
}

impl ChatRequest {
    /// Parts that aren't text, each with its message's and its own place.
    pub fn media(&self) -> impl Iterator<Item = (usize, usize, &Part)> {
        self.messages.iter().enumerate().flat_map(|(at, message)| {
            let media = message.content.media();
            media.map(move |(index, part)| (at, index, part))
        })
    }

    /// Whether the answer may hold calls.
    pub fn may_call_tools(&self) -> bool {
        !self.tools.is_empty() && self.tool_choice != Some(ToolChoice::Mode(ToolMode::None))
    }

    /// Whether the answer must be a call.
    pub fn must_call_tools(&self) -> bool {
        let choice = self.tool_choice.as_ref();
        choice.is_some_and(|choice| *choice == ToolChoice::Mode(ToolMode::Required))
            || self.named_tool().is_some()
    }

    /// The only tool that may be called, where the request names one.
    pub fn named_tool(&self) -> Option<&str> {
        match &self.tool_choice {
            Some(ToolChoice::Named { function, .. }) => Some(&function.name),
            _ => None,
        }
    }

    /// Whether the answer may hold several calls. Whoever names a tool wants it called once.
    pub fn may_call_several(&self) -> bool {
        self.named_tool().is_none() && self.parallel_tool_calls.unwrap_or(true)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    #[serde(default)]
    pub content: Content,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What an assistant's message asked for.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    pub fn new(role: Role, content: impl Into<Content>) -> Self {
        Self {
            role,
            content: content.into(),
            name: None,
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// How the next token is drawn. `None` leaves the choice to the engine's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The LoRA adapters to apply, and none but them; without it, all as they were loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters: Option<Vec<AdapterScale>>,
}

/// How strongly an adapter of the model is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterScale {
    pub name: String,
    #[serde(default = "fully")]
    pub scale: f32,
}

fn fully() -> f32 {
    1.0
}

/// What a generation says, in order: deltas, then one finish, then one usage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatEvent {
    Delta(Delta),
    Finish(FinishReason),
    Usage(Usage),
}

/// What was added to the answer. Never splits a UTF-8 character, never holds a part of a stop string.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
    /// Of the tokens that this brought. On the wire it stands beside the delta: see [`ChunkChoice`].
    #[serde(skip)]
    pub logprobs: Vec<TokenLogprob>,
}

impl Delta {
    pub fn text(content: impl Into<String>) -> Self {
        Self {
            content: Some(content.into()),
            ..Self::default()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
}

/// Tokens read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    #[serde(default)]
    pub completion_tokens: u32,
    pub total_tokens: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
}

impl Usage {
    pub fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    pub cached_tokens: u32,
}

/// One `chat.completion.chunk` to a client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChunk {
    pub id: String,
    pub object: &'static str,
    pub created: i64,
    pub model: String,
    pub choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    #[serde(default)]
    pub index: u32,
    #[serde(default)]
    pub delta: Delta,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChoiceLogprobs>,
    pub finish_reason: Option<FinishReason>,
}

impl ChunkChoice {
    pub fn delta(index: u32, mut delta: Delta) -> Self {
        let content = std::mem::take(&mut delta.logprobs);
        Self {
            index,
            delta,
            logprobs: (!content.is_empty()).then_some(ChoiceLogprobs { content }),
            finish_reason: None,
        }
    }

    pub fn finish(index: u32, reason: FinishReason) -> Self {
        Self {
            finish_reason: Some(reason),
            ..Self::delta(index, Delta::default())
        }
    }
}

impl EngineChoice for ChunkChoice {
    fn said(self) -> (Delta, Option<FinishReason>) {
        let delta = Delta {
            logprobs: self.logprobs.unwrap_or_default().content,
            ..self.delta
        };
        (delta, self.finish_reason)
    }
}

impl ChatChunk {
    pub const OBJECT: &str = "chat.completion.chunk";
}

fn is_false(value: &bool) -> bool {
    !value
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum Stop {
        None,
        One(String),
        Many(Vec<String>),
    }
    Ok(match Stop::deserialize(deserializer)? {
        Stop::None => Vec::new(),
        Stop::One(text) => vec![text],
        Stop::Many(list) => list,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineChunk;

    #[test]
    fn reads_text_parts_and_a_single_stop() {
        let request: ChatRequest = serde_json::from_str(
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],
                "stop":"x","temperature":0.5}"#,
        )
        .unwrap();
        assert_eq!(request.messages[0].content, "ab");
        assert_eq!(request.stop, ["x"]);
        assert_eq!(request.sampling.temperature, Some(0.5));
    }

    #[test]
    fn a_chunk_becomes_its_events() {
        let chunk: EngineChunk<ChunkChoice> = serde_json::from_str(
            r#"{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}],
                "usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
        )
        .unwrap();
        let events: Vec<_> = chunk.into_events().collect();
        assert_eq!(
            events,
            [
                ChatEvent::Delta(Delta::text("hi")),
                ChatEvent::Finish(FinishReason::Stop),
                ChatEvent::Usage(Usage::new(1, 2))
            ]
        );
    }
}
