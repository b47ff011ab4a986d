//! Documents as another store takes them over.

use fusion_types::{
    Result, Tenant,
    document::{Collection, CollectionRef, DocumentInfo, DocumentVersion, NewChunk},
    id::{ChunkId, DocumentId},
};
use rusqlite::Connection;

use super::{super::Sqlite, chunks, collections, versions};
use crate::error::StoreError;

impl Sqlite {
    /// Of every tenant.
    pub(crate) async fn all_collections(&self) -> Result<Vec<(CollectionRef, Collection)>> {
        self.read(all_collections).await
    }

    /// The document as it would be committed anew.
    pub(crate) async fn document_version(
        &self,
        key: &CollectionRef,
        info: &DocumentInfo,
    ) -> Result<Option<DocumentVersion>> {
        let (key, info) = (key.clone(), info.clone());
        self.read(move |connection| document_version(connection, key, info))
            .await
    }
}

fn all_collections(
    connection: &Connection,
) -> Result<Vec<(CollectionRef, Collection)>, StoreError> {
    let mut statement =
        connection.prepare("SELECT tenant, name FROM collections ORDER BY number")?;
    let keys = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(String, String)>>>()?;
    let mut all = Vec::new();
    for (tenant, name) in keys {
        let key = CollectionRef {
            tenant: Tenant::new(&tenant),
            name: name.into(),
        };
        if let Some((_, collection)) = collections::find(connection, &key)? {
            all.push((key, collection));
        }
    }
    Ok(all)
}

fn document_version(
    connection: &Connection,
    key: CollectionRef,
    info: DocumentInfo,
) -> Result<Option<DocumentVersion>, StoreError> {
    let id = &info.document_id;
    let Some(document) = versions::find(connection, &key, id)? else {
        return Ok(None);
    };
    Ok(Some(DocumentVersion {
        chunks: chunks_with_vectors(connection, &key, id)?,
        text: document.text,
        collection: key,
        document_id: info.document_id,
        filename: info.filename,
        content_hash: info.content_hash,
        metadata: info.metadata,
        ingested_at: info.ingested_at,
        at_least: info.version,
    }))
}

fn chunks_with_vectors(
    connection: &Connection,
    key: &CollectionRef,
    id: &DocumentId,
) -> Result<Vec<NewChunk>, StoreError> {
    let Some((collection, _)) = collections::find(connection, key)? else {
        return Ok(Vec::new());
    };
    let sql = "SELECT id, text, char_start, char_end, page, embedding FROM chunks WHERE document = ?1 ORDER BY position";
    let mut statement = connection.prepare_cached(sql)?;
    let document = versions::number(connection, collection, id)?;
    let chunks = statement
        .query_map([document], |row| {
            let embedding: Vec<u8> = row.get(5)?;
            Ok(NewChunk {
                id: ChunkId::from_text(&row.get::<_, String>(0)?),
                text: row.get(1)?,
                char_start: super::super::from_stored(row.get(2)?),
                char_end: super::super::from_stored(row.get(3)?),
                page: row.get(4)?,
                embedding: chunks::from_bytes(&embedding),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(chunks)
}
