//! `POST /v1/rerank`, in the shape that Jina and Cohere clients use.

use std::sync::Arc;

use axum::{Json, extract::State};
use fusion_types::{Error, rerank::RerankRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Answer, App, Caller, JsonBody};

#[derive(Deserialize)]
pub(crate) struct Body {
    model: String,
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    #[serde(default)]
    return_documents: bool,
    /// Cut documents that are too long, instead of refusing them.
    #[serde(default)]
    truncate: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or {\"text\": …}")]
enum Document {
    Plain(String),
    Wrapped { text: String },
}

const MOST_DOCUMENTS: usize = 1000;

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Caller(call): Caller,
    JsonBody(body): JsonBody<Body>,
) -> Answer<Json<Value>> {
    if !(1..=MOST_DOCUMENTS).contains(&body.documents.len()) {
        let message = format!("documents: from 1 to {MOST_DOCUMENTS} are taken");
        return Err(Error::invalid("documents", message).into());
    }
    if body.top_n == Some(0) {
        return Err(Error::invalid("top_n", "top_n: must be at least 1").into());
    }
    let documents: Vec<String> = body
        .documents
        .into_iter()
        .map(|document| match document {
            Document::Plain(text) | Document::Wrapped { text } => text,
        })
        .collect();
    let request = RerankRequest {
        model: body.model,
        query: body.query,
        documents: documents.clone(),
        truncate: body.truncate,
    };
    let reranked = app.inference.rerank(&call, request).await?;
    let mut results = reranked.scores.results;
    results.sort_by(|a, b| {
        b.relevance_score
            .total_cmp(&a.relevance_score)
            .then(a.index.cmp(&b.index))
    });
    results.truncate(body.top_n.unwrap_or(usize::MAX));
    let rows = results.iter().map(|score| {
        let mut row = json!(score);
        if body.return_documents {
            row["document"] = json!({ "text": documents.get(score.index) });
        }
        row
    });
    let tokens = reranked.scores.tokens;
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(
        json!({ "model": reranked.model, "results": rows.collect::<Vec<_>>(), "usage": usage }),
    ))
}
