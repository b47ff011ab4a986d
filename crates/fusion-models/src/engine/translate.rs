//! What other servers say, read as our own engines say it.

use fusion_types::{Error, ErrorCode, Result, chat::Sampling};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::client::unreadable;

/// The body of a request for text: always streamed, with the usage at its end, and under the name that the server has for its model.
pub(super) fn body(request: &impl Serialize, sampling: &Sampling, model: &str) -> Result<Value> {
    let mut body =
        serde_json::to_value(request).map_err(|error| Error::internal(error.to_string()))?;
    body["model"] = model.into();
    body["stream_options"] = json!({ "include_usage": true });
    if let Some(penalty) = sampling.repetition_penalty {
        // llama.cpp's name for it.
        body["repeat_penalty"] = penalty.into();
    }
    Ok(body)
}

/// A chunk of a stream, or the error that ends it.
pub(super) fn chunk<T: DeserializeOwned>(data: &str) -> Result<T> {
    let mut chunk: Value =
        serde_json::from_str(data).map_err(|error| unreadable(&error.to_string()))?;
    if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
        return Err(read_error(error, ErrorCode::EngineUnavailable));
    }
    let Some(fields) = chunk.as_object_mut() else {
        return Err(unreadable("an event is not an object"));
    };
    // Nobody looks at the others, and their types differ from one server to the next.
    fields.retain(|name, value| matches!(name.as_str(), "choices" | "usage") && !value.is_null());
    let choices = fields.get_mut("choices").and_then(Value::as_array_mut);
    for choice in choices.into_iter().flatten() {
        plain(choice);
    }
    if let Some(usage) = fields.get_mut("usage").and_then(Value::as_object_mut) {
        complete(usage);
    }
    serde_json::from_value(chunk).map_err(|error| unreadable(&error.to_string()))
}

/// Nulls go, and a reason to finish that the contract doesn't have becomes `stop`.
fn plain(choice: &mut Value) {
    const OURS: [&str; 3] = ["stop", "length", "tool_calls"];
    if let Some(fields) = choice.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        if let Some(reason) = fields.get_mut("finish_reason")
            && !reason.as_str().is_some_and(|reason| OURS.contains(&reason))
        {
            *reason = "stop".into();
        }
        if let Some(reasoning) = fields
            .get_mut("delta")
            .and_then(Value::as_object_mut)
            .and_then(|delta| {
                delta.retain(|_, value| !value.is_null());
                // As mlx_lm has it.
                delta.remove("reasoning")
            })
        {
            fields["delta"]["reasoning_content"] = reasoning;
        }
    }
}

fn complete(usage: &mut Map<String, Value>) {
    usage.retain(|_, value| !value.is_null());
    let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
    usage.insert("prompt_tokens".to_owned(), prompt.into());
    usage
        .entry("total_tokens")
        .or_insert((prompt + completion).into());
    let cached = usage
        .remove("prompt_tokens_details")
        .and_then(|details| details.get("cached_tokens")?.as_u64());
    if let Some(cached) = cached {
        usage.insert(
            "prompt_tokens_details".to_owned(),
            json!({ "cached_tokens": cached }),
        );
    }
}

/// The error in a body, in any of the shapes that servers have for it.
pub(super) fn error_of(body: &[u8], fallback: ErrorCode) -> Option<Error> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error").or_else(|| body.get("detail"))?;
    Some(read_error(error, fallback))
}

fn read_error(error: &Value, fallback: ErrorCode) -> Error {
    let message = match error {
        Value::String(message) => message.clone(),
        Value::Object(fields) => match fields.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => error.to_string(),
        },
        _ => error.to_string(),
    };
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    let code = text("code").and_then(ErrorCode::parse);
    let too_long = text("type") == Some("exceed_context_size_error");
    let code = code.or(too_long.then_some(ErrorCode::ContextLengthExceeded));
    Error::new(code.unwrap_or(fallback), message)
}

#[cfg(test)]
mod tests {
    use fusion_types::chat::{ChatEvent, Delta, FinishReason, Role, Usage};
    use proptest::prelude::*;

    use fusion_types::{chat::ChunkChoice, engine::EngineChunk};

    use super::*;

    fn events(data: &str) -> Vec<ChatEvent> {
        chunk::<EngineChunk<ChunkChoice>>(data)
            .unwrap()
            .into_events()
            .collect()
    }

    #[test]
    fn chunks_of_other_servers_are_read() {
        let first = r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null,"tool_calls":null}}],"created":1.5,"id":7}"#;
        let role = Delta {
            role: Some(Role::Assistant),
            ..Delta::default()
        };
        assert_eq!(events(first), [ChatEvent::Delta(role)]);
        let last = r#"{"choices":[{"delta":{"content":"x","reasoning":"y"},"finish_reason":"eos","logprobs":null}],"usage":null}"#;
        let delta = Delta {
            reasoning_content: Some("y".to_owned()),
            ..Delta::text("x")
        };
        assert_eq!(
            events(last),
            [
                ChatEvent::Delta(delta),
                ChatEvent::Finish(FinishReason::Stop)
            ]
        );
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"audio":1}}}"#;
        assert_eq!(events(usage), [ChatEvent::Usage(Usage::new(3, 2))]);
    }

    #[test]
    fn errors_of_other_servers_are_read() {
        let cases = [
            (
                r#"{"error":{"code":500,"message":"a","type":"server_error"}}"#,
                "a",
            ),
            (r#"{"error":"b"}"#, "b"),
            (r#"{"detail":"c"}"#, "c"),
        ];
        for (body, message) in cases {
            let error = error_of(body.as_bytes(), ErrorCode::EngineUnavailable).unwrap();
            assert_eq!(
                (error.code, error.message.as_str()),
                (ErrorCode::EngineUnavailable, message)
            );
        }
        let too_long =
            br#"{"error":{"code":400,"message":"m","type":"exceed_context_size_error"}}"#;
        let error = error_of(too_long, ErrorCode::InvalidValue).unwrap();
        assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
        assert!(error_of(b"<html>", ErrorCode::InvalidValue).is_none());
        assert_eq!(
            chunk::<EngineChunk<ChunkChoice>>(r#"{"error":"b"}"#)
                .unwrap_err()
                .message,
            "b"
        );
    }

    proptest! {
        #[test]
        fn junk_is_an_error_and_nothing_worse(text in "[ -~]{0,60}", inner in "[ -~]{0,30}") {
            let _ = chunk::<EngineChunk<ChunkChoice>>(&text);
            let _ = chunk::<EngineChunk<ChunkChoice>>(&format!(r#"{{"choices":[{{"delta":{inner}}}],"usage":{inner}}}"#));
            let _ = error_of(text.as_bytes(), ErrorCode::InvalidValue);
        }
    }
}
