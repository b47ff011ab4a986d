//! Requests for models that another server has are answered there, through this one.

use std::{convert::Infallible, io, sync::Arc};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fusion_types::{Error, ErrorCode, Result, error::ErrorBody, id::RequestId};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, App, answer::read_body, context::REQUEST_ID, openai::stream::line};
use crate::nodes::{Have, Peer};

/// Set where a request comes from another server, which is then the last that passes it on.
const FORWARDED_BY: HeaderName = HeaderName::from_static("x-fusion-forwarded-by");
/// Which server answered.
const NODE: HeaderName = HeaderName::from_static("x-fusion-node");

/// What of a request goes on to the other server.
const PASSED_ON: [HeaderName; 3] = [header::CONTENT_TYPE, header::ACCEPT, header::AUTHORIZATION];
/// What of an answer belongs to a connection, or is made anew.
const KEPT_BACK: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::DATE,
    REQUEST_ID,
];

pub(super) async fn forward(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.node.has_peers() || request.headers().contains_key(FORWARDED_BY) {
        return next.run(request).await;
    }
    match here_or_there(&app, request).await {
        Ok(Way::Here(request)) => next.run(request).await,
        Ok(Way::Answered(response)) => response,
        Err(failure) => failure.into_response(),
    }
}

/// Whether a server that shares this one's store sent it.
pub(super) fn is_from_peer(app: &App, headers: &HeaderMap) -> bool {
    let sign = headers
        .get(FORWARDED_BY)
        .and_then(|sign| sign.to_str().ok());
    sign.is_some_and(|sign| app.node.is_peers_sign(sign))
}

enum Way {
    Here(Request),
    Answered(Response),
}

async fn here_or_there(app: &Arc<App>, request: Request) -> Answer<Way> {
    let (parts, body) = request.into_parts();
    let body = read_body(body, app.limits.max_body).await?;
    let here = |parts, body| Ok(Way::Here(Request::from_parts(parts, Body::from(body))));
    let names = names(&parts, &body);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some(peer) = app.node.better_for(&names) else {
        return here(parts, body);
    };
    let answered = ask(app, &peer, &parts, body.clone()).await;
    let can_answer = names.iter().all(|name| app.node.have(name) > Have::Nothing);
    match answered {
        // Busy or gone: this server does it after all, if it can.
        Ok(answer) if can_answer && is_busy(answer.status()) => here(parts, body),
        Err(_) if can_answer => here(parts, body),
        Ok(answer) => Ok(Way::Answered(passed_back(app, peer, answer))),
        Err(error) => Err(error.into()),
    }
}

fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// The models that a request names: `model`, and those of a workflow's roles.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    model: Value,
    models: serde_json::Map<String, Value>,
}

/// Empty where none are named, or the body can't be read: this server says what is wrong with it.
fn names(parts: &Parts, body: &[u8]) -> Vec<String> {
    let named: Named = serde_json::from_slice(body).unwrap_or_default();
    let path = parts.extensions.get::<MatchedPath>();
    let automatic = match path.map_or("", MatchedPath::as_str) {
        "/v1/chat/completions" => "auto:chat",
        "/v1/embeddings" => "auto:embeddings",
        "/v1/rerank" => "auto:rerank",
        _ => "auto",
    };
    let names = std::iter::once(&named.model).chain(named.models.values());
    let names = names.filter_map(Value::as_str).map(|name| match name {
        "auto" => automatic.to_owned(),
        name => name.to_owned(),
    });
    names.collect()
}

async fn ask(app: &App, peer: &Peer, parts: &Parts, body: Bytes) -> Result<reqwest::Response> {
    let mut headers: HeaderMap = PASSED_ON
        .into_iter()
        .filter_map(|name| Some((name.clone(), parts.headers.get(name)?.clone())))
        .collect();
    if let Ok(sign) = HeaderValue::from_str(&app.node.sign()) {
        headers.insert(FORWARDED_BY, sign);
    }
    let id = parts.extensions.get::<RequestId>();
    if let Some(id) = id.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        headers.insert(REQUEST_ID, id);
    }
    let mut url = peer.url.clone();
    url.set_path(parts.uri.path());
    url.set_query(parts.uri.query());
    let sent = app.node.http().post(url).headers(headers).body(body).send();
    let answered = tokio::select! {
        answered = sent => answered.ok(),
        () = app.node.gone(&peer.id) => None,
    };
    if let Some(answer) = &answered {
        metrics::counter!("fusiond_requests_forwarded_total").increment(1);
        tracing::debug!(
            node = peer.id,
            status = answer.status().as_u16(),
            "forwarded"
        );
    }
    answered.ok_or_else(|| gone(peer))
}

fn gone(peer: &Peer) -> Error {
    let message = format!(
        "the server at {} has the model and doesn't answer; try again",
        peer.url
    );
    Error::new(ErrorCode::EngineUnavailable, message)
}

fn passed_back(app: &App, peer: Peer, answer: reqwest::Response) -> Response {
    let status = answer.status();
    let mut headers = answer.headers().clone();
    for name in KEPT_BACK {
        headers.remove(name);
    }
    if let Ok(id) = HeaderValue::from_str(&peer.id) {
        headers.insert(NODE, id);
    }
    let is_stream = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let node = app.node.clone();
    let lost = {
        let id = peer.id.clone();
        async move { node.gone(&id).await }
    };
    let pieces = until_lost(answer.bytes_stream(), lost);
    let body = if is_stream {
        let last = move |_| line(&ErrorBody::from(&gone(&peer)));
        Body::from_stream(pieces.map(move |piece| Ok::<_, Infallible>(piece.unwrap_or_else(&last))))
    } else {
        Body::from_stream(pieces)
    };
    (status, headers, body).into_response()
}

/// An answer's pieces. An error is the last one.
fn until_lost(
    pieces: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
    lost: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let begun = Some((Box::pin(pieces), Box::pin(lost)));
    stream::unfold(begun, |state| async move {
        let (mut pieces, mut lost) = state?;
        let piece = tokio::select! {
            piece = pieces.next() => piece?.map_err(io::Error::other),
            () = &mut lost => Err(io::Error::other("the server that answered is gone")),
        };
        let rest = piece.is_ok().then_some((pieces, lost));
        Some((piece, rest))
    })
}
