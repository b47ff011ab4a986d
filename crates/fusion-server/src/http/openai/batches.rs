//! `/v1/batches`: many requests in a file, answered when there is room.

use axum::{Json, extract::State};
use fusion_orchestrator::{
    batch::{BatchView, CreateBatch, ListBatches},
    files::Listed,
};
use fusion_types::id::BatchId;

use super::super::{Answer, App, Caller, JsonBody, PathParams, QueryParams};

pub(crate) async fn create(
    State(App { batches, .. }): State<App>,
    Caller(call): Caller,
    JsonBody(request): JsonBody<CreateBatch>,
) -> Answer<Json<BatchView>> {
    Ok(Json(batches.create(&call, request).await?))
}

pub(crate) async fn list(
    State(App { batches, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(params): QueryParams<ListBatches>,
) -> Answer<Json<Listed<BatchView>>> {
    Ok(Json(batches.list(&call, params).await?))
}

pub(crate) async fn get(
    State(App { batches, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<BatchView>> {
    Ok(Json(batches.get(&call, &BatchId::from_text(&id)).await?))
}

pub(crate) async fn cancel(
    State(App { batches, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<BatchView>> {
    Ok(Json(batches.cancel(&call, &BatchId::from_text(&id)).await?))
}
