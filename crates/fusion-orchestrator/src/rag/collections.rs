//! Collections and documents as they stand in the store.

use fusion_types::{
    Call, Error, ErrorCode, Result,
    document::{Collection, CollectionRef},
    id::DocumentId,
    page::{Page, Window},
};

use super::{
    Inner,
    request::{CreateCollection, check_collection_name},
    response::{DeletedDocument, DocumentAnswer, DocumentList},
};

impl Inner {
    pub(super) async fn collections(
        &self,
        call: &Call,
        window: Window,
    ) -> Result<Page<Collection>> {
        self.documents.collections(&call.tenant, window).await
    }

    pub(super) async fn collection(&self, call: &Call, name: &str) -> Result<Collection> {
        self.known_collection(&key(call, name)).await
    }

    pub(super) async fn create_collection(
        &self,
        call: &Call,
        request: CreateCollection,
    ) -> Result<Collection> {
        check_collection_name(&request.name)?;
        let reference = request
            .embedding_model
            .as_deref()
            .unwrap_or(&self.config.embedding_model);
        let embedder = self.embedder(call, reference).await?;
        self.bind_collection(&key(call, &request.name), &embedder, request.metadata)
            .await
    }

    pub(super) async fn delete_collection(&self, call: &Call, name: &str) -> Result<()> {
        let key = key(call, name);
        self.known_collection(&key).await?;
        self.indexes.delete(&key).await
    }

    pub(super) async fn documents(
        &self,
        call: &Call,
        collection: &str,
        window: Window,
    ) -> Result<DocumentList> {
        let key = key(call, collection);
        self.known_collection(&key).await?;
        let page = self.documents.documents(&key, window).await?;
        Ok(DocumentList {
            documents: page.items,
            total: page.total,
            limit: window.limit,
            offset: window.offset,
        })
    }

    pub(super) async fn document(
        &self,
        call: &Call,
        collection: &str,
        id: &DocumentId,
    ) -> Result<DocumentAnswer> {
        let key = key(call, collection);
        self.known_collection(&key).await?;
        let document = self
            .documents
            .document(&key, id)
            .await?
            .ok_or_else(|| document_not_found(id))?;
        Ok(DocumentAnswer {
            document_id: document.info.document_id,
            filename: document.info.filename,
            text: document.text,
            chunks: document.chunks,
            version: document.info.version,
            ingested_at: document.info.ingested_at,
            metadata: document.info.metadata,
        })
    }

    pub(super) async fn delete_document(
        &self,
        call: &Call,
        collection: &str,
        id: &DocumentId,
    ) -> Result<DeletedDocument> {
        let key = key(call, collection);
        self.known_collection(&key).await?;
        let chunks_deleted = self.documents.delete(&key, id).await?;
        self.indexes.catch_up(call, &key).await?;
        Ok(DeletedDocument {
            collection: collection.to_owned(),
            document_id: id.clone(),
            chunks_deleted,
            status: "deleted".to_owned(),
        })
    }
}

pub(super) fn key(call: &Call, name: &str) -> CollectionRef {
    CollectionRef {
        tenant: call.tenant.clone(),
        name: name.into(),
    }
}

pub(super) fn document_not_found(id: &DocumentId) -> Error {
    Error::new(
        ErrorCode::DocumentNotFound,
        format!("there is no document {:?}", id.as_str()),
    )
    .with_param("document_id")
}
