//! `/v1/models`: what can be loaded, what is, and changing that.

use std::time::Instant;

use axum::{Json, extract::State};
use fusion_models::{ForgetReport, LoadRequest, ModelInfo, Percentiles};
use fusion_types::{
    Error, ErrorCode,
    chat::{ChatRequest, Message, Role},
    completion::{CompletionRequest, Prompt},
    embedding::EmbedRequest,
    model::{Capability, ModelCard, ModelStatus, ModelType},
};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::{Answer, App, Caller, JsonBody, PathParams, QueryParams, answer::bytes_and_gb};

pub(crate) async fn list(State(App { models, .. }): State<App>) -> Json<Value> {
    let rows: Vec<Value> = models.cards().iter().map(row).collect();
    Json(json!({ "object": "list", "data": rows }))
}

/// `GET /v1/models/{id}`, `…/info` and `…/stats`: ids contain slashes, so one wildcard takes them all.
pub(crate) async fn get(
    State(App { models, .. }): State<App>,
    PathParams(path): PathParams<String>,
) -> Answer<Json<Value>> {
    if let Some(id) = path.strip_suffix("/info") {
        return Ok(Json(info(&models.info(id).await?)));
    }
    if let Some(id) = path.strip_suffix("/stats") {
        return Ok(Json(stats(&models.info(id).await?)));
    }
    Ok(Json(row(&models.card(&path)?)))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct LoadParams {
    dry_run: bool,
}

pub(crate) async fn load(
    State(App { models, .. }): State<App>,
    QueryParams(LoadParams { dry_run }): QueryParams<LoadParams>,
    JsonBody(request): JsonBody<LoadRequest>,
) -> Answer<Json<Value>> {
    if dry_run {
        return Ok(Json(json!(models.plan_load(request).await?)));
    }
    let report = models.load(request).await?;
    let card = &report.card;
    let mut answer = json!({
        "model_id": report.model_id,
        "status": report.status,
        "load_time_ms": millis(report.load_time),
        "evicted": report.evicted,
        "metadata": {
            "id": card.id,
            "family": card.family,
            "type": card.model_type,
            "context_length": card.context_length,
            "tags": card.tags,
            "tier": TIER,
            "created_at": card.created_at,
        },
    });
    bytes_and_gb(&mut answer, "vram_usage", report.footprint_bytes);
    Ok(Json(answer))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeleteParams {
    force: bool,
    files: bool,
}

/// `DELETE /v1/models/{id}/unload`, and `DELETE /v1/models/{id}`, which forgets it too.
pub(crate) async fn delete(
    State(App { models, .. }): State<App>,
    PathParams(path): PathParams<String>,
    QueryParams(DeleteParams { force, files }): QueryParams<DeleteParams>,
) -> Answer<Json<Value>> {
    let Some(id) = path.strip_suffix("/unload") else {
        return forget(&models.forget(&path, files, force).await?);
    };
    let report = models.unload(id, force).await?;
    let mut answer = json!({
        "model_id": report.model_id,
        "status": ModelStatus::Unloaded,
        "unload_time_ms": millis(report.unload_time),
    });
    bytes_and_gb(&mut answer, "vram_freed", report.freed_bytes);
    Ok(Json(answer))
}

fn forget(report: &ForgetReport) -> Answer<Json<Value>> {
    let mut answer = json!({
        "id": report.model_id,
        "object": "model",
        "deleted": !report.listed,
        "model_id": report.model_id,
        "status": if report.listed { "unloaded" } else { "deleted" },
    });
    bytes_and_gb(&mut answer, "vram_freed", report.freed_bytes);
    bytes_and_gb(&mut answer, "disk_freed", report.deleted_bytes);
    Ok(Json(answer))
}

#[derive(Deserialize)]
pub(crate) struct Warmup {
    #[serde(default = "greeting")]
    prompt: String,
}

fn greeting() -> String {
    "Hello".to_owned()
}

/// `POST /v1/models/{id}/warmup`: the model is loaded and runs once, on the way that requests take.
pub(crate) async fn post(
    State(App {
        models, inference, ..
    }): State<App>,
    PathParams(path): PathParams<String>,
    Caller(call): Caller,
    JsonBody(Warmup { prompt }): JsonBody<Warmup>,
) -> Answer<Json<Value>> {
    let Some(id) = path.strip_suffix("/warmup") else {
        let error = Error::new(
            ErrorCode::MethodNotAllowed,
            "a model takes no POST but /warmup",
        );
        return Err(error.into());
    };
    let card = models.card(id)?;
    let model = card.id.to_string();
    let began = Instant::now();
    if card.can(Capability::Chat) {
        let request = ChatRequest {
            model,
            messages: vec![Message::new(Role::User, prompt)],
            max_tokens: Some(1),
            ..ChatRequest::default()
        };
        let events = inference.chat(&call, request).await?.events;
        events.try_for_each(async |_| Ok(())).await?;
    } else if card.model_type == ModelType::Lm {
        // Without a chat template.
        let mut request = CompletionRequest::new(model, Prompt::Text(prompt));
        request.max_tokens = Some(1);
        let events = inference.complete(&call, request).await?.events;
        events.try_for_each(async |_| Ok(())).await?;
    } else {
        let request = EmbedRequest {
            model,
            input: vec![prompt].into(),
            truncate: true,
        };
        inference.embed(&call, request).await?;
    }
    Ok(Json(json!({
        "model_id": card.id,
        "status": "warmed",
        "warmup_time_ms": millis(began.elapsed()),
    })))
}

const TIER: &str = "3A";

pub(crate) fn row(card: &ModelCard) -> Value {
    let mut row = json!({
        "id": card.id,
        "object": "model",
        "created": card.created_at.as_seconds(),
        "owned_by": "local-mlx",
        "description": card.description,
        "context_length": card.context_length,
        "family": card.family,
        "type": card.model_type,
        "tags": card.tags,
        "tier": TIER,
        "metadata": card.metadata,
        "status": card.status,
        "capabilities": card.capabilities,
        "aliases": card.aliases,
        "pinned": card.pinned,
        "priority": card.priority,
    });
    // A model that isn't loaded uses nothing, whatever it is predicted to need.
    let held = card
        .footprint_bytes
        .filter(|_| card.status == ModelStatus::Loaded)
        .unwrap_or(0);
    bytes_and_gb(&mut row, "vram_usage", held);
    row
}

fn info(info: &ModelInfo) -> Value {
    let mut answer = row(&info.card);
    let more = json!({
        "engine": info.engine,
        "path": info.path,
        "pid": info.pid,
        "replicas": info.replicas,
        "dimension": info.card.dimension,
        "fingerprint": info.card.fingerprint,
        "slots": info.card.slots,
        "load_time_ms": info.load_time.map(millis),
        "loaded_at": info.loaded_at,
        "last_used_at": info.last_used_at,
        "recent_crashes": info.recent_crashes,
        "log_tail": info.log_tail,
        "last_eviction": info.last_eviction,
        "plan": info.plan,
    });
    merge(&mut answer, more);
    merge(&mut answer, counters(info));
    for (name, bytes) in [
        ("predicted", info.predicted_bytes),
        ("measured", info.measured_bytes),
    ] {
        match bytes {
            Some(bytes) => bytes_and_gb(&mut answer, name, bytes),
            None => merge(
                &mut answer,
                json!({ format!("{name}_bytes"): null, format!("{name}_gb"): null }),
            ),
        }
    }
    answer
}

fn stats(info: &ModelInfo) -> Value {
    let mut answer = json!({ "model_id": info.card.id, "status": info.card.status });
    merge(&mut answer, counters(info));
    let known = &info.stats;
    let more = json!({ "tokens_in": known.tokens_in, "tokens_out": known.tokens_out, "window": known.window });
    merge(&mut answer, more);
    percentiles(&mut answer, "latency", "_ms", known.latency_ms);
    percentiles(&mut answer, "ttft", "_ms", known.first_token_ms);
    percentiles(
        &mut answer,
        "tokens_per_second",
        "",
        known.tokens_per_second,
    );
    answer
}

/// `{name}_avg{unit}` and so on, null where nothing was measured yet.
fn percentiles(answer: &mut Value, name: &str, unit: &str, known: Option<Percentiles>) {
    let mut set = |which: &str, pick: fn(Percentiles) -> f64| {
        answer[format!("{name}_{which}{unit}")] = known.map(|known| rounded(pick(known))).into();
    };
    set("avg", |known| known.avg);
    set("p50", |known| known.p50);
    set("p95", |known| known.p95);
    set("p99", |known| known.p99);
}

/// To two decimals.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// `failed` until a load; `crashed` while it is down after a death; `slow` where its last answers took more than twice the
/// usual time.
fn health(info: &ModelInfo) -> &'static str {
    match info.card.status {
        ModelStatus::Failed => "failed",
        ModelStatus::Loaded if info.stats.is_slow => "slow",
        ModelStatus::Loaded => "ok",
        _ if info.recent_crashes > 0 => "crashed",
        _ => "ok",
    }
}

fn counters(info: &ModelInfo) -> Value {
    json!({
        "active_requests": info.active_requests,
        "queued_requests": info.queued_requests,
        "request_count": info.request_count,
        "error_count": info.error_count,
        "health": health(info),
        "latency_avg_ms": info.stats.latency_ms.map(|latency| rounded(latency.avg)),
        "last_error": info.last_error,
    })
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend::<Map<String, Value>>(from);
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
