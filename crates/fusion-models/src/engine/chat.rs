//! A generation's events, out of the child's stream.

use std::{collections::VecDeque, io, time::Duration};

use fusion_types::{
    Error, ErrorCode, Result,
    chat::{ChatChunk, ChatEvent},
    error::ErrorBody,
};
use futures::{StreamExt, stream, stream::BoxStream};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    client::{Client, unreadable},
    sse::Parser,
    wire::Response,
};

/// Events in order; an error is the last item.
pub(crate) type ChatEvents = BoxStream<'static, Result<ChatEvent>>;

/// How long the child has to end its body once it said that it is done.
const END_OF_BODY: Duration = Duration::from_millis(200);

struct Reader {
    client: Client,
    response: Response,
    parser: Parser,
    ready: VecDeque<Result<ChatEvent>>,
    began: bool,
    finished: bool,
    ended: bool,
}

/// A child's event: a piece of the answer, or the error that ends it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Error(ErrorBody),
    Chunk(ChatChunk),
}

pub(super) fn events(client: Client, response: Response) -> ChatEvents {
    let reader = Reader {
        client,
        response,
        parser: Parser::default(),
        ready: VecDeque::new(),
        began: false,
        finished: false,
        ended: false,
    };
    stream::unfold(reader, async |mut reader| {
        reader.next().await.map(|event| (event, reader))
    })
    .boxed()
}

impl Reader {
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
                Ok(())
            } else {
                Err(unreadable("it ended without a reason to finish"))
            };
        }
        match serde_json::from_str(data).map_err(|error| unreadable(&error.to_string()))? {
            Event::Error(body) => Err(error(body)),
            Event::Chunk(chunk) => {
                for event in chunk.into_events() {
                    self.finished |= matches!(event, ChatEvent::Finish(_));
                    self.ready.push_back(Ok(event));
                }
                Ok(())
            }
        }
    }
}

fn error(body: ErrorBody) -> Error {
    body.into_error(ErrorCode::EngineUnavailable)
}
