//! Errors and JSON bodies in the contract's shape: nothing else leaves as an error.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use fusion_types::{Error, ErrorCode, error::ErrorBody, json};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use super::App;

pub(crate) type Answer<T> = Result<T, Failure>;

/// An error on its way out as a response.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status =
            StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(ErrorBody::from(&error))).into_response();
        if let Some(after) = error
            .retry_after
            .or((status == StatusCode::TOO_MANY_REQUESTS).then_some(RETRY_AFTER))
        {
            let seconds = after.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response.extensions_mut().insert(error.code);
        response
    }
}

/// A whole answer as JSON. Room for most of them is there from the beginning.
pub(crate) fn json_answer(answer: &impl Serialize) -> Answer<Response> {
    let mut body = Vec::with_capacity(1 << 10);
    serde_json::to_writer(&mut body, answer).map_err(|error| Error::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// What a 429 suggests where its cause knows no better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A body as it came.
pub(crate) struct WholeBody(pub(crate) Bytes);

impl FromRequest<Arc<App>> for WholeBody {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Arc<App>) -> Answer<Self> {
        let body = read_body(request.into_body(), app.limits.max_body).await?;
        Ok(Self(body))
    }
}

/// A JSON body of a type; its errors name the field.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Arc<App>) -> Answer<Self> {
        let WholeBody(body) = WholeBody::from_request(request, app).await?;
        Ok(Self(json::parse(&body)?))
    }
}

/// Reads a whole body. One that is too large is read to its end, within reason, so that the client gets to see the answer.
pub(crate) async fn read_body(mut body: Body, limit: usize) -> Answer<Bytes> {
    let mut gathered = BytesMut::new();
    let mut total = 0;
    while let Some(piece) = next_piece(&mut body).await? {
        total += piece.len();
        if total > limit.saturating_mul(READ_ON) {
            break;
        }
        if total <= limit {
            gathered.extend_from_slice(&piece);
        }
    }
    if total > limit {
        return Err(too_large(limit).into());
    }
    Ok(gathered.freeze())
}

/// `None` at the end, which is known without asking where the length was told.
async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, Error> {
    while !body.is_end_stream() {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        match timeout(SILENCE, frame).await.map_err(|_| silent())? {
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
            Some(Err(error)) => {
                let why = format!("the body broke off: {error}");
                return Err(Error::new(ErrorCode::InvalidJson, why));
            }
            None => break,
        }
    }
    Ok(None)
}

/// A client that sends nothing for this long in the middle of a body has gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

pub(crate) fn silent() -> Error {
    Error::new(ErrorCode::Timeout, "the body did not arrive")
}

/// How many times the limit is read and thrown away before the connection is cut.
const READ_ON: usize = 8;

pub(crate) fn too_large(limit: usize) -> Error {
    let megabytes = limit / 1_000_000;
    Error::new(
        ErrorCode::FileTooLarge,
        format!("the body is larger than the limit of {megabytes} MB"),
    )
}

/// Query parameters of a type.
pub(crate) struct QueryParams<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                let text = rejection.body_text();
                let code = if text.contains("unknown field") {
                    ErrorCode::UnknownField
                } else {
                    ErrorCode::InvalidValue
                };
                Err(Error::new(code, text).into())
            }
        }
    }
}

/// Path parameters of a type.
pub(crate) struct PathParams<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(params)) => Ok(Self(params)),
            Err(rejection) => {
                Err(Error::new(ErrorCode::InvalidValue, rejection.body_text()).into())
            }
        }
    }
}

/// Sets `{name}_bytes` and its twin `{name}_gb`: 10⁹ bytes, two decimals.
pub(crate) fn bytes_and_gb(answer: &mut Value, name: &str, bytes: u64) {
    answer[format!("{name}_bytes")] = bytes.into();
    answer[format!("{name}_gb")] = ((bytes as f64 / 1e7).round() / 100.0).into();
}
