//! Texts in, vectors out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Texts for one embedding model. Serialized with `encoding_format: "base64"` it is the body of the engine's `/v1/embeddings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbedRequest {
    pub model: String,
    pub input: Vec<String>,
    /// Cut what is longer than the model reads; without it, too long an input is `context_length_exceeded`.
    #[serde(default)]
    pub truncate: bool,
}

/// Vectors of one model, row by row in one flat array.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// Length of one row.
    pub dimension: usize,
    /// `rows × dimension` values.
    pub data: Vec<f32>,
    /// What made them: see [`crate::model::ModelCard::fingerprint`].
    pub fingerprint: Arc<str>,
    /// Tokens read in all.
    pub tokens: u32,
}

impl Vectors {
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dimension.max(1))
    }
}
