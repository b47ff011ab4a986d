//! `GET /health` and its halves: is the process alive, is it ready.

use std::time::Instant;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fusion_storage::Health;
use fusion_types::{Timestamp, model::ModelStatus};
use serde_json::{Value, json};

use super::App;

/// The same keys at 200 and at 503; 503 only when the store is gone or the server drains.
pub(crate) async fn health(State(app): State<App>) -> Response {
    let started = Instant::now();
    let store = app.storage.health().await;
    let cards = app.models.cards();
    let loaded: Vec<_> = cards
        .iter()
        .filter(|card| card.status == ModelStatus::Loaded)
        .collect();
    let failed = cards
        .iter()
        .filter(|card| card.status == ModelStatus::Failed)
        .count();
    let draining = app.draining.is_cancelled();
    let healthy = store.is_good() && !draining;
    let first = loaded.first().map(|card| card.id.clone());
    let body = json!({
        "status": if healthy { "ok" } else if draining { "draining" } else { "unavailable" },
        "model_id": first,
        "model_status": if first.is_some() { "initialized" } else { "uninitialized" },
        "models_healthy": failed == 0,
        "warmup_enabled": false,
        "warmup_completed": false,
        "latency_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "timestamp": Timestamp::now(),
        "models": {
            "loaded_count": loaded.len(),
            "models_healthy": failed == 0,
            "models": loaded.iter().map(|card| &card.id).collect::<Vec<_>>(),
        },
        "persistence": persistence(store),
        "services": {
            "fusion_enabled": app.features.fusion,
            "rag_enabled": app.features.rag,
            "mcp_enabled": app.features.mcp,
        },
    });
    (status(healthy), Json(body)).into_response()
}

pub(crate) async fn live() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

pub(crate) async fn ready(State(app): State<App>) -> Response {
    let store = app.storage.health().await;
    let ready = store.is_good() && !app.draining.is_cancelled();
    let word = if ready { "ready" } else { "unavailable" };
    let body = json!({ "status": word, "persistence": persistence(store) });
    (status(ready), Json(body)).into_response()
}

/// False also for what isn't used.
fn persistence(store: Health) -> Value {
    json!({
        "sqlite_connected": store.sqlite.unwrap_or(false),
        "mongodb_connected": store.mongo.unwrap_or(false),
        "redis_connected": store.redis.unwrap_or(false),
    })
}

fn status(healthy: bool) -> StatusCode {
    if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
