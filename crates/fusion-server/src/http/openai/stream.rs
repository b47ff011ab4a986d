//! Answers as server-sent events.

use std::time::Duration;

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fusion_orchestrator::choices::Choices;
use fusion_types::{
    Result,
    chat::{ChatEvent, FinishReason, Usage},
    error::ErrorBody,
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

/// The `stream_options` of a request.
#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

impl StreamOptions {
    /// # Errors
    /// `invalid_value` for options that aren't.
    pub(super) fn read(body: &Value) -> Result<Self> {
        match body.get("stream_options") {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(options) => fusion_types::json::parse_value(options.clone()),
        }
    }
}

/// The chunks of a dialect.
pub(super) trait Chunks: Send + 'static {
    type Chunk: Serialize;

    /// What was added to an answer.
    fn delta(&mut self, index: usize, delta: fusion_types::chat::Delta) -> Self::Chunk;

    fn finish(&mut self, index: usize, reason: FinishReason, usage: Option<Usage>) -> Self::Chunk;

    /// Usage in a chunk of its own.
    fn usage(&mut self, usage: Usage) -> Self::Chunk;
}

/// Chunks that wait for a slow client: well under 1 MB.
pub(crate) const BUFFERED_CHUNKS: usize = 1024;
/// A client that takes nothing for this long is dropped, so that it can't hold a lease.
pub(crate) const STALLED: Duration = Duration::from_secs(30);

/// The answers run on a task of their own, so that a client that stops reading can't hold the model's lease for ever.
pub(super) fn respond(
    tasks: &TaskTracker,
    choices: Choices,
    chunks: impl Chunks,
    options: StreamOptions,
) -> Response {
    let (sender, receiver) = mpsc::channel(BUFFERED_CHUNKS);
    tasks.spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = pump(choices, Writer::new(chunks, options), sender) => {}
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

async fn pump(mut choices: Choices, mut writer: Writer<impl Chunks>, sender: mpsc::Sender<Bytes>) {
    while let Some(event) = choices.next().await {
        let failed = event.is_err();
        let Some(line) = writer.write(event) else {
            continue;
        };
        if !matches!(timeout(STALLED, sender.send(line)).await, Ok(Ok(()))) || failed {
            return;
        }
    }
    let usage = choices.usage();
    // The lease goes back before the client reads the end.
    drop(choices);
    for line in writer.end(usage) {
        if !matches!(timeout(STALLED, sender.send(line)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Turns events into `data:` lines. The last finish waits for the usage, which rides on it unless it was asked for apart.
struct Writer<C> {
    chunks: C,
    options: StreamOptions,
    finish: Option<(usize, FinishReason)>,
}

impl<C: Chunks> Writer<C> {
    fn new(chunks: C, options: StreamOptions) -> Self {
        Self {
            chunks,
            options,
            finish: None,
        }
    }

    fn write(&mut self, event: Result<(usize, ChatEvent)>) -> Option<Bytes> {
        match event {
            Ok((index, ChatEvent::Delta(delta))) => Some(line(&self.chunks.delta(index, delta))),
            Ok((index, ChatEvent::Finish(reason))) => {
                let (index, reason) = self.finish.replace((index, reason))?;
                Some(line(&self.chunks.finish(index, reason, None)))
            }
            Ok((_, ChatEvent::Usage(_))) => None,
            Err(error) => Some(line(&ErrorBody::from(&error))),
        }
    }

    /// The last finish, the usage and `[DONE]`.
    fn end(mut self, usage: Option<Usage>) -> impl Iterator<Item = Bytes> {
        let (index, reason) = self.finish.unwrap_or((0, FinishReason::Stop));
        let (riding, apart) = if self.options.include_usage {
            (None, usage)
        } else {
            (usage, None)
        };
        let finish = line(&self.chunks.finish(index, reason, riding));
        let usage = apart.map(|usage| line(&self.chunks.usage(usage)));
        [
            Some(finish),
            usage,
            Some(Bytes::from_static(b"data: [DONE]\n\n")),
        ]
        .into_iter()
        .flatten()
    }
}

/// An event.
fn line(value: &impl Serialize) -> Bytes {
    let mut text = b"data: ".to_vec();
    // Writing plain data to memory can't fail.
    let _ = serde_json::to_writer(&mut text, value);
    text.extend_from_slice(b"\n\n");
    text.into()
}
