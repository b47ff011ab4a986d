//! `POST /v1/chat/completions`.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fusion_types::{
    Call, Result, Timestamp,
    chat::{
        ChatChunk, ChatEvent, ChatRequest, ChunkChoice, Delta, FinishReason, Role, Usage,
        WholeAnswer,
    },
    error::ErrorBody,
    inference::Generation,
    json,
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as object};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use super::super::{Answer, App, Caller, JsonBody};

const MODEL: HeaderName = HeaderName::from_static("x-fusion-model");
const ROUTE: HeaderName = HeaderName::from_static("x-fusion-route");

pub(crate) async fn create(
    State(App {
        inference, tasks, ..
    }): State<App>,
    Caller(call): Caller,
    JsonBody(body): JsonBody<Value>,
) -> Answer<Response> {
    let options: StreamOptions = match body.get("stream_options") {
        None | Some(Value::Null) => StreamOptions::default(),
        Some(options) => json::parse_value(options.clone())?,
    };
    let request = ChatRequest::read(body)?;
    let streamed = request.stream;
    let generation = inference.chat(&call, request).await?;
    let about = About::new(&call, &generation);
    let routed = generation.route.clone();
    let mut response = if streamed {
        stream(&tasks, generation, about.clone(), options.include_usage)
    } else {
        Json(gather(generation, &about).await?).into_response()
    };
    name_model(&mut response, &about.model, routed.as_deref());
    Ok(response)
}

#[derive(Clone, Copy, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// What stands in every chunk and answer.
#[derive(Clone)]
struct About {
    id: String,
    created: i64,
    model: String,
    request_id: String,
}

impl About {
    fn new(call: &Call, generation: &Generation) -> Self {
        let request_id = call.request_id.to_string();
        Self {
            id: format!(
                "chatcmpl-{}",
                request_id.strip_prefix("req-").unwrap_or(&request_id)
            ),
            created: Timestamp::now().as_seconds(),
            model: generation.model.to_string(),
            request_id,
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: ChatChunk::OBJECT.to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
            request_id: Some(self.request_id.clone()),
        }
    }
}

fn name_model(response: &mut Response, model: &str, route: Option<&str>) {
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(MODEL, model);
    if let Some(route) = route {
        set(ROUTE, route);
    }
}

async fn gather(generation: Generation, about: &About) -> Result<Value> {
    let mut events = generation.events;
    let mut whole = WholeAnswer::default();
    while let Some(event) = events.next().await {
        whole.add(event?);
    }
    let usage = std::mem::take(&mut whole.usage);
    Ok(object!({
        "id": about.id,
        "object": "chat.completion",
        "created": about.created,
        "model": about.model,
        "choices": [whole.into_choice(0)],
        "usage": usage,
        "request_id": about.request_id,
    }))
}

/// Chunks that wait for a slow client: well under 1 MB.
const BUFFERED_CHUNKS: usize = 1024;
/// A client that takes nothing for this long is dropped, so that it can't hold a lease.
const STALLED: Duration = Duration::from_secs(30);

/// The generation runs on a task of its own, so that a client that stops reading can't hold the model's lease for ever.
fn stream(
    tasks: &TaskTracker,
    generation: Generation,
    about: About,
    include_usage: bool,
) -> Response {
    let (sender, receiver) = mpsc::channel(BUFFERED_CHUNKS);
    tasks.spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = pump(generation, &about, include_usage, sender) => {}
            () = closed.closed() => {}
        }
    });
    let body =
        Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>));
    (
        [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        body,
    )
        .into_response()
}

async fn pump(
    generation: Generation,
    about: &About,
    include_usage: bool,
    sender: mpsc::Sender<Bytes>,
) {
    let mut writer = ChunkWriter::new(about, include_usage);
    let mut events = generation.events;
    while let Some(event) = events.next().await {
        let failed = event.is_err();
        let Some(line) = writer.write(event) else {
            continue;
        };
        if !matches!(timeout(STALLED, sender.send(line)).await, Ok(Ok(()))) || failed {
            return;
        }
    }
    // The lease goes back before the client reads the end.
    drop(events);
    for line in writer.end() {
        if !matches!(timeout(STALLED, sender.send(line)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Turns events into `data:` lines. The finish waits for the usage, which rides on it unless it was asked for apart.
struct ChunkWriter<'a> {
    about: &'a About,
    include_usage: bool,
    role: Option<Role>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
}

impl<'a> ChunkWriter<'a> {
    fn new(about: &'a About, include_usage: bool) -> Self {
        Self {
            about,
            include_usage,
            role: Some(Role::Assistant),
            finish: None,
            usage: None,
        }
    }

    fn write(&mut self, event: Result<ChatEvent>) -> Option<Bytes> {
        match event {
            Ok(ChatEvent::Delta(delta)) => {
                let delta = Delta {
                    role: self.role.take(),
                    ..delta
                };
                let choices = vec![ChunkChoice::delta(0, delta)];
                Some(line(&self.about.chunk(choices, None)))
            }
            Ok(ChatEvent::Finish(reason)) => {
                self.finish = Some(reason);
                None
            }
            Ok(ChatEvent::Usage(usage)) => {
                self.usage = Some(usage);
                None
            }
            Err(error) => Some(line(&ErrorBody::from(&error))),
        }
    }

    /// The finish, the usage and `[DONE]`.
    fn end(self) -> impl Iterator<Item = Bytes> {
        let reason = self.finish.unwrap_or(FinishReason::Stop);
        let mut finish = ChunkChoice::finish(0, reason);
        finish.delta.role = self.role;
        let finish = vec![finish];
        let (riding, apart) = if self.include_usage {
            (None, self.usage)
        } else {
            (self.usage, None)
        };
        let finish = self.about.chunk(finish, riding);
        let usage = apart.map(|usage| self.about.chunk(Vec::new(), Some(usage)));
        let chunks = [Some(finish), usage]
            .into_iter()
            .flatten()
            .map(|chunk| line(&chunk));
        chunks.chain([Bytes::from_static(b"data: [DONE]\n\n")])
    }
}

fn line(value: &impl Serialize) -> Bytes {
    let mut text = b"data: ".to_vec();
    // Writing plain data to memory can't fail.
    let _ = serde_json::to_writer(&mut text, value);
    text.extend_from_slice(b"\n\n");
    text.into()
}
