//! `GET /metrics` in Prometheus' text format.

use axum::{extract::State, http::header, response::IntoResponse};
use fusion_types::model::ModelStatus;
use metrics::gauge;

use super::{Answer, App};

/// Gauges are read when they are asked for; counters and histograms were recorded as things happened.
pub(crate) async fn metrics(State(app): State<App>) -> Answer<impl IntoResponse> {
    for card in app.models.cards().iter() {
        let labels = [("model", card.id.to_string())];
        let loaded = card.status == ModelStatus::Loaded;
        gauge!("fusiond_model_loaded", &labels).set(if loaded { 1.0 } else { 0.0 });
        gauge!("fusiond_model_bytes", &labels)
            .set(card.footprint_bytes.filter(|_| loaded).unwrap_or(0) as f64);
    }
    let queues = app.models.queue_stats();
    gauge!("fusiond_requests_running").set(f64::from(queues.running));
    gauge!("fusiond_requests_queued").set(queues.queued as f64);
    let jobs = app.storage.jobs.counts().await?;
    let by_status = [
        ("queued", jobs.queued),
        ("processing", jobs.processing),
        ("completed", jobs.completed),
        ("failed", jobs.failed),
        ("cancelled", jobs.cancelled),
    ];
    for (status, count) in by_status {
        gauge!("fusiond_jobs", "status" => status).set(count as f64);
    }
    Ok((
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        app.prometheus.render(),
    ))
}
