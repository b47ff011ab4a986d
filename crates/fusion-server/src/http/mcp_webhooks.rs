//! `/api/mcp/webhooks`: who is told when a job changes.

use axum::{Json, extract::State, http::StatusCode};
use fusion_orchestrator::webhook::{
    Deleted, Deliveries, DeliveryView, RegisterRequest, Registered, RotateRequest, Rotated, Tested,
    WebhookList, WebhookView,
};
use fusion_types::id::{DeliveryId, WebhookId};

use super::{Answer, App, Caller, JsonBody, PathParams};

pub(crate) async fn register(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    JsonBody(request): JsonBody<RegisterRequest>,
) -> Answer<(StatusCode, Json<Registered>)> {
    Ok((
        StatusCode::CREATED,
        Json(webhooks.register(&call, request).await?),
    ))
}

pub(crate) async fn list(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
) -> Answer<Json<WebhookList>> {
    Ok(Json(webhooks.list(&call).await?))
}

pub(crate) async fn get(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<WebhookView>> {
    Ok(Json(webhooks.get(&call, &WebhookId::from_text(&id)).await?))
}

pub(crate) async fn delete(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<Deleted>> {
    Ok(Json(
        webhooks.delete(&call, &WebhookId::from_text(&id)).await?,
    ))
}

pub(crate) async fn deliveries(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<Deliveries>> {
    Ok(Json(
        webhooks
            .deliveries(&call, &WebhookId::from_text(&id))
            .await?,
    ))
}

pub(crate) async fn test(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<Tested>> {
    Ok(Json(
        webhooks.test(&call, &WebhookId::from_text(&id)).await?,
    ))
}

pub(crate) async fn rotate(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
    JsonBody(request): JsonBody<RotateRequest>,
) -> Answer<Json<Rotated>> {
    let id = WebhookId::from_text(&id);
    Ok(Json(webhooks.rotate(&call, &id, request).await?))
}

pub(crate) async fn enable(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<WebhookView>> {
    Ok(Json(
        webhooks.enable(&call, &WebhookId::from_text(&id)).await?,
    ))
}

pub(crate) async fn redeliver(
    State(App { webhooks, .. }): State<App>,
    Caller(call): Caller,
    PathParams((id, delivery)): PathParams<(String, String)>,
) -> Answer<Json<DeliveryView>> {
    let (id, delivery) = (WebhookId::from_text(&id), DeliveryId::from_text(&delivery));
    Ok(Json(webhooks.redeliver(&call, &id, &delivery).await?))
}
