//! `/api/mcp/jobs`: work that is promised, for an outside orchestrator.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use fusion_orchestrator::jobs::{
    Accepted, Cancelled, JobList, JobView, ListParams, SubmitRequest, SyncPage, SyncParams,
};
use fusion_types::{Error, ErrorCode, id::JobId};
use serde::Deserialize;

use super::{Answer, App, Caller, JsonBody, PathParams, QueryParams};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest that one poll is held open.
const MOST_WAIT: Duration = Duration::from_secs(60);

pub(crate) async fn submit(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    headers: HeaderMap,
    JsonBody(request): JsonBody<SubmitRequest>,
) -> Answer<(StatusCode, Json<Accepted>)> {
    let key = match headers.get(IDEMPOTENCY_KEY) {
        None => None,
        Some(value) => {
            let text = value
                .to_str()
                .map_err(|_| Error::invalid("Idempotency-Key", "the key is not plain text"))?;
            Some(text.to_owned())
        }
    };
    Ok((
        StatusCode::ACCEPTED,
        Json(jobs.submit(&call, request, key).await?),
    ))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WaitParams {
    wait_ms: u64,
}

pub(crate) async fn get(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
    QueryParams(WaitParams { wait_ms }): QueryParams<WaitParams>,
) -> Answer<Json<JobView>> {
    let wait = (wait_ms > 0).then(|| Duration::from_millis(wait_ms).min(MOST_WAIT));
    Ok(Json(jobs.get(&call, &JobId::from_text(&id), wait).await?))
}

pub(crate) async fn list(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(params): QueryParams<ListParams>,
) -> Answer<Json<JobList>> {
    Ok(Json(jobs.list(&call, params).await?))
}

pub(crate) async fn cancel(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<Cancelled>> {
    Ok(Json(jobs.cancel(&call, &JobId::from_text(&id)).await?))
}

pub(crate) async fn retry(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<JobView>> {
    Ok(Json(jobs.retry(&call, &JobId::from_text(&id)).await?))
}

pub(crate) async fn sync(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    headers: HeaderMap,
    QueryParams(params): QueryParams<SyncParams>,
) -> Answer<Json<SyncPage>> {
    if headers
        .get("accept")
        .is_some_and(|accept| accept == "text/event-stream")
    {
        return Err(Error::new(
            ErrorCode::NotImplemented,
            "the change log as a stream is not implemented yet; poll it",
        )
        .into());
    }
    Ok(Json(jobs.sync(&call, params).await?))
}
