//! Retrieval: documents in, answers with checkable sources out.
//!
//! The store is the truth. Indexes follow its log before each search, and every hit is joined with the live chunks, so that
//! what was deleted is never cited.

mod request;
mod response;

use std::sync::Arc;

use fusion_types::{
    Call, Error, Result,
    document::Collection,
    id::DocumentId,
    inference::{Inference, ModelPlanner},
    page::{Page, Window},
    store::{ChunkIndex, DocumentStore},
};
use futures::stream::BoxStream;

pub use request::{
    Content, CreateCollection, DEFAULT_COLLECTION, Expand, GenerationConfig, IngestDocument,
    IngestRequest, Mode, QueryRequest, Rerank, RerankWith, SearchRequest, Threshold, ThresholdName,
};
pub use response::{
    Citation, DeletedDocument, DocumentAnswer, DocumentList, FailedDocument, IngestReport,
    IngestStatus, QueryAnswer, QueryEvent, SearchAnswer, Source, SourceScores,
};

/// What holds for every request.
#[derive(Clone, Debug)]
pub struct RagConfig {
    /// Model reference for collections that name no embedding model.
    pub embedding_model: String,
    /// Model reference for answers where the request names none.
    pub generation_model: String,
    /// Model reference for reranking where the request names none.
    pub rerank_model: String,
    /// Larger documents are refused, one by one.
    pub most_document_bytes: usize,
    /// Texts in one request to the embedding model.
    pub embed_batch: usize,
    /// Most tokens of an answer where the request doesn't say.
    pub answer_tokens: u32,
}

impl Default for RagConfig {
    fn default() -> Self {
        Self {
            embedding_model: "auto:embeddings".to_owned(),
            generation_model: "auto:chat".to_owned(),
            rerank_model: "auto:rerank".to_owned(),
            most_document_bytes: 32 << 20,
            embed_batch: 64,
            answer_tokens: 512,
        }
    }
}

/// A handle on retrieval; clones are the same one.
#[derive(Clone)]
pub struct Rag {
    inner: Arc<Inner>,
}

struct Inner {
    inference: Arc<dyn Inference>,
    planner: Arc<dyn ModelPlanner>,
    documents: Arc<dyn DocumentStore>,
    dense: Arc<dyn ChunkIndex>,
    keyword: Arc<dyn ChunkIndex>,
    config: RagConfig,
}

impl Rag {
    pub fn new(
        inference: Arc<dyn Inference>,
        planner: Arc<dyn ModelPlanner>,
        documents: Arc<dyn DocumentStore>,
        dense: Arc<dyn ChunkIndex>,
        keyword: Arc<dyn ChunkIndex>,
        config: RagConfig,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                inference,
                planner,
                documents,
                dense,
                keyword,
                config,
            }),
        }
    }

    /// Takes documents in, each whole or not at all; `progress` is told the part done, from 0 to 1.
    ///
    /// # Errors
    /// What no single document is to blame for; what one is to blame for stands in the report.
    pub async fn ingest(
        &self,
        _call: &Call,
        _request: IngestRequest,
        _progress: impl Fn(f32) + Send + Sync,
    ) -> Result<IngestReport> {
        Err(Error::not_implemented("ingest"))
    }

    /// Retrieves and answers.
    ///
    /// # Errors
    /// `collection_not_found`, `embedding_model_mismatch`, and whatever the models answer.
    pub async fn query(&self, _call: &Call, _request: QueryRequest) -> Result<QueryAnswer> {
        Err(Error::not_implemented("query"))
    }

    /// As [`Rag::query`], the answer as it is written. An error after the first event is the stream's last item.
    ///
    /// # Errors
    /// As [`Rag::query`].
    pub async fn query_stream(
        &self,
        _call: &Call,
        _request: QueryRequest,
    ) -> Result<BoxStream<'static, Result<QueryEvent>>> {
        Err(Error::not_implemented("stream"))
    }

    /// Retrieves only.
    ///
    /// # Errors
    /// As [`Rag::query`].
    pub async fn search(&self, _call: &Call, _request: SearchRequest) -> Result<SearchAnswer> {
        Err(Error::not_implemented("search"))
    }

    pub async fn collections(&self, _call: &Call, _window: Window) -> Result<Page<Collection>> {
        Err(Error::not_implemented("collections"))
    }

    /// # Errors
    /// `collection_not_found`.
    pub async fn collection(&self, _call: &Call, _name: &str) -> Result<Collection> {
        Err(Error::not_implemented("collections"))
    }

    /// The collection as it now is; the existing one where it is the same.
    ///
    /// # Errors
    /// `embedding_model_mismatch` where it exists with another model.
    pub async fn create_collection(
        &self,
        _call: &Call,
        _request: CreateCollection,
    ) -> Result<Collection> {
        Err(Error::not_implemented("collections"))
    }

    /// # Errors
    /// `collection_not_found`.
    pub async fn delete_collection(&self, _call: &Call, _name: &str) -> Result<()> {
        Err(Error::not_implemented("collections"))
    }

    /// # Errors
    /// `collection_not_found`.
    pub async fn documents(
        &self,
        _call: &Call,
        _collection: &str,
        _window: Window,
    ) -> Result<DocumentList> {
        Err(Error::not_implemented("documents"))
    }

    /// # Errors
    /// `collection_not_found`, `document_not_found`.
    pub async fn document(
        &self,
        _call: &Call,
        _collection: &str,
        _id: &DocumentId,
    ) -> Result<DocumentAnswer> {
        Err(Error::not_implemented("documents"))
    }

    /// Gone from the store and from every index once this returns.
    ///
    /// # Errors
    /// `collection_not_found`, `document_not_found`.
    pub async fn delete_document(
        &self,
        _call: &Call,
        _collection: &str,
        _id: &DocumentId,
    ) -> Result<DeletedDocument> {
        Err(Error::not_implemented("documents"))
    }
}
