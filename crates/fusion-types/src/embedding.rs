//! Texts in, vectors out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Texts for one embedding model. Serialized with `encoding_format: "base64"` it is the body of the engine's `/v1/embeddings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbedRequest {
    pub model: String,
    pub input: EmbedInput,
    /// Cut what is longer than the model reads; without it, too long an input is `context_length_exceeded`.
    #[serde(default)]
    pub truncate: bool,
}

/// What is embedded, one vector an entry. Read from a string, a list of strings, token ids, or a list of lists of token ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Given", untagged)]
pub enum EmbedInput {
    Texts(Vec<String>),
    /// Ids of the model's own vocabulary, computed as they are: no special tokens are put around them.
    Tokens(Vec<Vec<u32>>),
}

impl EmbedInput {
    /// How many vectors they make.
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<String>> for EmbedInput {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

/// The four shapes of the contract.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, token ids, or a list of lists of token ids"
)]
enum Given {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Rows(Vec<Vec<u32>>),
}

impl From<Given> for EmbedInput {
    fn from(given: Given) -> Self {
        match given {
            Given::Text(text) => Self::Texts(vec![text]),
            Given::Texts(texts) => Self::Texts(texts),
            Given::Tokens(tokens) => Self::Tokens(vec![tokens]),
            Given::Rows(rows) => Self::Tokens(rows),
        }
    }
}

/// Vectors of one model, row by row in one flat array.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use super::*;

    #[test]
    fn every_shape_of_input_is_read_and_written_as_a_list() {
        let read =
            |value: Value| from_value::<EmbedInput>(value).map(|input| to_value(input).unwrap());
        assert_eq!(read(json!("a")).unwrap(), json!(["a"]));
        assert_eq!(read(json!(["a", "b"])).unwrap(), json!(["a", "b"]));
        assert_eq!(read(json!([1, 2])).unwrap(), json!([[1, 2]]));
        assert_eq!(read(json!([[1, 2], [3]])).unwrap(), json!([[1, 2], [3]]));
        assert_eq!(read(json!([])).unwrap(), json!([]));
        for wrong in [
            json!(1),
            json!([-1]),
            json!(["a", 1]),
            json!([["a"]]),
            json!(null),
        ] {
            assert!(read(wrong).unwrap_err().to_string().contains("token ids"));
        }
    }
}
