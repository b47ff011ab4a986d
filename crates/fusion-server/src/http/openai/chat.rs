//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use fusion_orchestrator::choices::{Choices, Wanted};
use fusion_types::{
    Result,
    chat::{
        ChatChunk, ChatRequest, ChunkChoice, Delta, FinishReason, Role, Usage, WholeAnswer,
        WholeChat,
    },
    json,
};
use serde_json::Value;

use super::{
    super::{Answer, App, Caller, WholeBody, json_answer},
    about::{About, name_model},
    stream::{self, Chunks, StreamOptions},
};

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Caller(call): Caller,
    WholeBody(body): WholeBody,
) -> Answer<Response> {
    let (request, options) = match ChatRequest::read_plain(&body)? {
        Some(request) => (request, StreamOptions::default()),
        None => {
            let body: Value = json::parse(&body)?;
            let options = StreamOptions::read(&body)?;
            (ChatRequest::read(body)?, options)
        }
    };
    let streamed = request.stream;
    let wanted = Wanted::chats(request);
    let n = wanted.len();
    let choices = Choices::begin(&app.inference, &call, wanted, n).await?;
    let about = About::new("chatcmpl", &call, &choices);
    let (model, route) = (about.model.clone(), choices.route.clone());
    let mut response = if streamed {
        stream::respond(&app.tasks, choices, ChatChunks::new(about, n), options)
    } else {
        json_answer(&gather(choices, &about).await?)?
    };
    name_model(&mut response, &model, route.as_deref());
    Ok(response)
}

async fn gather(choices: Choices, about: &About) -> Result<WholeChat<'_>> {
    let (answers, usage) = choices.gather().await?;
    Ok(whole(about, answers, usage))
}

/// The answer that isn't streamed.
pub(super) fn whole(about: &About, answers: Vec<WholeAnswer>, usage: Usage) -> WholeChat<'_> {
    let choices = answers.into_iter().enumerate();
    WholeChat {
        id: Some(&about.id),
        object: WholeChat::OBJECT,
        created: Some(about.created),
        model: &about.model,
        choices: choices
            .map(|(index, answer)| answer.into_choice(index))
            .collect(),
        usage,
        request_id: Some(&about.request_id),
    }
}

struct ChatChunks {
    about: About,
    /// Of each answer, until its first chunk has said it.
    roles: Vec<Option<Role>>,
}

impl ChatChunks {
    fn new(about: About, count: usize) -> Self {
        Self {
            about,
            roles: vec![Some(Role::Assistant); count],
        }
    }

    fn role(&mut self, index: usize) -> Option<Role> {
        self.roles.get_mut(index).and_then(Option::take)
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.about.id.clone(),
            object: ChatChunk::OBJECT,
            created: self.about.created,
            model: self.about.model.clone(),
            choices,
            usage,
            request_id: Some(self.about.request_id.clone()),
        }
    }
}

impl Chunks for ChatChunks {
    type Chunk = ChatChunk;

    fn delta(&mut self, index: usize, delta: Delta) -> ChatChunk {
        let role = self.role(index);
        let delta = Delta { role, ..delta };
        self.chunk(vec![ChunkChoice::delta(place(index), delta)], None)
    }

    fn finish(&mut self, index: usize, reason: FinishReason, usage: Option<Usage>) -> ChatChunk {
        let mut finish = ChunkChoice::finish(place(index), reason);
        finish.delta.role = self.role(index);
        self.chunk(vec![finish], usage)
    }

    fn usage(&mut self, usage: Usage) -> ChatChunk {
        self.chunk(Vec::new(), Some(usage))
    }
}

fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
