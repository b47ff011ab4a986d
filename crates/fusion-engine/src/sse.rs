//! A generation as server-sent events, or gathered into one answer.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use fusion_types::{
    Error, Result,
    chat::{ChatChunk, ChatEvent, ChunkChoice, FinishReason, WholeAnswer},
    completion::{TextChoice, TextChunk, TextLogprobs},
    error::ErrorBody,
};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;

use crate::ChatStream;

/// Every event as it comes, then `[DONE]`; an error ends the stream without it. Dropping the response drops the generation.
pub(crate) fn stream<T: Serialize>(
    events: ChatStream,
    chunk: impl Fn(ChatEvent) -> T + Send + 'static,
) -> Response {
    let events = events.map(Some).chain(stream::iter([None]));
    let pieces = events
        .ready_chunks(MOST_AT_ONCE)
        .scan(false, move |ended, events| {
            let piece = (!*ended).then(|| {
                let (text, failed) = piece(&chunk, events);
                *ended = failed;
                text
            });
            futures::future::ready(piece)
        });
    let body = Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>));
    (
        [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        body,
    )
        .into_response()
}

/// Events that are there together leave together; no event waits for another.
const MOST_AT_ONCE: usize = 32;

/// The lines of some events, of which `None` is the end; an error among them is the last line, and is told.
fn piece<T: Serialize>(
    chunk: &impl Fn(ChatEvent) -> T,
    events: Vec<Option<Result<ChatEvent>>>,
) -> (String, bool) {
    let mut text = String::new();
    for event in events {
        match event {
            Some(Ok(event)) => text.push_str(&line(&chunk(event))),
            Some(Err(error)) => {
                text.push_str(&line(&ErrorBody::from(&error)));
                return (text, true);
            }
            None => text.push_str("data: [DONE]\n\n"),
        }
    }
    (text, false)
}

/// The whole answer as one `chat.completion`.
pub(crate) async fn gather_chat(model: String, events: ChatStream) -> Result<Response> {
    let mut answer = whole(events).await?;
    let usage = std::mem::take(&mut answer.usage);
    let choices = [answer.into_choice(0)];
    let answer =
        json!({ "object": "chat.completion", "model": model, "choices": choices, "usage": usage });
    Ok(axum::Json(answer).into_response())
}

/// The whole answer as one `text_completion`.
pub(crate) async fn gather_text(model: &str, events: ChatStream) -> Result<Response> {
    let answer = whole(events).await?;
    let logprobs = answer.logprobs;
    let choice = TextChoice {
        text: answer.content,
        index: 0,
        logprobs: (!logprobs.is_empty()).then(|| TextLogprobs::new(logprobs, 0)),
        finish_reason: Some(answer.finish_reason.unwrap_or(FinishReason::Stop)),
    };
    let chunk = TextChunk::new(model, vec![choice], Some(answer.usage));
    Ok(axum::Json(chunk).into_response())
}

async fn whole(mut events: ChatStream) -> Result<WholeAnswer> {
    let mut answer = WholeAnswer::default();
    while let Some(event) = events.next().await {
        answer.add(event?);
    }
    Ok(answer)
}

pub(crate) fn chat_chunk(model: &str, event: ChatEvent) -> ChatChunk {
    let (choices, usage) = match event {
        ChatEvent::Delta(delta) => (vec![ChunkChoice::delta(0, delta)], None),
        ChatEvent::Finish(reason) => (vec![ChunkChoice::finish(0, reason)], None),
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

/// Places of tokens are counted by the server, which sees the whole text.
pub(crate) fn text_chunk(model: &str, event: ChatEvent) -> TextChunk {
    let (choices, usage) = match event {
        ChatEvent::Delta(delta) => (vec![TextChoice::delta(0, delta, 0)], None),
        ChatEvent::Finish(reason) => (vec![TextChoice::finish(0, reason)], None),
        ChatEvent::Usage(usage) => (Vec::new(), Some(usage)),
    };
    TextChunk::new(model, choices, usage)
}

fn line(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|error| {
        let error = Error::internal(error.to_string());
        json!(ErrorBody::from(&error)).to_string()
    });
    format!("data: {json}\n\n")
}
