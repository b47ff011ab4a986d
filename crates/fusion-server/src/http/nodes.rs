//! `GET /internal/nodes`: the servers that share this one's store.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{Answer, App};

pub(crate) async fn nodes(State(app): State<App>) -> Answer<Json<Value>> {
    Ok(Json(json!({ "nodes": app.node.all().await? })))
}
