//! `GET /internal/diagnostics`: what somebody wants to see who looks for the cause of something.

use axum::{Json, extract::State};
use fusion_models::MachineMemory;
use serde_json::{Value, json};

use super::{Answer, App, answer::bytes_and_gb, openai::models, queue};

pub(crate) async fn diagnostics(State(app): State<App>) -> Answer<Json<Value>> {
    let known = app.models.diagnostics().await?;
    let jobs = app.storage.jobs.counts().await?;
    let cards = app.models.cards();
    let mut resources = json!({ "memory": known.memory_of.as_str() });
    for (name, bytes) in [
        ("configured", known.configured_bytes),
        ("budget", known.budget_bytes),
        ("charged", known.charged_bytes),
        ("free", known.free_bytes),
    ] {
        bytes_and_gb(&mut resources, name, bytes);
    }
    Ok(Json(json!({
        "versions": {
            "fusiond": env!("CARGO_PKG_VERSION"),
            "engine_dialect": fusion_types::engine::DIALECT,
            "os": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
        },
        "uptime_ms": u64::try_from(known.uptime.as_millis()).unwrap_or(u64::MAX),
        "system": {
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "memory": known.machine.map(memory),
            "store_healthy": app.storage.is_healthy().await,
            "draining": app.draining.is_cancelled(),
        },
        "resources": resources,
        "models": cards.iter().map(models::row).collect::<Vec<_>>(),
        "queues": queue::by_model(&app.models.queue_stats()),
        "jobs": {
            "queued": jobs.queued,
            "processing": jobs.processing,
            "completed": jobs.completed,
            "failed": jobs.failed,
            "cancelled": jobs.cancelled,
        },
        "recent_errors": known.errors,
        "eviction_log": known.evictions,
    })))
}

fn memory(memory: MachineMemory) -> Value {
    let mut answer = json!({ "stalled_percent": memory.stalled_percent });
    bytes_and_gb(&mut answer, "total", memory.total_bytes);
    bytes_and_gb(&mut answer, "available", memory.available_bytes);
    answer
}
