//! Fakes that keep their traits' promises, with faults on request.

pub(crate) mod models;
pub(crate) mod store;

use std::sync::Arc;

use fusion_orchestrator::rag::{Content, IngestDocument, IngestRequest, Rag, RagConfig};
use fusion_types::{Call, Tenant, id::RequestId};
use serde_json::Map;

use self::{
    models::FakeModels,
    store::{MemoryDocuments, MemoryIndex},
};

pub(crate) struct Bench {
    pub(crate) models: Arc<FakeModels>,
    pub(crate) documents: Arc<MemoryDocuments>,
    pub(crate) dense: Arc<MemoryIndex>,
    pub(crate) rag: Rag,
}

pub(crate) fn bench() -> Bench {
    let models = Arc::new(FakeModels::default());
    let documents = Arc::new(MemoryDocuments::default());
    let dense = Arc::new(MemoryIndex::default());
    let keyword = Arc::new(MemoryIndex::default());
    let config = RagConfig {
        embed_batch: 4,
        most_document_bytes: 1 << 16,
        ..RagConfig::default()
    };
    let rag = Rag::new(
        models.clone(),
        models.clone(),
        documents.clone(),
        None,
        dense.clone(),
        keyword,
        config,
    );
    Bench {
        models,
        documents,
        dense,
        rag,
    }
}

impl Bench {
    /// Takes one text in under a file name.
    pub(crate) async fn ingest(&self, filename: &str, text: &str) {
        let report = self
            .rag
            .ingest(
                &call(),
                request(vec![file(filename, text.as_bytes())]),
                |_| {},
            )
            .await
            .unwrap();
        assert!(report.documents_failed.is_empty(), "{report:?}");
    }
}

pub(crate) fn call() -> Call {
    Call::interactive(RequestId::generate(), Tenant::default())
}

pub(crate) fn file(filename: &str, bytes: &[u8]) -> IngestDocument {
    IngestDocument {
        id: None,
        filename: Some(filename.to_owned()),
        content: Content::Bytes(bytes.to_vec()),
        metadata: Map::new(),
    }
}

pub(crate) fn request(documents: Vec<IngestDocument>) -> IngestRequest {
    IngestRequest::new("docs", documents)
}
