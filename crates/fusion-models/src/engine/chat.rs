//! A generation's events, out of the child's stream.

use std::{collections::VecDeque, io, marker::PhantomData, time::Duration};

use fusion_types::{
    Error, ErrorCode, Result,
    chat::{ChatEvent, Usage},
    engine::{EngineChoice, EngineChunk},
    error::ErrorBody,
};
use futures::{StreamExt, stream, stream::BoxStream};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    client::{Client, unreadable},
    sse::Parser,
    translate,
    wire::Response,
};

/// Events in order; an error is the last item.
pub(crate) type ChatEvents = BoxStream<'static, Result<ChatEvent>>;

/// How long the child has to end its body once it said that it is done.
const END_OF_BODY: Duration = Duration::from_millis(200);

struct Reader<C> {
    client: Client,
    response: Response,
    parser: Parser,
    ready: VecDeque<Result<ChatEvent>>,
    began: bool,
    /// Deltas with text so far.
    pieces: u32,
    finished: bool,
    /// Whether the usage was told.
    counted: bool,
    ended: bool,
    shape: PhantomData<fn() -> C>,
}

pub(super) fn events<C>(client: Client, response: Response) -> ChatEvents
where
    C: EngineChoice + DeserializeOwned + 'static,
{
    // Boxed, as it is moved into and out of each wait for an event.
    let reader = Box::new(Reader::<C> {
        client,
        response,
        parser: Parser::default(),
        ready: VecDeque::new(),
        began: false,
        pieces: 0,
        finished: false,
        counted: false,
        ended: false,
        shape: PhantomData,
    });
    stream::unfold(reader, async |mut reader| {
        reader.next().await.map(|event| (event, reader))
    })
    .boxed()
}

impl<C: EngineChoice + DeserializeOwned> Reader<C> {
    async fn next(&mut self) -> Option<Result<ChatEvent>> {
        while self.ready.is_empty() && !self.ended {
            if let Err(error) = self.read().await {
                self.ended = true;
                self.ready.push_back(Err(error));
            }
        }
        let event = self.ready.pop_front();
        if let Some(Err(_)) = event {
            self.ready.clear();
        }
        event
    }

    async fn read(&mut self) -> Result<()> {
        let Some(piece) = self
            .client
            .next_piece(&mut self.response, self.began)
            .await?
        else {
            self.ended = true;
            if self.finished {
                self.count();
                return Ok(());
            }
            let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(self.client.lost(&cut).await);
        };
        let events = self
            .parser
            .push(&piece)
            .map_err(|_| unreadable("an event is too long"))?;
        self.began |= !events.is_empty();
        for data in events {
            self.take(&data).await?;
        }
        Ok(())
    }

    async fn take(&mut self, data: &str) -> Result<()> {
        if data == "[DONE]" {
            self.ended = true;
            // Read to the end, the child has freed its slot and the connection can be used again.
            let rest = async { while let Ok(Some(_)) = self.response.chunk().await {} };
            let _ = timeout(END_OF_BODY, rest).await;
            return if self.finished {
                self.count();
                Ok(())
            } else {
                Err(unreadable("it ended without a reason to finish"))
            };
        }
        let chunk: EngineChunk<C> = if self.client.is_foreign() {
            translate::chunk(data)?
        } else {
            serde_json::from_str(data).map_err(|error| unreadable(&error.to_string()))?
        };
        let before = self.ready.len();
        for event in chunk.into_events() {
            self.hear(event);
        }
        // An error looks like a chunk that says nothing. Looking for one in each event would cost more than the events do.
        if self.ready.len() == before
            && !self.client.is_foreign()
            && let Ok(body) = serde_json::from_str::<ErrorBody>(data)
        {
            return Err(error(body));
        }
        Ok(())
    }

    fn hear(&mut self, event: ChatEvent) {
        match &event {
            ChatEvent::Delta(delta) => {
                let says = delta.content.is_some() || delta.reasoning_content.is_some();
                self.pieces = self.pieces.saturating_add(says.into());
            }
            ChatEvent::Finish(_) => self.finished = true,
            // Some servers count as they go; only the end counts.
            ChatEvent::Usage(_) if self.client.is_foreign() && !self.finished => return,
            ChatEvent::Usage(_) => self.counted = true,
        }
        self.ready.push_back(Ok(event));
    }

    /// A foreign engine that doesn't tell what it used is counted by its pieces, of which each is a token as a rule.
    fn count(&mut self) {
        if self.client.is_foreign() && !self.counted {
            let usage = Usage::new(0, self.pieces);
            self.ready.push_back(Ok(ChatEvent::Usage(usage)));
        }
    }
}

fn error(body: ErrorBody) -> Error {
    body.into_error(ErrorCode::EngineUnavailable)
}
