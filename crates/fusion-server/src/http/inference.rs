//! Models of this server, run for the others that share its store: `nodes::wire` in HTTP.

use std::{convert::Infallible, ops::Range, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Request, State},
};
use bytes::Bytes;
use fusion_types::{
    Call, Error, ErrorCode,
    chat::ChatRequest,
    completion::CompletionRequest,
    embedding::EmbedRequest,
    error::ErrorBody,
    inference::{Embedded, Generation, Reranked},
    json,
    rerank::RerankRequest,
};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Answer, App, Failure,
    answer::read_body,
    openai::stream::{BUFFERED_CHUNKS, STALLED},
};
use crate::nodes::wire::{Asked, SIGN, Said, Tokenize};

/// What another server asks for. Nobody else is answered.
pub(crate) struct FromNode<R>(Call, R);

impl<R: DeserializeOwned> FromRequest<Arc<App>> for FromNode<R> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Arc<App>) -> Answer<Self> {
        let sign = request.headers().get(SIGN);
        let sign = sign.and_then(|sign| sign.to_str().ok()).unwrap_or_default();
        if !app.node.sent(sign).await? {
            let message = "only servers that share this one's store are answered here";
            return Err(Error::new(ErrorCode::InsufficientScope, message).into());
        }
        let body = read_body(request.into_body(), app.limits.max_upload).await?;
        let (call, request) = json::parse::<Asked<R>>(&body)?.into_parts();
        Ok(Self(call, request))
    }
}

pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    FromNode(call, request): FromNode<ChatRequest>,
) -> Answer<Body> {
    let generation = app.here.chat(&call, request).await?;
    Ok(told(&app, generation))
}

pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    FromNode(call, request): FromNode<CompletionRequest>,
) -> Answer<Body> {
    let generation = app.here.complete(&call, request).await?;
    Ok(told(&app, generation))
}

pub(crate) async fn embed(
    State(app): State<Arc<App>>,
    FromNode(call, request): FromNode<EmbedRequest>,
) -> Answer<Json<Embedded>> {
    Ok(Json(app.here.embed(&call, request).await?))
}

pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    FromNode(call, request): FromNode<RerankRequest>,
) -> Answer<Json<Reranked>> {
    Ok(Json(app.here.rerank(&call, request).await?))
}

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    FromNode(call, request): FromNode<Tokenize>,
) -> Answer<Json<Vec<Vec<Range<u32>>>>> {
    let model = request.model.parse()?;
    let spans = app.here.tokenize(&call, &model, request.texts).await?;
    Ok(Json(spans))
}

/// On a task of its own, so that a server that stops reading can't hold the model's lease for ever.
fn told(app: &App, generation: Generation) -> Body {
    let (sender, receiver) = mpsc::channel(BUFFERED_CHUNKS);
    app.tasks.spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = tell(generation, sender) => {}
            () = closed.closed() => {}
        }
    });
    Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>))
}

async fn tell(mut generation: Generation, sender: mpsc::Sender<Bytes>) {
    let tell = async |said: Said| {
        let sent = timeout(STALLED, sender.send(line(&said))).await;
        matches!(sent, Ok(Ok(())))
    };
    let began = Said::Began {
        model: generation.model.clone(),
        route: generation.route.as_deref().map(str::to_owned),
    };
    let mut goes_on = tell(began).await;
    while goes_on && let Some(event) = generation.events.next().await {
        goes_on = match event {
            Ok(event) => tell(Said::Event(event)).await,
            Err(error) => {
                tell(Said::Failed(ErrorBody::from(&error))).await;
                false
            }
        };
    }
    // The lease goes back before the end is read.
    drop(generation);
    if goes_on {
        tell(Said::Ended).await;
    }
}

fn line(said: &Said) -> Bytes {
    // Writing plain data to memory can't fail.
    let mut text = serde_json::to_vec(said).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
