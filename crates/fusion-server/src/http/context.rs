//! What every request gets: an id, a time, a line in the log, a place in the metrics.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    panic::AssertUnwindSafe,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, request::Parts},
    response::{IntoResponse, Response},
};
use fusion_types::{Call, Error, ErrorCode, Tenant, id::RequestId};
use futures::{FutureExt, future::BoxFuture};
use metrics::{Counter, Histogram};
use tower::Service;
use tracing::Instrument;

use super::Failure;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESS_TIME: HeaderName = HeaderName::from_static("x-process-time");

/// The outermost layer around the routes.
#[derive(Clone)]
pub(crate) struct Observed<S>(pub(crate) S);

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let started = Instant::now();
        let id = request
            .headers()
            .get(REQUEST_ID)
            .and_then(from_client)
            .unwrap_or_else(RequestId::generate);
        let method = known(request.method());
        let matched = request.extensions().get::<MatchedPath>().cloned();
        request.extensions_mut().insert(id.clone());
        let answering = self.0.call(request);
        Box::pin(async move {
            // The route's pattern, never the path: a path is the client's own text.
            let route = matched.as_ref().map_or("none", MatchedPath::as_str);
            let span = tracing::info_span!("request", id = %id, method, route);
            let answering = AssertUnwindSafe(answering.instrument(span.clone()));
            let mut response = match answering.catch_unwind().await {
                Ok(Ok(response)) => response,
                Err(_) => {
                    Failure(Error::internal("the server met a fault of its own")).into_response()
                }
            };
            let took = started.elapsed();
            span.in_scope(|| log(&response, took));
            count(method, route, response.status().as_u16(), took);
            mark(&mut response, &id, took);
            Ok(response)
        })
    }
}

fn log(response: &Response, took: Duration) {
    let code = response.extensions().get::<ErrorCode>();
    tracing::info!(
        status = response.status().as_u16(),
        code = code.map_or("", |code| code.as_str()),
        millis = took.as_millis(),
        "answered"
    );
}

fn mark(response: &mut Response, id: &RequestId, took: Duration) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    if let Ok(value) = HeaderValue::try_from(seconds(took)) {
        headers.insert(PROCESS_TIME, value);
    }
}

/// With six decimals, of which the integer is written: several times as fast as two numbers around a point.
fn seconds(time: Duration) -> String {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut digits = format!("{micros:07}");
    digits.insert(digits.len() - 6, '.');
    digits
}

type Routes = HashMap<String, (Counter, Histogram)>;

thread_local! {
    /// Looking a metric up takes longer than counting in it. By method, route and status.
    static METRICS: RefCell<HashMap<(&'static str, u16), Routes>> = RefCell::default();
}

fn count(method: &'static str, route: &str, status: u16, took: Duration) {
    METRICS.with_borrow_mut(|known| {
        let routes = known.entry((method, status)).or_default();
        let add = |(requests, durations): &(Counter, Histogram)| {
            requests.increment(1);
            durations.record(took.as_secs_f64());
        };
        match routes.get(route) {
            Some(known) => add(known),
            None => add(routes
                .entry(route.to_owned())
                .or_insert_with(|| look_up(method, route, status))),
        }
    });
}

fn look_up(method: &'static str, route: &str, status: u16) -> (Counter, Histogram) {
    let labels = [
        ("method", method.to_owned()),
        ("route", route.to_owned()),
        ("status", status.to_string()),
    ];
    (
        metrics::counter!("fusiond_http_requests_total", &labels),
        metrics::histogram!("fusiond_http_request_duration_seconds", &labels[..2]),
    )
}

/// A method is the client's own text too, unless it is one that everybody knows.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// A client's id is kept when it is short and can't harm a log line.
fn from_client(value: &HeaderValue) -> Option<RequestId> {
    let text = value.to_str().ok()?;
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    (!text.is_empty() && text.len() <= 128 && text.bytes().all(harmless))
        .then(|| RequestId::from_text(text))
}

/// Who calls: what a handler hands on.
pub(crate) struct Caller(pub(crate) Call);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let id = parts
            .extensions
            .get::<RequestId>()
            .cloned()
            .unwrap_or_else(RequestId::generate);
        Ok(Self(Call::interactive(id, Tenant::default())))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use serde_json::Value;

    use super::*;

    #[test]
    fn times_are_told_in_seconds() {
        let told = [7, 1_234_567, 61_000_000].map(|micros| seconds(Duration::from_micros(micros)));
        assert_eq!(told, ["0.000007", "1.234567", "61.000000"]);
    }

    #[tokio::test]
    async fn a_fault_of_our_own_is_answered_in_the_contracts_shape() {
        let broken = tower::service_fn(async |_: Request| -> Result<Response, Infallible> {
            panic!("a fault");
        });
        let mut observed = Observed(broken);
        let response = observed.call(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        assert!(response.headers().contains_key(REQUEST_ID));
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["code"], "internal_error");
    }
}
