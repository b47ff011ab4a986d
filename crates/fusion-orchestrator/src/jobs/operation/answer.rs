//! A generation's whole answer, or several, as a job's result.

use fusion_types::{
    Error, ErrorCode, Result,
    chat::{ChatEvent, FinishReason, TokenLogprob, ToolCall, Usage, WholeAnswer},
    model::ModelId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Progress;
use crate::choices::Choices;

/// Assumed where the request sets no limit.
pub(super) const TYPICAL_TOKENS: u32 = 256;

/// What the operations `chat` and `completion` come to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generated {
    /// The model that answered, which a name such as `auto` doesn't tell.
    pub model: ModelId,
    #[serde(flatten)]
    first: Choice,
    /// All answers, the first one too; empty where it is the only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    choices: Vec<Choice>,
    /// Of all answers.
    pub usage: Usage,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Choice {
    content: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<TokenLogprob>,
    finish_reason: FinishReason,
}

impl Generated {
    /// In order; usage is told of all of them together.
    pub fn into_answers(self) -> Vec<WholeAnswer> {
        let choices = match self.choices.is_empty() {
            true => vec![self.first],
            false => self.choices,
        };
        choices.into_iter().map(WholeAnswer::from).collect()
    }
}

impl From<Choice> for WholeAnswer {
    fn from(choice: Choice) -> Self {
        Self {
            content: choice.content,
            reasoning_content: choice.reasoning_content,
            tool_calls: choice.tool_calls,
            logprobs: choice.logprobs,
            finish_reason: Some(choice.finish_reason),
            usage: Usage::default(),
        }
    }
}

impl TryFrom<WholeAnswer> for Choice {
    type Error = Error;

    fn try_from(whole: WholeAnswer) -> Result<Self> {
        let finish_reason = whole.finish_reason.ok_or_else(|| {
            let message = "the answer ended before it was finished";
            Error::new(ErrorCode::EngineCrashed, message)
        })?;
        Ok(Self {
            content: whole.content,
            reasoning_content: whole.reasoning_content,
            tool_calls: whole.tool_calls,
            logprobs: whole.logprobs,
            finish_reason,
        })
    }
}

/// What is partly there is the first answer.
///
/// # Errors
/// Of the generation; `engine_crashed` where it ended without a reason.
pub(super) async fn whole(mut answers: Choices, progress: &Progress) -> Result<Value> {
    let mut wholes = vec![WholeAnswer::default(); answers.count];
    while let Some(event) = answers.next().await {
        let (index, event) = event?;
        if index == 0
            && let ChatEvent::Delta(delta) = &event
        {
            progress.add(
                delta.content.as_deref().unwrap_or_default(),
                delta.reasoning_content.as_deref().unwrap_or_default(),
            );
        }
        if let Some(whole) = wholes.get_mut(index) {
            whole.add(event);
        }
    }
    let choices = wholes.into_iter().map(Choice::try_from);
    let mut choices = choices.collect::<Result<Vec<_>>>()?;
    let first = match choices.len() {
        1 => choices.pop(),
        _ => choices.first().cloned(),
    };
    let generated = Generated {
        usage: answers.usage().unwrap_or_default(),
        first: first.ok_or_else(|| Error::internal("an answer that nobody asked for"))?,
        model: answers.model,
        choices,
    };
    serde_json::to_value(generated).map_err(|error| Error::internal(error.to_string()))
}
