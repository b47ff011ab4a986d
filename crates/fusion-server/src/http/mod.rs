//! The HTTP face: the whole route table, and nothing else that isn't about all routes.

mod answer;
mod context;
mod diagnostics;
mod events;
mod fusion;
mod health;
mod inference;
mod lanes;
mod limit;
mod listen;
mod mcp_jobs;
mod mcp_webhooks;
mod metrics;
mod nodes;
mod not_built;
mod openai;
mod queue;
mod rag;
mod window;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{MethodRouter, any, get, post},
};
use tower::layer::layer_fn;

use crate::{config::Features, nodes::wire, state::App};
use answer::{Answer, Failure, JsonBody, PathParams, QueryParams, WholeBody, json_answer};
use context::{Caller, Observed};
pub(crate) use lanes::Lanes;
pub(crate) use listen::serve;
use not_built::{feature_disabled, method_not_allowed, not_built, not_found};
pub(crate) use openai::OpenAi;
use openai::{adapters, batches, chat, completions, embeddings, files, models, rerank};

pub(crate) fn router(app: App) -> Router {
    let Features { fusion, rag, mcp } = app.features;
    let app = Arc::new(app);
    let routes = Router::new()
        .merge(openai())
        .merge(feature(fusion, "/api/fusion", fusion_routes()))
        .merge(feature(rag, "/api/rag", rag_routes()))
        .merge(feature(mcp, "/api/mcp", mcp_routes()))
        .merge(feature(
            mcp,
            "/mcp",
            Router::new().route("/", any(not_built)),
        ));
    Router::new()
        .merge(operations())
        .nest(wire::PATH, for_other_servers())
        .merge(limited(&app, routes))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(layer_fn(Observed))
        .with_state(app)
}

fn limited(app: &Arc<App>, routes: Router<Arc<App>>) -> Router<Arc<App>> {
    match app.limits.rate {
        Some(_) => routes.layer(from_fn_with_state(Arc::clone(app), limit::limit)),
        None => routes,
    }
}

fn feature(enabled: bool, prefix: &str, routes: Router<Arc<App>>) -> Router<Arc<App>> {
    let routes = if enabled {
        routes
    } else {
        Router::new()
            .route("/", any(feature_disabled))
            .fallback(feature_disabled)
    };
    Router::new().nest(prefix, routes)
}

fn operations() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(health::health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/", get(not_built))
        .route("/docs", get(not_built))
        .route("/openapi.json", get(not_built))
        .route("/internal/diagnostics", get(diagnostics::diagnostics))
        .route("/internal/nodes", get(nodes::nodes))
        .route("/internal/{*rest}", any(not_built))
}

/// Models of this server, run for those that share its store.
fn for_other_servers() -> Router<Arc<App>> {
    Router::new()
        .route("/chat", post(inference::chat))
        .route("/complete", post(inference::complete))
        .route("/embed", post(inference::embed))
        .route("/rerank", post(inference::rerank))
        .route("/tokenize", post(inference::tokenize))
}

fn openai() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/rerank", post(rerank::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/load", post(models::load))
        .route("/v1/models/pull", post(not_built))
        .route(
            "/v1/models/{*id}",
            get(models::get).delete(models::delete).post(models::post),
        )
        .route("/v1/queue/stats", get(queue::stats))
        .route("/v1/responses", post(not_built))
        .route("/v1/messages", post(not_built))
        .route("/v1/images/{*operation}", post(not_built))
        .route("/v1/audio/{*operation}", post(not_built))
        .route("/v1/adapters", get(adapters::list))
        .route("/v1/files", upload(post(files::create)).get(files::list))
        .route("/v1/files/{id}", get(files::get).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", post(batches::create).get(batches::list))
        .route("/v1/batches/{id}", get(batches::get))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/api/tags", get(not_built))
        .route("/api/chat", post(not_built))
        .route("/api/generate", post(not_built))
        .route("/api/embed", post(not_built))
        .route("/api/show", post(not_built))
        .route("/api/ps", get(not_built))
        .route("/api/version", get(not_built))
}

fn fusion_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/orchestrate", post(fusion::orchestrate))
        .route("/workflows", get(fusion::list))
        .route("/workflows/{id}", get(fusion::get).delete(not_built))
        .route("/capabilities", get(fusion::capabilities))
        .route("/compose", post(not_built))
        .route("/route", post(not_built))
        .route("/runs", get(not_built))
        .route("/runs/{*id}", any(not_built))
}

/// Without axum's own limit of 2 MB on forms: their bytes are bounded where they are read, with an answer that says so.
fn upload(route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    route.layer(DefaultBodyLimit::disable())
}

fn rag_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/ingest", upload(post(rag::ingest)))
        .route("/query", post(rag::query))
        .route("/search", post(rag::search))
        .route(
            "/collections",
            get(rag::collections).post(rag::create_collection),
        )
        .route("/collections/import", post(not_built))
        .route(
            "/collections/{name}",
            get(rag::collection).delete(rag::delete_collection),
        )
        .route("/collections/{name}/reembed", post(not_built))
        .route("/collections/{name}/export", get(not_built))
        .route("/documents/{collection}", get(rag::documents))
        .route(
            "/documents/{collection}/{id}",
            get(rag::document).delete(rag::delete_document),
        )
        .route("/conversations", any(not_built))
        .route("/conversations/{id}", any(not_built))
}

fn mcp_routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/jobs",
            post(mcp_jobs::submit)
                .get(mcp_jobs::list)
                .delete(mcp_jobs::cancel_group),
        )
        .route("/jobs/bulk", post(mcp_jobs::submit_bulk))
        .route("/jobs/dead", get(mcp_jobs::dead))
        .route("/groups/{group}", get(mcp_jobs::group))
        .route("/jobs/{id}", get(mcp_jobs::get).delete(mcp_jobs::cancel))
        .route("/jobs/{id}/retry", post(mcp_jobs::retry))
        .route("/jobs/{id}/events", get(mcp_jobs::follow))
        .route("/webhook", post(mcp_webhooks::register))
        .route(
            "/webhooks",
            post(mcp_webhooks::register).get(mcp_webhooks::list),
        )
        .route(
            "/webhooks/{id}",
            get(mcp_webhooks::get).delete(mcp_webhooks::delete),
        )
        .route("/webhooks/{id}/test", post(mcp_webhooks::test))
        .route("/webhooks/{id}/rotate", post(mcp_webhooks::rotate))
        .route("/webhooks/{id}/enable", post(mcp_webhooks::enable))
        .route("/webhooks/{id}/deliveries", get(mcp_webhooks::deliveries))
        .route(
            "/webhooks/{id}/deliveries/{delivery}/redeliver",
            post(mcp_webhooks::redeliver),
        )
        .route("/sync", get(mcp_jobs::sync))
}
