//! A generation that was read to its end.

use serde::Serialize;

use super::{
    ChatEvent, ChoiceLogprobs, FinishReason, Role, TokenLogprob, ToolCall, Usage,
    collect_tool_calls,
};

/// Gathers the events of one generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WholeAnswer {
    pub content: String,
    pub reasoning_content: String,
    pub tool_calls: Vec<ToolCall>,
    pub logprobs: Vec<TokenLogprob>,
    /// None until the generation has said why it ended.
    pub finish_reason: Option<FinishReason>,
    pub usage: Usage,
}

impl WholeAnswer {
    pub fn add(&mut self, event: ChatEvent) {
        match event {
            ChatEvent::Delta(delta) => {
                self.content.extend(delta.content);
                self.reasoning_content.extend(delta.reasoning_content);
                collect_tool_calls(&mut self.tool_calls, delta.tool_calls);
                self.logprobs.extend(delta.logprobs);
            }
            ChatEvent::Finish(reason) => self.finish_reason = Some(reason),
            ChatEvent::Usage(usage) => self.usage = usage,
        }
    }

    /// A choice of a `chat.completion`.
    pub fn into_choice(self, index: usize) -> WholeChoice {
        // Beside calls no content is null, not empty.
        let is_silent = self.content.is_empty() && !self.tool_calls.is_empty();
        WholeChoice {
            index,
            message: WholeMessage {
                role: Role::Assistant,
                content: (!is_silent).then_some(self.content),
                reasoning_content: self.reasoning_content,
                tool_calls: self.tool_calls,
            },
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Stop),
            logprobs: (!self.logprobs.is_empty()).then_some(ChoiceLogprobs {
                content: self.logprobs,
            }),
        }
    }
}

/// One `chat.completion` on the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WholeChat<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    pub object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
    pub model: &'a str,
    pub choices: Vec<WholeChoice>,
    pub usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
}

impl WholeChat<'_> {
    pub const OBJECT: &'static str = "chat.completion";
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WholeChoice {
    index: usize,
    message: WholeMessage,
    finish_reason: FinishReason,
    logprobs: Option<ChoiceLogprobs>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct WholeMessage {
    role: Role,
    content: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}
