//! Retrieval: documents in, answers with checkable sources out.
//!
//! The store is the truth. Indexes follow its log before each search, and every hit is joined with the live chunks, so that
//! what was deleted is never cited.

mod answer;
mod chunker;
mod citation;
mod collections;
mod embedder;
mod extract;
mod follow;
mod fusion;
mod given;
mod ingest;
mod prompt;
mod query;
mod request;
mod reranker;
mod response;
mod retriever;
mod words;

use std::sync::Arc;

use fusion_types::{
    Call, Result,
    document::Collection,
    id::DocumentId,
    inference::{Inference, ModelPlanner},
    page::{Page, Window},
    store::{ChunkIndex, DocumentStore},
};
use futures::stream::BoxStream;

use self::follow::Indexes;
use crate::files::Files;

pub(crate) use self::{
    answer::Answer, given::GivenSearch, request::default_top_k, reranker::Reordered,
    retriever::Retrieved,
};
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
    /// Where documents by `file_id` are; without it they are `not_implemented`.
    files: Option<Files>,
    indexes: Indexes,
    config: RagConfig,
}

impl Rag {
    pub fn new(
        inference: Arc<dyn Inference>,
        planner: Arc<dyn ModelPlanner>,
        documents: Arc<dyn DocumentStore>,
        files: Option<Files>,
        dense: Arc<dyn ChunkIndex>,
        keyword: Arc<dyn ChunkIndex>,
        config: RagConfig,
    ) -> Self {
        let indexes = Indexes::new(documents.clone(), dense, keyword);
        Self {
            inner: Arc::new(Inner {
                inference,
                planner,
                documents,
                files,
                indexes,
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
        call: &Call,
        request: IngestRequest,
        progress: impl Fn(f32) + Send + Sync,
    ) -> Result<IngestReport> {
        self.inner.ingest(call, request, &progress).await
    }

    /// Retrieves and answers; whole, whatever `stream` says.
    ///
    /// # Errors
    /// `collection_not_found`, `embedding_model_mismatch`, and whatever the models answer.
    pub async fn query(&self, call: &Call, request: QueryRequest) -> Result<QueryAnswer> {
        self.inner.query(call, &request).await
    }

    /// As [`Rag::query`], the answer as it is written. An error after the first event is the stream's last item.
    ///
    /// # Errors
    /// As [`Rag::query`].
    pub async fn query_stream(
        &self,
        call: &Call,
        request: QueryRequest,
    ) -> Result<BoxStream<'static, Result<QueryEvent>>> {
        self.inner.query_stream(call, &request).await
    }

    /// Retrieves only.
    ///
    /// # Errors
    /// As [`Rag::query`].
    pub async fn search(&self, call: &Call, request: SearchRequest) -> Result<SearchAnswer> {
        self.inner.search(call, &request).await
    }

    /// The tenant's collections.
    pub async fn collections(&self, call: &Call, window: Window) -> Result<Page<Collection>> {
        self.inner.collections(call, window).await
    }

    /// # Errors
    /// `collection_not_found`.
    pub async fn collection(&self, call: &Call, name: &str) -> Result<Collection> {
        self.inner.collection(call, name).await
    }

    /// The collection as it now is; the existing one where it is the same.
    ///
    /// # Errors
    /// `embedding_model_mismatch` where it exists with another model.
    pub async fn create_collection(
        &self,
        call: &Call,
        request: CreateCollection,
    ) -> Result<Collection> {
        self.inner.create_collection(call, request).await
    }

    /// # Errors
    /// `collection_not_found`.
    pub async fn delete_collection(&self, call: &Call, name: &str) -> Result<()> {
        self.inner.delete_collection(call, name).await
    }

    /// # Errors
    /// `collection_not_found`.
    pub async fn documents(
        &self,
        call: &Call,
        collection: &str,
        window: Window,
    ) -> Result<DocumentList> {
        self.inner.documents(call, collection, window).await
    }

    /// # Errors
    /// `collection_not_found`, `document_not_found`.
    pub async fn document(
        &self,
        call: &Call,
        collection: &str,
        id: &DocumentId,
    ) -> Result<DocumentAnswer> {
        self.inner.document(call, collection, id).await
    }

    /// Gone from the store and from every index once this returns.
    ///
    /// # Errors
    /// `collection_not_found`, `document_not_found`.
    pub async fn delete_document(
        &self,
        call: &Call,
        collection: &str,
        id: &DocumentId,
    ) -> Result<DeletedDocument> {
        self.inner.delete_document(call, collection, id).await
    }
}

/// The steps of an answer one by one, for workflows.
impl Rag {
    pub(crate) async fn retrieve(
        &self,
        call: &Call,
        search: &SearchRequest,
        keep: usize,
    ) -> Result<Retrieved> {
        self.inner.retrieve(call, search, keep).await
    }

    pub(crate) async fn retrieve_given(
        &self,
        call: &Call,
        search: &GivenSearch<'_>,
        keep: usize,
    ) -> Result<Retrieved> {
        self.inner.retrieve_given(call, search, keep).await
    }

    pub(crate) async fn rerank(
        &self,
        call: &Call,
        query: &str,
        sources: Vec<Source>,
        model: Option<&str>,
    ) -> Result<Reordered> {
        self.inner.rerank(call, query, sources, model).await
    }

    pub(crate) async fn answer(
        &self,
        call: &Call,
        query: &str,
        sources: &[Source],
        model: Option<&str>,
        config: &GenerationConfig,
    ) -> Result<Answer> {
        self.inner.answer(call, query, sources, model, config).await
    }
}
