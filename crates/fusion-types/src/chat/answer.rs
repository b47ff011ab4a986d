//! A generation that was read to its end.

use serde_json::{Value, json};

use super::{ChatEvent, FinishReason, TokenLogprob, ToolCall, Usage, collect_tool_calls};

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

    /// A choice of a `chat.completion`. Beside calls no content is null, not empty.
    pub fn into_choice(self, index: usize) -> Value {
        let content = if self.content.is_empty() && !self.tool_calls.is_empty() {
            Value::Null
        } else {
            self.content.into()
        };
        let mut message = json!({ "role": "assistant", "content": content });
        if !self.reasoning_content.is_empty() {
            message["reasoning_content"] = self.reasoning_content.into();
        }
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = json!(self.tool_calls);
        }
        let logprobs = if self.logprobs.is_empty() {
            Value::Null
        } else {
            json!({ "content": self.logprobs })
        };
        json!({
            "index": index,
            "message": message,
            "finish_reason": self.finish_reason.unwrap_or(FinishReason::Stop),
            "logprobs": logprobs,
        })
    }
}
