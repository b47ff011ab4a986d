//! Server-sent events of things that happen, with comments in between so that nobody takes the connection for dead.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{self, KeepAlive, Sse},
};
use fusion_types::{Result, error::ErrorBody, job::Seq};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One event; its id is what a client that reconnects goes on from.
pub(super) struct Event(sse::Event);

impl Event {
    pub(super) fn of(data: &impl Serialize) -> Self {
        // Plain data can always be written.
        let text = serde_json::to_string(data).unwrap_or_default();
        Self(sse::Event::default().data(text))
    }

    pub(super) fn with_id(self, seq: Seq) -> Self {
        Self(self.0.id(seq.0.to_string()))
    }
}

/// Ends with the items, after an error, which is told, or when the server stops.
pub(super) fn events<T: 'static>(
    draining: CancellationToken,
    items: impl Stream<Item = Result<T>> + Send + 'static,
    event: impl Fn(T) -> Event + Send + 'static,
) -> Response {
    let events = items
        .take_until(draining.cancelled_owned())
        .map(move |item| {
            let event = match item {
                Ok(item) => event(item),
                Err(error) => Event::of(&ErrorBody::from(&error)),
            };
            Ok::<_, Infallible>(event.0)
        });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}
