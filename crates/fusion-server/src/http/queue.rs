//! `GET /v1/queue/stats`, nested twice as the predecessor answers.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use fusion_models::{ModelQueue, QueueStats};
use serde_json::{Value, json};

use super::App;

pub(crate) async fn stats(State(App { models, .. }): State<App>) -> Json<Value> {
    let stats = models.queue_stats();
    let all = json!({
        "running": stats.running > 0,
        "queue_size": stats.queued,
        "max_queue_size": stats.max_queue,
        "active_requests": stats.running,
        "max_concurrency": stats.slots,
    });
    Json(
        json!({ "status": "ok", "queue_stats": { "queue_stats": all }, "models": by_model(&stats) }),
    )
}

pub(crate) fn by_model(stats: &QueueStats) -> BTreeMap<&str, Value> {
    let row = |queue: &ModelQueue| json!({ "running": queue.running, "queue_size": queue.queued, "max_concurrency": queue.slots });
    let rows = stats.models.iter();
    rows.map(|(id, queue)| (id.as_str(), row(queue))).collect()
}
