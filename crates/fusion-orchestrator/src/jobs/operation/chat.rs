//! `chat`: the body of a chat completion in, the whole answer out.

use std::sync::Arc;

use fusion_types::{
    Call, Result,
    chat::ChatRequest,
    inference::{Inference, WorkSize},
};
use serde_json::Value;

use super::{Progress, Work, answer, fields, in_input, rough_tokens};
use crate::choices::{Choices, Wanted};

pub(super) struct Chat(ChatRequest);

pub(super) fn parse(work: &Work) -> Result<Chat> {
    let (model, mut fields) = fields(work)?;
    fields.insert("model".to_owned(), Value::from(model));
    // How the answer travels is not the job's to say.
    fields.remove("stream");
    let request = ChatRequest::read(Value::Object(fields)).map_err(in_input)?;
    Ok(Chat(request))
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
            max_tokens: self
                .0
                .max_tokens
                .unwrap_or(answer::TYPICAL_TOKENS)
                .saturating_mul(self.0.n.unwrap_or(1)),
        }
    }

    pub(super) async fn run(
        self,
        call: &Call,
        inference: &Arc<dyn Inference>,
        progress: &Progress,
    ) -> Result<Value> {
        let wanted = Wanted::chats(self.0);
        let n = wanted.len();
        let answers = Choices::begin(inference, call, wanted, n).await?;
        answer::whole(answers, progress).await
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
            (json!({"messages": messages, "n": 0}), "input.n"),
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
