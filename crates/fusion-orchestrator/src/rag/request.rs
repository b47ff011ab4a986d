//! What clients ask of retrieval, as `/api/rag` has it, and the checks that need no model and no store.

use fusion_types::{
    Error, Result,
    chat::{ChatRequest, Sampling},
    id::FileId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The collection that is meant where none is named.
pub const DEFAULT_COLLECTION: &str = "default";
const DEFAULT_CHUNK_SIZE: u32 = 512;
const DEFAULT_OVERLAP: u32 = 64;
const CHUNK_SIZES: std::ops::RangeInclusive<u32> = 16..=8192;
const DEFAULT_TOP_K: u32 = 5;
const MOST_TOP_K: u32 = 100;
const MOST_COLLECTIONS: usize = 16;

/// `POST /api/rag/ingest`. A multipart form becomes one too, its files as [`Content::Bytes`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestRequest {
    #[serde(default = "default_collection")]
    pub collection: String,
    pub documents: Vec<IngestDocument>,
    /// Most tokens of a chunk; capped by what the embedding model reads.
    #[serde(default = "default_chunk_size")]
    pub chunk_size: u32,
    /// Tokens that neighbouring chunks share.
    #[serde(default)]
    pub overlap: Option<u32>,
    /// A model reference; without it the collection's own, or for a new collection the configured default.
    #[serde(default)]
    pub embedding_model: Option<String>,
    /// Given to every document; a document's own entries win.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "JsonDocument")]
pub struct IngestDocument {
    pub id: Option<String>,
    pub filename: Option<String>,
    pub content: Content,
    pub metadata: Map<String, Value>,
}

/// A document's content: JSON carries text or names a file, a form carries bytes whose kind the file's name tells.
#[derive(Clone, Debug)]
pub enum Content {
    Text(String),
    Bytes(Vec<u8>),
    /// Of `/v1/files`.
    File(FileId),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonDocument {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    filename: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    file_id: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

impl TryFrom<JsonDocument> for IngestDocument {
    type Error = &'static str;

    fn try_from(json: JsonDocument) -> std::result::Result<Self, &'static str> {
        let content = match (json.text, json.file_id) {
            (Some(text), None) => Content::Text(text),
            (None, Some(id)) => Content::File(FileId::from_text(&id)),
            (None, None) => return Err("missing field `text`, or `file_id`"),
            (Some(_), Some(_)) => return Err("a document has `text` or a `file_id`, not both"),
        };
        Ok(Self {
            id: json.id,
            filename: json.filename,
            content,
            metadata: json.metadata,
        })
    }
}

impl IngestRequest {
    /// A request with the contract's defaults.
    pub fn new(collection: impl Into<String>, documents: Vec<IngestDocument>) -> Self {
        Self {
            collection: collection.into(),
            documents,
            chunk_size: DEFAULT_CHUNK_SIZE,
            overlap: None,
            embedding_model: None,
            metadata: Map::new(),
        }
    }

    /// # Errors
    /// `invalid_value`, with the field.
    pub fn check(&self) -> Result<()> {
        check_collection_name(&self.collection)?;
        if self.documents.is_empty() {
            return Err(Error::invalid("documents", "there is no document"));
        }
        if !CHUNK_SIZES.contains(&self.chunk_size) {
            return Err(Error::invalid(
                "chunk_size",
                format!(
                    "must be from {} to {} tokens",
                    CHUNK_SIZES.start(),
                    CHUNK_SIZES.end()
                ),
            ));
        }
        if self
            .overlap
            .is_some_and(|overlap| overlap >= self.chunk_size)
        {
            return Err(Error::invalid("overlap", "must be smaller than chunk_size"));
        }
        self.documents
            .iter()
            .filter_map(|document| document.id.as_deref())
            .try_for_each(check_document_id)
    }

    /// Tokens that neighbouring chunks of at most `size` tokens share: what was asked for, but never over half a chunk.
    pub(super) fn overlap_for(&self, size: u32) -> u32 {
        self.overlap.unwrap_or(DEFAULT_OVERLAP).min(size / 2)
    }
}

/// `POST /api/rag/query`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    pub query: String,
    #[serde(default)]
    pub collection: Option<String>,
    #[serde(default)]
    pub collections: Option<Vec<String>>,
    #[serde(default = "default_top_k")]
    pub top_k: u32,
    #[serde(default)]
    pub model_id: Option<String>,
    #[serde(default)]
    pub embedding_model: Option<String>,
    #[serde(default = "yes")]
    pub include_sources: bool,
    #[serde(default)]
    pub similarity_threshold: Option<Threshold>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub rerank: Rerank,
    #[serde(default)]
    pub filter: Option<Value>,
    #[serde(default)]
    pub conversation_id: Option<String>,
    #[serde(default)]
    pub expand: Expand,
    #[serde(default)]
    pub generation_config: GenerationConfig,
    #[serde(default)]
    pub stream: bool,
}

impl QueryRequest {
    /// # Errors
    /// `invalid_value`, with the field; `not_implemented`.
    pub fn check(&self) -> Result<()> {
        if self.conversation_id.is_some() {
            return Err(Error::not_implemented("conversation_id").with_param("conversation_id"));
        }
        self.search().check()
    }

    /// The retrieval that the answer is made from.
    pub(crate) fn search(&self) -> SearchRequest {
        SearchRequest {
            query: self.query.clone(),
            collection: self.collection.clone(),
            collections: self.collections.clone(),
            top_k: self.top_k,
            embedding_model: self.embedding_model.clone(),
            similarity_threshold: self.similarity_threshold.clone(),
            mode: self.mode,
            rerank: self.rerank.clone(),
            filter: self.filter.clone(),
            expand: self.expand,
        }
    }
}

/// `POST /api/rag/search`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    pub query: String,
    #[serde(default)]
    pub collection: Option<String>,
    #[serde(default)]
    pub collections: Option<Vec<String>>,
    #[serde(default = "default_top_k")]
    pub top_k: u32,
    #[serde(default)]
    pub embedding_model: Option<String>,
    #[serde(default)]
    pub similarity_threshold: Option<Threshold>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub rerank: Rerank,
    #[serde(default)]
    pub filter: Option<Value>,
    #[serde(default)]
    pub expand: Expand,
}

impl SearchRequest {
    /// A hybrid search of one collection with the contract's defaults.
    pub fn new(query: impl Into<String>, collection: impl Into<String>) -> Self {
        Self {
            query: query.into(),
            collection: Some(collection.into()),
            collections: None,
            top_k: DEFAULT_TOP_K,
            embedding_model: None,
            similarity_threshold: None,
            mode: Mode::default(),
            rerank: Rerank::default(),
            filter: None,
            expand: Expand::default(),
        }
    }

    /// # Errors
    /// `invalid_value`, with the field; `not_implemented`.
    pub fn check(&self) -> Result<()> {
        if self.query.trim().is_empty() {
            return Err(Error::invalid("query", "the query is empty"));
        }
        check_top_k("top_k", self.top_k)?;
        if self.collection.is_some() && self.collections.is_some() {
            return Err(Error::invalid(
                "collections",
                "give collection or collections, not both",
            ));
        }
        if self
            .collections
            .as_ref()
            .is_some_and(|names| names.is_empty() || names.len() > MOST_COLLECTIONS)
        {
            return Err(Error::invalid(
                "collections",
                format!("must name from 1 to {MOST_COLLECTIONS} collections"),
            ));
        }
        if self.filter.is_some() {
            return Err(Error::not_implemented("filter").with_param("filter"));
        }
        if self.expand != Expand::None {
            return Err(Error::not_implemented("expand").with_param("expand"));
        }
        if let Rerank::With(RerankWith {
            top_n: Some(top_n), ..
        }) = &self.rerank
        {
            check_top_k("rerank.top_n", *top_n)?;
        }
        self.check_threshold()
    }

    fn check_threshold(&self) -> Result<()> {
        match &self.similarity_threshold {
            None => Ok(()),
            Some(_) if self.mode == Mode::Keyword => Err(Error::invalid(
                "similarity_threshold",
                "mode keyword has no similarity to hold against it",
            )),
            Some(Threshold::Cosine(cosine)) if (-1.0..=1.0).contains(cosine) => Ok(()),
            Some(Threshold::Cosine(_)) => Err(Error::invalid(
                "similarity_threshold",
                "must be from -1 to 1",
            )),
            Some(Threshold::Named(ThresholdName::Auto)) => {
                Err(Error::not_implemented("similarity_threshold \"auto\"")
                    .with_param("similarity_threshold"))
            }
        }
    }

    /// The collections that are meant, each once.
    pub(super) fn collection_names(&self) -> Vec<&str> {
        let named = self
            .collections
            .as_deref()
            .unwrap_or_default()
            .iter()
            .map(String::as_str);
        let mut names: Vec<&str> = Vec::new();
        for name in named.chain(self.collection.as_deref()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            names.push(DEFAULT_COLLECTION);
        }
        names
    }
}

/// Which hits are too far from the query.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number or \"auto\"")]
pub enum Threshold {
    /// Hits whose dense score is lower, or that have none, are dropped.
    Cosine(f32),
    Named(ThresholdName),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdName {
    Auto,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Hybrid,
    Dense,
    Keyword,
}

/// `false`, `true`, or with which model and how many are kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected true, false or {model_id, top_n}")]
pub enum Rerank {
    Wanted(bool),
    With(RerankWith),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankWith {
    /// A model reference; without it a model is chosen by capability.
    #[serde(default)]
    pub model_id: Option<String>,
    /// How many sources are kept; `top_k` without it.
    #[serde(default)]
    pub top_n: Option<u32>,
}

impl Default for Rerank {
    fn default() -> Self {
        Self::Wanted(false)
    }
}

/// How much of a hit's surroundings comes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expand {
    #[default]
    None,
    Window,
    Section,
    Document,
}

/// How the answer is generated; what isn't given is left to the model, except that the temperature is 0.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationConfig {
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i32>,
    pub min_p: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub seed: Option<u64>,
}

impl GenerationConfig {
    pub(super) fn apply(&self, request: &mut ChatRequest) {
        request.stop.clone_from(&self.stop);
        request.sampling = Sampling {
            temperature: Some(self.temperature.unwrap_or(0.0)),
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            adapters: None,
        };
    }
}

/// `POST /api/rag/collections`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCollection {
    pub name: String,
    #[serde(default)]
    pub embedding_model: Option<String>,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// A name stands in a path, so it is kept plain.
pub(super) fn check_collection_name(name: &str) -> Result<()> {
    let plain = name
        .chars()
        .all(|c| c.is_alphanumeric() || "_-.".contains(c));
    if name.is_empty() || name.len() > 128 || !plain || name.starts_with('.') {
        return Err(Error::invalid(
            "collection",
            "a collection's name is 1 to 128 letters, digits, '_', '-' and '.', and doesn't start with '.'",
        ));
    }
    Ok(())
}

fn check_top_k(param: &str, top_k: u32) -> Result<()> {
    if !(1..=MOST_TOP_K).contains(&top_k) {
        return Err(Error::invalid(
            param,
            format!("must be from 1 to {MOST_TOP_K}"),
        ));
    }
    Ok(())
}

fn check_document_id(id: &str) -> Result<()> {
    if id.is_empty()
        || id.len() > 256
        || id.contains('/')
        || id.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err(Error::invalid(
            "documents.id",
            "a document's id is 1 to 256 bytes without '/' and white space",
        ));
    }
    Ok(())
}

fn default_collection() -> String {
    DEFAULT_COLLECTION.to_owned()
}

fn default_chunk_size() -> u32 {
    DEFAULT_CHUNK_SIZE
}

pub(crate) fn default_top_k() -> u32 {
    DEFAULT_TOP_K
}

fn yes() -> bool {
    true
}
