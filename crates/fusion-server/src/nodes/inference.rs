//! Models are run here, or at the server that has them.

use std::{io, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use fusion_types::{
    Call, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest},
    completion::CompletionRequest,
    embedding::EmbedRequest,
    error::ErrorBody,
    inference::{Embedded, Generation, Inference, Reranked},
    model::Capability,
    model_ref::ModelRef,
    rerank::RerankRequest,
};
use futures::{TryStreamExt, stream, stream::BoxStream};
use reqwest::{Response, header::RETRY_AFTER};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, Lines};
use tokio_util::io::StreamReader;

use super::{
    Have, Node, Peer,
    wire::{Asked, PATH, SIGN, Said, Tokenize},
};

/// A request goes to the server that has more of its model, once: that one runs it itself.
pub(crate) struct Anywhere {
    pub(crate) here: Arc<dyn Inference>,
    pub(crate) node: Node,
}

#[async_trait]
impl Inference for Anywhere {
    async fn chat(&self, call: &Call, request: ChatRequest) -> Result<Generation> {
        let model = asked_for(&request.model, Capability::Chat)?;
        let Some(peer) = self.better_for(&model) else {
            return self.here.chat(call, request).await;
        };
        match self.generate(&peer, "chat", call, &request).await {
            Err(error) if self.does_itself(&model, &error) => self.here.chat(call, request).await,
            generation => generation,
        }
    }

    async fn complete(&self, call: &Call, request: CompletionRequest) -> Result<Generation> {
        let model = asked_for(&request.model, Capability::Chat)?;
        let Some(peer) = self.better_for(&model) else {
            return self.here.complete(call, request).await;
        };
        match self.generate(&peer, "complete", call, &request).await {
            Err(error) if self.does_itself(&model, &error) => {
                self.here.complete(call, request).await
            }
            generation => generation,
        }
    }

    async fn embed(&self, call: &Call, request: EmbedRequest) -> Result<Embedded> {
        let model = asked_for(&request.model, Capability::Embeddings)?;
        let Some(peer) = self.better_for(&model) else {
            return self.here.embed(call, request).await;
        };
        match self.ask(&peer, "embed", call, &request).await {
            Err(error) if self.does_itself(&model, &error) => self.here.embed(call, request).await,
            embedded => embedded,
        }
    }

    async fn rerank(&self, call: &Call, request: RerankRequest) -> Result<Reranked> {
        let model = asked_for(&request.model, Capability::Rerank)?;
        let Some(peer) = self.better_for(&model) else {
            return self.here.rerank(call, request).await;
        };
        match self.ask(&peer, "rerank", call, &request).await {
            Err(error) if self.does_itself(&model, &error) => self.here.rerank(call, request).await,
            reranked => reranked,
        }
    }

    async fn tokenize(
        &self,
        call: &Call,
        model: &ModelRef,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<Range<u32>>>> {
        let Some(peer) = self.better_for(model) else {
            return self.here.tokenize(call, model, texts).await;
        };
        let request = Tokenize {
            model: model.to_string(),
            texts,
        };
        match self.ask(&peer, "tokenize", call, &request).await {
            Err(error) if self.does_itself(model, &error) => {
                self.here.tokenize(call, model, request.texts).await
            }
            spans => spans,
        }
    }
}

/// # Errors
/// `invalid_value` for what can't be a model's name.
fn asked_for(model: &str, needed: Capability) -> Result<ModelRef> {
    Ok(match model.parse()? {
        ModelRef::Auto(None) => ModelRef::Auto(Some(needed)),
        model => model,
    })
}

impl Anywhere {
    fn better_for(&self, model: &ModelRef) -> Option<Peer> {
        let has_peers = self.node.has_peers();
        has_peers.then(|| self.node.better_for(model)).flatten()
    }

    /// Where the other is busy or gone, and this server has the model too.
    fn does_itself(&self, model: &ModelRef, error: &Error) -> bool {
        matches!(error.code.status(), 429 | 503) && self.node.have(model) > Have::Nothing
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        operation: &str,
        call: &Call,
        request: &impl Serialize,
    ) -> Result<T> {
        let answer = self.send(peer, operation, call, request).await?;
        let answer = self.node.unless_gone(peer, answer.json());
        answer.await?.map_err(|_| gone(peer))
    }

    async fn generate(
        &self,
        peer: &Peer,
        operation: &str,
        call: &Call,
        request: &impl Serialize,
    ) -> Result<Generation> {
        let answer = self.send(peer, operation, call, request).await?;
        let pieces = answer.bytes_stream().map_err(io::Error::other);
        let mut events = Events {
            lines: StreamReader::new(Box::pin(pieces)).lines(),
            peer: peer.clone(),
            node: self.node.clone(),
        };
        let Said::Began { model, route } = events.next().await? else {
            return Err(gone(peer));
        };
        let place = format!("at {}", peer.id);
        let route = route.map_or(place.clone(), |route| format!("{route}, {place}"));
        Ok(Generation {
            model,
            route: Some(route.into()),
            events: events.into_stream(),
        })
    }

    /// The answer to it, once it has begun.
    async fn send(
        &self,
        peer: &Peer,
        operation: &str,
        call: &Call,
        request: &impl Serialize,
    ) -> Result<Response> {
        let mut url = peer.url.clone();
        url.set_path(&format!("{PATH}/{operation}"));
        let asked = self.node.http.post(url).header(SIGN, self.node.sign());
        let sent = asked.json(&Asked::new(call, request)).send();
        let answer = self.node.unless_gone(peer, sent).await?;
        let answer = answer.map_err(|_| gone(peer))?;
        metrics::counter!("fusiond_requests_forwarded_total").increment(1);
        let status = answer.status();
        tracing::debug!(node = peer.id, status = status.as_u16(), "forwarded");
        if status.is_success() {
            return Ok(answer);
        }
        let after = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|after| after.to_str().ok()?.parse().ok());
        let said = self.node.unless_gone(peer, answer.json::<ErrorBody>());
        let said = said.await?.map_err(|_| gone(peer))?;
        let error = said.into_error(ErrorCode::EngineUnavailable);
        Err(match after.map(Duration::from_secs) {
            Some(after) => error.with_retry_after(after),
            None => error,
        })
    }
}

impl Node {
    async fn unless_gone<T>(&self, peer: &Peer, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            done = work => Ok(done),
            () = self.gone(&peer.id) => Err(gone(peer)),
        }
    }
}

/// What another server says of a generation.
struct Events<R> {
    lines: Lines<R>,
    peer: Peer,
    node: Node,
}

impl<R: AsyncBufRead + Unpin + Send + 'static> Events<R> {
    async fn next(&mut self) -> Result<Said> {
        let line = self.node.unless_gone(&self.peer, self.lines.next_line());
        let line = line.await?.ok().flatten();
        line.and_then(|line| serde_json::from_str(&line).ok())
            .ok_or_else(|| gone(&self.peer))
    }

    fn into_stream(self) -> BoxStream<'static, Result<ChatEvent>> {
        let next = async |events: Option<Self>| {
            let mut events = events?;
            match events.next().await {
                Ok(Said::Event(event)) => Some((Ok(event), Some(events))),
                Ok(Said::Ended) => None,
                Ok(Said::Failed(body)) => {
                    Some((Err(body.into_error(ErrorCode::EngineCrashed)), None))
                }
                Ok(Said::Began { .. }) => Some((Err(gone(&events.peer)), None)),
                Err(error) => Some((Err(error), None)),
            }
        };
        Box::pin(stream::unfold(Some(self), next))
    }
}

fn gone(peer: &Peer) -> Error {
    let message = format!(
        "the server at {} has the model and doesn't answer; try again",
        peer.url
    );
    Error::new(ErrorCode::EngineUnavailable, message)
}
