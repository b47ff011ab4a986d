//! Documents, their chunks, and the collections they are kept in.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Tenant, Timestamp,
    id::{ChunkId, DocumentId},
    job::Seq,
};

/// A collection's key: names are a tenant's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CollectionRef {
    pub tenant: Tenant,
    pub name: Arc<str>,
}

/// Documents that share one embedding model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collection {
    pub name: String,
    pub document_count: u64,
    pub chunk_count: u64,
    pub embedding_model: String,
    /// Of the model that made the stored vectors; another model's never mix in.
    #[serde(skip)]
    pub fingerprint: String,
    pub dimension: u32,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub metadata: Map<String, Value>,
}

/// A collection to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCollection {
    pub key: CollectionRef,
    pub embedding_model: String,
    pub fingerprint: String,
    pub dimension: u32,
    pub metadata: Map<String, Value>,
    pub created_at: Timestamp,
}

/// A document with all its chunks: it becomes visible whole or not at all, and replaces the version before it.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentVersion {
    pub collection: CollectionRef,
    pub document_id: DocumentId,
    pub filename: Option<String>,
    pub text: String,
    /// Over everything that decides the chunks: text, chunking, metadata.
    pub content_hash: String,
    pub metadata: Map<String, Value>,
    pub chunks: Vec<NewChunk>,
    pub ingested_at: Timestamp,
    /// Its number is the next one, and at least this: a document that comes from another store goes on counting.
    pub at_least: u64,
}

/// A piece of a document. `char_start` and `char_end` count Unicode scalar values: `text[char_start:char_end] == chunk`.
#[derive(Clone, Debug, PartialEq)]
pub struct NewChunk {
    pub id: ChunkId,
    pub text: String,
    pub char_start: u64,
    pub char_end: u64,
    pub page: Option<u32>,
    pub embedding: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub version: u64,
    pub seq: Seq,
}

/// A document without its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentInfo {
    pub document_id: DocumentId,
    pub filename: Option<String>,
    pub version: u64,
    pub chunk_count: u64,
    pub ingested_at: Timestamp,
    pub metadata: Map<String, Value>,
    #[serde(skip)]
    pub content_hash: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub info: DocumentInfo,
    pub text: String,
    pub chunks: Vec<Chunk>,
}

/// A live chunk, as a source is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    pub chunk_id: ChunkId,
    pub document_id: DocumentId,
    pub text: String,
    pub char_start: u64,
    pub char_end: u64,
    pub page: Option<u32>,
    pub filename: Option<String>,
    /// The document's.
    pub metadata: Map<String, Value>,
}

/// One step of the log that indexes follow.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexChange {
    pub seq: Seq,
    pub kind: IndexChangeKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum IndexChangeKind {
    Add {
        chunk_id: ChunkId,
        embedding: Vec<f32>,
        text: String,
    },
    Remove {
        chunk_id: ChunkId,
    },
}

/// What an index is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexQuery {
    /// Nearest by dot product; vectors are normalised, so it is the cosine.
    Dense(Vec<f32>),
    /// BM25 over stemmed words.
    Keyword(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub chunk_id: ChunkId,
    pub score: f32,
}
