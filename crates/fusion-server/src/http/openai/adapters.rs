//! `GET /v1/adapters`: the LoRA adapters of all models.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::super::App;

pub(crate) async fn list(State(App { models, .. }): State<App>) -> Json<Value> {
    let cards = models.cards();
    let rows = cards.iter().flat_map(|card| {
        card.adapters.iter().map(|adapter| {
            json!({
                "id": adapter.name,
                "object": "adapter",
                "model": card.id,
                "path": adapter.path,
                "scale": adapter.scale,
                "status": card.status,
            })
        })
    });
    Json(json!({ "object": "list", "data": rows.collect::<Vec<_>>() }))
}
