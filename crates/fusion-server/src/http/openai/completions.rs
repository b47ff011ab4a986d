//! `POST /v1/completions`: text that a model goes on with, without a chat template around it.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use fusion_orchestrator::choices::{Choices, Wanted};
use fusion_types::{
    Error, ErrorCode, Result,
    chat::{Delta, FinishReason, Usage, WholeAnswer},
    completion::{CompletionBody, TextChoice, TextChunk, TextLogprobs},
};
use serde_json::Value;

use super::{
    super::{Answer, App, Caller, JsonBody, json_answer},
    about::{About, name_model},
    stream::{self, Chunks, StreamOptions},
};

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Caller(call): Caller,
    JsonBody(body): JsonBody<Value>,
) -> Answer<Response> {
    let options = StreamOptions::read(&body)?;
    let CompletionBody { requests, n } = CompletionBody::read(body)?;
    let streamed = requests.iter().any(|request| request.stream);
    let wanted = Wanted::texts(requests, n);
    let count = wanted.len();
    let choices = Choices::begin(&app.inference, &call, wanted, n as usize).await?;
    let about = About::new("cmpl", &call, &choices);
    let (model, route) = (about.model.clone(), choices.route.clone());
    let mut response = if streamed {
        let chunks = TextChunks {
            about,
            written: vec![0; count],
        };
        stream::respond(&app.tasks, choices, chunks, options)
    } else {
        json_answer(&gather(choices, &about).await?)?
    };
    name_model(&mut response, &model, route.as_deref());
    Ok(response)
}

async fn gather(choices: Choices, about: &About) -> Result<TextChunk> {
    let (answers, usage) = choices.gather().await?;
    whole(about, answers, usage)
}

/// The answer that isn't streamed.
pub(super) fn whole(about: &About, answers: Vec<WholeAnswer>, usage: Usage) -> Result<TextChunk> {
    let choices: Result<Vec<_>> = answers.into_iter().enumerate().map(choice).collect();
    Ok(chunk(about, choices?, Some(usage)))
}

fn choice((index, answer): (usize, WholeAnswer)) -> Result<TextChoice> {
    let finish_reason = answer.finish_reason.ok_or_else(|| {
        let message = "the answer ended before it was finished";
        Error::new(ErrorCode::EngineCrashed, message)
    })?;
    let logprobs = answer.logprobs;
    Ok(TextChoice {
        text: answer.content,
        index: place(index),
        logprobs: (!logprobs.is_empty()).then(|| TextLogprobs::new(logprobs, 0)),
        finish_reason: Some(finish_reason),
    })
}

fn chunk(about: &About, choices: Vec<TextChoice>, usage: Option<Usage>) -> TextChunk {
    TextChunk {
        id: about.id.clone(),
        object: TextChunk::OBJECT,
        created: about.created,
        model: about.model.clone(),
        choices,
        usage,
        request_id: Some(about.request_id.clone()),
    }
}

struct TextChunks {
    about: About,
    /// Characters of each answer that were sent.
    written: Vec<usize>,
}

impl Chunks for TextChunks {
    type Chunk = TextChunk;

    fn delta(&mut self, index: usize, delta: Delta) -> TextChunk {
        let characters = delta.content.as_deref().unwrap_or_default().chars().count();
        let mut offset = 0;
        if let Some(written) = self.written.get_mut(index) {
            offset = *written;
            *written += characters;
        }
        let choice = TextChoice::delta(place(index), delta, offset);
        chunk(&self.about, vec![choice], None)
    }

    fn finish(&mut self, index: usize, reason: FinishReason, usage: Option<Usage>) -> TextChunk {
        let choice = TextChoice::finish(place(index), reason);
        chunk(&self.about, vec![choice], usage)
    }

    fn usage(&mut self, usage: Usage) -> TextChunk {
        chunk(&self.about, Vec::new(), Some(usage))
    }
}

fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
