//! `GET /v1/queue/stats`, nested twice as the predecessor answers.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::App;

pub(crate) async fn stats(State(App { models, .. }): State<App>) -> Json<Value> {
    let stats = models.queue_stats();
    let by_model: BTreeMap<_, _> = stats
        .models
        .iter()
        .map(|(id, queue)| {
            let row = json!({ "running": queue.running, "queue_size": queue.queued, "max_concurrency": queue.slots });
            (id.as_str(), row)
        })
        .collect();
    let all = json!({
        "running": stats.running > 0,
        "queue_size": stats.queued,
        "max_queue_size": stats.max_queue,
        "active_requests": stats.running,
        "max_concurrency": stats.slots,
    });
    Json(json!({ "status": "ok", "queue_stats": { "queue_stats": all }, "models": by_model }))
}
