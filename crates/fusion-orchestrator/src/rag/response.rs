//! What retrieval answers, as `/api/rag` has it. Latencies are in milliseconds.

use fusion_types::{
    ErrorCode, Timestamp,
    document::{Chunk, DocumentInfo},
    id::{ChunkId, DocumentId},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The answer of an ingest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IngestReport {
    pub collection: String,
    /// Documents that are new or have changed.
    pub documents_ingested: u64,
    pub documents_unchanged: u64,
    pub documents_failed: Vec<FailedDocument>,
    /// Chunks of the documents ingested, the reused ones included.
    pub chunks_created: u64,
    /// Chunks whose vectors were known, so that nothing was embedded.
    pub chunks_reused: u64,
    pub embedding_time_ms: u64,
    /// Of the documents that are in, unchanged ones included, in the order of the request.
    pub document_ids: Vec<DocumentId>,
    pub status: IngestStatus,
    pub embedding_model: String,
    /// Most tokens of a chunk, as used.
    pub chunk_size: u32,
    pub overlap: u32,
    /// What was asked for, where the embedding model reads less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_size_requested: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IngestStatus {
    Completed,
    /// Some documents failed.
    Partial,
    /// All of them failed.
    Failed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailedDocument {
    /// The file's name, else the document's id, else its place in the request.
    pub file: String,
    pub error: String,
    pub code: ErrorCode,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryAnswer {
    pub answer: String,
    pub sources: Vec<Source>,
    pub citations: Vec<Citation>,
    pub retrieval_latency_ms: u64,
    pub generation_latency_ms: u64,
    pub total_latency_ms: u64,
    pub dropped_below_threshold: u64,
    pub metadata: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchAnswer {
    pub sources: Vec<Source>,
    pub retrieval_latency_ms: u64,
    pub total_latency_ms: u64,
    pub dropped_below_threshold: u64,
    pub metadata: Map<String, Value>,
}

/// A chunk that was found, with how it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub chunk_id: ChunkId,
    pub document_id: DocumentId,
    pub text: String,
    /// The one that the order is by: of the last of fusion and rerank.
    pub score: f32,
    pub scores: SourceScores,
    /// The document's own, and `file`, `page`, `char_start`, `char_end`.
    pub metadata: Map<String, Value>,
    /// Where in the stored document's text this chunk starts, in Unicode scalar values.
    #[serde(skip)]
    pub char_start: u64,
}

/// `None` where a search didn't find the chunk, or wasn't made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceScores {
    /// Cosine.
    pub dense: Option<f32>,
    /// BM25.
    pub keyword: Option<f32>,
    /// From 0 to 1.
    pub fused: Option<f32>,
    pub rerank: Option<f32>,
}

/// A passage of a source that the answer verifiably rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Citation {
    /// The source's number, from 1.
    pub source: usize,
    pub chunk_id: ChunkId,
    pub document_id: DocumentId,
    /// `text[char_start:char_end] == quote` in the stored document, in Unicode scalar values.
    pub char_start: u64,
    pub char_end: u64,
    pub quote: String,
}

/// What a streamed query says, in this order; deltas many times.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum QueryEvent {
    Sources {
        sources: Vec<Source>,
        retrieval_latency_ms: u64,
        dropped_below_threshold: u64,
    },
    Delta {
        text: String,
    },
    Citations {
        citations: Vec<Citation>,
    },
    Done {
        retrieval_latency_ms: u64,
        generation_latency_ms: u64,
        total_latency_ms: u64,
        metadata: Map<String, Value>,
    },
}

impl QueryEvent {
    /// The name of the server-sent event.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sources { .. } => "sources",
            Self::Delta { .. } => "delta",
            Self::Citations { .. } => "citations",
            Self::Done { .. } => "done",
        }
    }
}

/// `GET /api/rag/documents/{collection}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DocumentList {
    pub documents: Vec<DocumentInfo>,
    pub total: u64,
    pub limit: u32,
    pub offset: u64,
}

/// `GET /api/rag/documents/{collection}/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DocumentAnswer {
    pub document_id: DocumentId,
    pub filename: Option<String>,
    pub text: String,
    pub chunks: Vec<Chunk>,
    pub version: u64,
    pub ingested_at: Timestamp,
    pub metadata: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeletedDocument {
    pub collection: String,
    pub document_id: DocumentId,
    pub chunks_deleted: u64,
    /// Always `deleted`.
    pub status: String,
}
