//! `/api/mcp/jobs`: work that is promised, for an outside orchestrator.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header::ACCEPT},
    response::{IntoResponse, Response},
};
use fusion_orchestrator::jobs::{
    Accepted, BulkAccepted, BulkRequest, Cancelled, GroupCancelled, GroupView, JobList, JobUpdate,
    JobView, ListParams, SubmitRequest, SyncParams,
};
use fusion_types::{
    Error,
    id::JobId,
    job::{JobStatus, Seq},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Answer, App, Caller, JsonBody, PathParams, QueryParams,
    events::{Event, events},
};

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

pub(crate) async fn submit_bulk(
    State(App { jobs, webhooks, .. }): State<App>,
    Caller(call): Caller,
    JsonBody(body): JsonBody<Value>,
) -> Answer<(StatusCode, Json<BulkAccepted>)> {
    let mut request = BulkRequest::read(body)?.with_group()?;
    if let (Some(group), Some(url)) = (&request.group, request.callback_url.take()) {
        webhooks.call_back(&call, group, url).await?;
    }
    let jobs = jobs.submit_many(&call, request.jobs).await?;
    let group = request.group;
    Ok((StatusCode::ACCEPTED, Json(BulkAccepted { group, jobs })))
}

/// `metadata.KEY` parameters beside those with fixed names.
pub(crate) async fn list(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(all): QueryParams<Vec<(String, String)>>,
) -> Answer<Json<JobList>> {
    Ok(Json(jobs.list(&call, ListParams::read(all)?).await?))
}

/// Jobs that failed for good, newest first.
pub(crate) async fn dead(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(WindowParams { limit, offset }): QueryParams<WindowParams>,
) -> Answer<Json<JobList>> {
    let params = ListParams {
        status: Some(JobStatus::Failed),
        limit,
        offset,
        ..ListParams::default()
    };
    Ok(Json(jobs.list(&call, params).await?))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WindowParams {
    limit: Option<u32>,
    offset: Option<u64>,
}

pub(crate) async fn group(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    PathParams(group): PathParams<String>,
) -> Answer<Json<GroupView>> {
    Ok(Json(jobs.group(&call, &group).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupParams {
    group: String,
}

pub(crate) async fn cancel_group(
    State(App { jobs, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(GroupParams { group }): QueryParams<GroupParams>,
) -> Answer<Json<GroupCancelled>> {
    Ok(Json(jobs.cancel_group(&call, &group).await?))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FollowParams {
    since: Option<Seq>,
}

pub(crate) async fn follow(
    State(App { jobs, draining, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
    QueryParams(FollowParams { since }): QueryParams<FollowParams>,
    headers: HeaderMap,
) -> Answer<Response> {
    let after = since.or_else(|| last_event(&headers));
    let updates = jobs.follow(&call, &JobId::from_text(&id), after).await?;
    Ok(events(draining, updates, |update| match &update {
        JobUpdate::Changed(change) => Event::of(&update).with_id(change.seq),
        JobUpdate::Delta(_) => Event::of(&update),
    }))
}

/// What a client that reconnects saw last.
fn last_event(headers: &HeaderMap) -> Option<Seq> {
    let last = headers.get("last-event-id")?.to_str().ok()?;
    last.parse().ok().map(Seq)
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
    State(App { jobs, draining, .. }): State<App>,
    Caller(call): Caller,
    headers: HeaderMap,
    QueryParams(mut params): QueryParams<SyncParams>,
) -> Answer<Response> {
    let wants_events = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"));
    if !wants_events {
        return Ok(Json(jobs.sync(&call, params).await?).into_response());
    }
    params.since = last_event(&headers).or(params.since);
    let changes = jobs.sync_stream(&call, params).await?;
    Ok(events(draining, changes, |change| {
        Event::of(&change).with_id(change.seq)
    }))
}
