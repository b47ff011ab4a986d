//! A generation as server-sent events, or gathered into one answer.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use fusion_types::{
    Error, Result,
    chat::{ChatEvent, ChunkChoice, Delta, FinishReason, Usage, WholeAnswer, WholeChat},
    completion::{TextChoice, TextLogprobs},
    engine::EngineChunk,
    error::ErrorBody,
};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;

use crate::ChatStream;

/// Every event as it comes, then `[DONE]`; an error ends the stream without it. Dropping the response drops the generation.
pub(crate) fn stream<C: Serialize>(
    events: ChatStream,
    choice: impl Fn(Delta, Option<FinishReason>) -> C + Send + 'static,
) -> Response {
    let events = events.map(Some).chain(stream::iter([None]));
    let pieces = events
        .ready_chunks(MOST_AT_ONCE)
        .scan(false, move |ended, events| {
            let piece = (!*ended).then(|| {
                let (text, failed) = piece(&choice, events);
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

/// What one chunk says. What ends an answer goes along with the last of it where both are there, so that it is written and
/// read once.
#[derive(Default)]
struct Said {
    delta: Option<Delta>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
}

impl Said {
    /// Adds an event, unless it doesn't come after what is said already: then it is given back.
    fn add(&mut self, event: ChatEvent) -> Option<ChatEvent> {
        let Self {
            delta,
            finish,
            usage,
        } = self;
        match (event, &delta, &finish, &usage) {
            (ChatEvent::Delta(said), None, None, None) => *delta = Some(said),
            (ChatEvent::Finish(said), _, None, None) => *finish = Some(said),
            (ChatEvent::Usage(said), _, _, None) => *usage = Some(said),
            (event, ..) => return Some(event),
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.delta.is_none() && self.finish.is_none() && self.usage.is_none()
    }

    fn into_chunk<C>(self, choice: &impl Fn(Delta, Option<FinishReason>) -> C) -> EngineChunk<C> {
        let says = self.delta.is_some() || self.finish.is_some();
        let choice = says.then(|| choice(self.delta.unwrap_or_default(), self.finish));
        EngineChunk {
            choices: choice.into_iter().collect(),
            usage: self.usage,
        }
    }
}

/// The lines of some events, of which `None` is the end; an error among them is the last line, and is told.
fn piece<C: Serialize>(
    choice: &impl Fn(Delta, Option<FinishReason>) -> C,
    events: Vec<Option<Result<ChatEvent>>>,
) -> (String, bool) {
    let mut text = String::new();
    let mut said = Said::default();
    let write = |text: &mut String, said: Said| {
        if !said.is_empty() {
            text.push_str(&line(&said.into_chunk(choice)));
        }
    };
    for event in events {
        match event {
            Some(Ok(event)) => {
                if let Some(next) = said.add(event) {
                    write(&mut text, std::mem::take(&mut said));
                    said.add(next);
                }
            }
            Some(Err(error)) => {
                write(&mut text, said);
                text.push_str(&line(&ErrorBody::from(&error)));
                return (text, true);
            }
            None => {
                write(&mut text, std::mem::take(&mut said));
                text.push_str("data: [DONE]\n\n");
            }
        }
    }
    write(&mut text, said);
    (text, false)
}

/// The whole answer as one `chat.completion`.
pub(crate) async fn gather_chat(model: &str, events: ChatStream) -> Result<Response> {
    let mut answer = whole(events).await?;
    let usage = std::mem::take(&mut answer.usage);
    let answer = WholeChat {
        id: None,
        object: WholeChat::OBJECT,
        created: None,
        model,
        choices: vec![answer.into_choice(0)],
        usage,
        request_id: None,
    };
    Ok(axum::Json(answer).into_response())
}

/// The whole answer as one choice of a completion.
pub(crate) async fn gather_text(events: ChatStream) -> Result<Response> {
    let answer = whole(events).await?;
    let logprobs = answer.logprobs;
    let choice = TextChoice {
        text: answer.content,
        index: 0,
        logprobs: (!logprobs.is_empty()).then(|| TextLogprobs::new(logprobs, 0)),
        finish_reason: Some(answer.finish_reason.unwrap_or(FinishReason::Stop)),
    };
    let chunk = EngineChunk {
        choices: vec![choice],
        usage: Some(answer.usage),
    };
    Ok(axum::Json(chunk).into_response())
}

async fn whole(mut events: ChatStream) -> Result<WholeAnswer> {
    let mut answer = WholeAnswer::default();
    while let Some(event) = events.next().await {
        answer.add(event?);
    }
    Ok(answer)
}

pub(crate) fn chat_choice(delta: Delta, finish: Option<FinishReason>) -> ChunkChoice {
    ChunkChoice {
        finish_reason: finish,
        ..ChunkChoice::delta(0, delta)
    }
}

/// Places of tokens are counted by the server, which sees the whole text.
pub(crate) fn text_choice(delta: Delta, finish: Option<FinishReason>) -> TextChoice {
    TextChoice {
        finish_reason: finish,
        ..TextChoice::delta(0, delta, 0)
    }
}

fn line(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|error| {
        let error = Error::internal(error.to_string());
        json!(ErrorBody::from(&error)).to_string()
    });
    format!("data: {json}\n\n")
}
