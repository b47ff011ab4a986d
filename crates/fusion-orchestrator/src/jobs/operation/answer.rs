//! A generation's whole answer as a job's result.

use fusion_types::{
    Error, ErrorCode, Result,
    chat::{ChatEvent, FinishReason, TokenLogprob, ToolCall, Usage, WholeAnswer},
    inference::Generation,
    model::ModelId,
};
use futures::StreamExt;
use serde::Serialize;
use serde_json::Value;

use super::Progress;

/// Assumed where the request sets no limit.
pub(super) const TYPICAL_TOKENS: u32 = 256;

#[derive(Serialize)]
struct Answer {
    /// The model that answered, which a name such as `auto` doesn't tell.
    model: ModelId,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<TokenLogprob>,
    finish_reason: FinishReason,
    usage: Usage,
}

/// # Errors
/// Of the generation; `engine_crashed` where it ended without a reason.
pub(super) async fn whole(mut generation: Generation, progress: &Progress) -> Result<Value> {
    let mut whole = WholeAnswer::default();
    while let Some(event) = generation.events.next().await {
        let event = event?;
        if let ChatEvent::Delta(delta) = &event {
            progress.add(
                delta.content.as_deref().unwrap_or_default(),
                delta.reasoning_content.as_deref().unwrap_or_default(),
            );
        }
        whole.add(event);
    }
    let Some(finish_reason) = whole.finish_reason else {
        let message = "the answer ended before it was finished";
        return Err(Error::new(ErrorCode::EngineCrashed, message));
    };
    let answer = Answer {
        model: generation.model,
        content: whole.content,
        reasoning_content: whole.reasoning_content,
        tool_calls: whole.tool_calls,
        logprobs: whole.logprobs,
        finish_reason,
        usage: whole.usage,
    };
    serde_json::to_value(answer).map_err(|error| Error::internal(error.to_string()))
}

/// A job has one result.
pub(super) fn only_one() -> Error {
    Error::invalid("input.n", "a job gives one answer; submit one for each")
}
