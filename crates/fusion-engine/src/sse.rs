//! A generation as server-sent events, or gathered into one answer.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use fusion_types::{
    Error, Result,
    chat::{ChatChunk, ChatEvent, ChunkChoice, Delta, FinishReason, Usage},
    error::ErrorBody,
};
use futures::{StreamExt, stream};
use serde_json::json;

use crate::ChatStream;

/// Every event as it comes, then `[DONE]`; an error ends the stream without it. Dropping the response drops the generation.
pub(crate) fn stream(model: String, events: ChatStream) -> Response {
    let done = stream::iter([Ok("data: [DONE]\n\n".to_owned())]);
    let lines = events
        .map(move |event| event.map(|event| line(&chunk(&model, event))))
        .chain(done)
        .scan(false, |ended, item: Result<String>| {
            let next = (!*ended).then(|| match item {
                Ok(line) => line,
                Err(error) => {
                    *ended = true;
                    line(&ErrorBody::from(&error))
                }
            });
            futures::future::ready(next)
        });
    let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
    (
        [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        body,
    )
        .into_response()
}

/// The whole answer as one `chat.completion`.
pub(crate) async fn gather(model: String, mut events: ChatStream) -> Result<Response> {
    let mut content = String::new();
    let mut reasoning = String::new();
    let mut finish = FinishReason::Stop;
    let mut usage = Usage::default();
    while let Some(event) = events.next().await {
        match event? {
            ChatEvent::Delta(delta) => {
                content.extend(delta.content);
                reasoning.extend(delta.reasoning_content);
            }
            ChatEvent::Finish(reason) => finish = reason,
            ChatEvent::Usage(total) => usage = total,
        }
    }
    let mut message = json!({ "role": "assistant", "content": content });
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    let choice = json!({ "index": 0, "message": message, "finish_reason": finish });
    let answer =
        json!({ "object": "chat.completion", "model": model, "choices": [choice], "usage": usage });
    Ok(axum::Json(answer).into_response())
}

fn chunk(model: &str, event: ChatEvent) -> ChatChunk {
    let choice = |delta, finish_reason| {
        vec![ChunkChoice {
            index: 0,
            delta,
            finish_reason,
        }]
    };
    let (choices, usage) = match event {
        ChatEvent::Delta(delta) => (choice(delta, None), None),
        ChatEvent::Finish(reason) => (choice(Delta::default(), Some(reason)), None),
        ChatEvent::Usage(usage) => (Vec::new(), Some(usage)),
    };
    ChatChunk {
        id: String::new(),
        object: ChatChunk::OBJECT.to_owned(),
        created: 0,
        model: model.to_owned(),
        choices,
        usage,
        request_id: None,
    }
}

fn line(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|error| {
        let error = Error::internal(error.to_string());
        json!(ErrorBody::from(&error)).to_string()
    });
    format!("data: {json}\n\n")
}
