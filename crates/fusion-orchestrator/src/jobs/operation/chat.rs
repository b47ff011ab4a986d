//! `chat`: the body of a chat completion in, the whole answer out.

use fusion_types::{
    Call, Error, ErrorCode, Result,
    chat::{ChatRequest, FinishReason, ToolCall, Usage, WholeAnswer},
    inference::{Inference, WorkSize},
};
use futures::StreamExt;
use serde::Serialize;
use serde_json::Value;

use super::{Work, fields, in_input, rough_tokens};

/// Assumed where the request sets no limit.
const TYPICAL_ANSWER: u32 = 256;

pub(super) struct Chat(ChatRequest);

#[derive(Serialize)]
struct Answer {
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    finish_reason: FinishReason,
    usage: Usage,
}

pub(super) fn parse(work: &Work) -> Result<Chat> {
    let (model, mut fields) = fields(work)?;
    fields.insert("model".to_owned(), Value::from(model));
    // How the answer travels is not the job's to say.
    fields.remove("stream");
    Ok(Chat(
        ChatRequest::read(Value::Object(fields)).map_err(in_input)?,
    ))
}

impl Chat {
    pub(super) fn size(&self) -> WorkSize {
        let texts = self
            .0
            .messages
            .iter()
            .map(|message| message.content.text().len());
        WorkSize {
            prompt_tokens: rough_tokens(texts.sum()),
            max_tokens: self.0.max_tokens.unwrap_or(TYPICAL_ANSWER),
        }
    }

    pub(super) async fn run(self, call: &Call, inference: &dyn Inference) -> Result<Value> {
        let mut generation = inference.chat(call, self.0).await?;
        let mut whole = WholeAnswer::default();
        while let Some(event) = generation.events.next().await {
            whole.add(event?);
        }
        let Some(finish_reason) = whole.finish_reason else {
            let message = "the answer ended before it was finished";
            return Err(Error::new(ErrorCode::EngineCrashed, message));
        };
        let answer = Answer {
            content: whole.content,
            reasoning_content: whole.reasoning_content,
            tool_calls: whole.tool_calls,
            finish_reason,
            usage: whole.usage,
        };
        serde_json::to_value(answer).map_err(|error| Error::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use fusion_types::job::Operation;
    use serde_json::json;

    use super::*;

    fn parse_input(input: Value) -> Result<Chat> {
        parse(&Work {
            operation: Operation::Chat,
            model_id: Some("m".to_owned()),
            input,
        })
    }

    #[test]
    fn an_openai_body_is_read() {
        let chat = parse_input(json!({
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_completion_tokens": 7,
            "stream": true,
        }))
        .unwrap();
        assert_eq!(chat.0.model, "m");
        assert_eq!(chat.0.max_tokens, Some(7));
        assert!(!chat.0.stream);
    }

    #[test]
    fn a_bad_body_is_refused_by_its_place_in_the_job() {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        let cases = [
            (json!("Hello"), "input"),
            (json!({}), "input.messages"),
            (json!({"messages": []}), "input.messages"),
            (json!({"messages": messages, "model": "x"}), "input.model"),
            (
                json!({"messages": messages, "temperature": 3}),
                "input.temperature",
            ),
        ];
        for (input, param) in cases {
            let error = parse_input(input).err().unwrap();
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
        }
    }
}
