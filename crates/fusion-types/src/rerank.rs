//! A query and documents in, one score a document out.

use serde::{Deserialize, Serialize};

/// The body of the engine's `/v1/rerank`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RerankRequest {
    pub model: String,
    pub query: String,
    pub documents: Vec<String>,
    /// Cut documents that are longer than the model reads; without it, such a one is `context_length_exceeded`.
    #[serde(default)]
    pub truncate: bool,
}

/// How relevant the document at `index` of the request is; higher is better, comparable within one answer only.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub index: usize,
    pub relevance_score: f32,
}

/// Scores in the order of the request's documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub results: Vec<Score>,
    pub tokens: u32,
}
