//! A document store and an index in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
};

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result, Tenant,
    document::{
        Chunk, Collection, CollectionRef, Committed, Document, DocumentInfo, DocumentVersion, Hit,
        IndexChange, IndexChangeKind, IndexQuery, NewCollection,
    },
    id::{ChunkId, DocumentId},
    job::Seq,
    page::{Page, Window},
    store::{ChunkIndex, DocumentStore},
};

#[derive(Default)]
pub(crate) struct MemoryDocuments {
    collections: Mutex<HashMap<CollectionRef, Stored>>,
}

struct Stored {
    collection: Collection,
    documents: BTreeMap<DocumentId, (Document, Vec<Vec<f32>>)>,
    log: Vec<IndexChangeKind>,
}

impl MemoryDocuments {
    fn with<T>(
        &self,
        key: &CollectionRef,
        work: impl FnOnce(&mut Stored) -> Result<T>,
    ) -> Result<T> {
        let mut collections = self.collections.lock().unwrap();
        let stored = collections.get_mut(key);
        work(
            stored
                .ok_or_else(|| Error::new(ErrorCode::CollectionNotFound, "no such collection"))?,
        )
    }
}

impl Stored {
    fn remove(&mut self, id: &DocumentId) -> Option<Document> {
        let (document, _) = self.documents.remove(id)?;
        let removed = document.chunks.iter().map(|chunk| IndexChangeKind::Remove {
            chunk_id: chunk.chunk_id.clone(),
        });
        self.log.extend(removed);
        Some(document)
    }

    fn seq(&self) -> Seq {
        Seq(self.log.len() as u64)
    }
}

#[async_trait]
impl DocumentStore for MemoryDocuments {
    async fn create_collection(&self, new: NewCollection) -> Result<Collection> {
        let mut collections = self.collections.lock().unwrap();
        let stored = collections
            .entry(new.key.clone())
            .or_insert_with(|| Stored {
                collection: Collection {
                    name: new.key.name.to_string(),
                    document_count: 0,
                    chunk_count: 0,
                    embedding_model: new.embedding_model,
                    fingerprint: new.fingerprint,
                    dimension: new.dimension,
                    created_at: new.created_at,
                    updated_at: new.created_at,
                    metadata: new.metadata,
                },
                documents: BTreeMap::new(),
                log: Vec::new(),
            });
        Ok(stored.collection.clone())
    }

    async fn collection(&self, key: &CollectionRef) -> Result<Option<Collection>> {
        Ok(self
            .collections
            .lock()
            .unwrap()
            .get(key)
            .map(|stored| stored.collection.clone()))
    }

    async fn collections(&self, tenant: &Tenant, _window: Window) -> Result<Page<Collection>> {
        let collections = self.collections.lock().unwrap();
        let own = collections.iter().filter(|(key, _)| key.tenant == *tenant);
        let items: Vec<_> = own.map(|(_, stored)| stored.collection.clone()).collect();
        Ok(Page {
            total: items.len() as u64,
            items,
        })
    }

    async fn delete_collection(&self, key: &CollectionRef) -> Result<()> {
        self.collections.lock().unwrap().remove(key);
        Ok(())
    }

    async fn commit(&self, version: DocumentVersion) -> Result<Committed> {
        self.with(&version.collection.clone(), |stored| {
            let before = stored.remove(&version.document_id);
            let number = before.map_or(1, |before| before.info.version + 1);
            let info = DocumentInfo {
                document_id: version.document_id.clone(),
                filename: version.filename.clone(),
                version: number,
                chunk_count: version.chunks.len() as u64,
                ingested_at: version.ingested_at,
                metadata: version.metadata.clone(),
                content_hash: version.content_hash,
            };
            let (mut chunks, mut vectors) = (Vec::new(), Vec::new());
            for chunk in version.chunks {
                stored.log.push(IndexChangeKind::Add {
                    chunk_id: chunk.id.clone(),
                    embedding: chunk.embedding.clone(),
                    text: chunk.text.clone(),
                });
                vectors.push(chunk.embedding);
                chunks.push(Chunk {
                    chunk_id: chunk.id,
                    document_id: version.document_id.clone(),
                    text: chunk.text,
                    char_start: chunk.char_start,
                    char_end: chunk.char_end,
                    page: chunk.page,
                    filename: version.filename.clone(),
                    metadata: version.metadata.clone(),
                });
            }
            let document = Document {
                info,
                text: version.text,
                chunks,
            };
            stored
                .documents
                .insert(version.document_id, (document, vectors));
            Ok(Committed {
                version: number,
                seq: stored.seq(),
            })
        })
    }

    async fn document(&self, key: &CollectionRef, id: &DocumentId) -> Result<Option<Document>> {
        self.with(key, |stored| {
            Ok(stored
                .documents
                .get(id)
                .map(|(document, _)| document.clone()))
        })
    }

    async fn documents(&self, key: &CollectionRef, _window: Window) -> Result<Page<DocumentInfo>> {
        self.with(key, |stored| {
            let items: Vec<_> = stored
                .documents
                .values()
                .map(|(document, _)| document.info.clone())
                .collect();
            Ok(Page {
                total: items.len() as u64,
                items,
            })
        })
    }

    async fn delete(&self, key: &CollectionRef, id: &DocumentId) -> Result<u64> {
        self.with(key, |stored| {
            let document = stored.remove(id);
            let document = document
                .ok_or_else(|| Error::new(ErrorCode::DocumentNotFound, "no such document"))?;
            Ok(document.chunks.len() as u64)
        })
    }

    async fn known_vectors(
        &self,
        key: &CollectionRef,
        id: &DocumentId,
        texts: &[&str],
    ) -> Result<Vec<Option<Vec<f32>>>> {
        self.with(key, |stored| {
            let Some((document, vectors)) = stored.documents.get(id) else {
                return Ok(vec![None; texts.len()]);
            };
            let known = |text: &&str| {
                let at = document
                    .chunks
                    .iter()
                    .position(|chunk| chunk.text == **text)?;
                Some(vectors[at].clone())
            };
            Ok(texts.iter().map(known).collect())
        })
    }

    async fn live_chunks(&self, key: &CollectionRef, ids: &[ChunkId]) -> Result<Vec<Chunk>> {
        self.with(key, |stored| {
            let chunks = || {
                stored
                    .documents
                    .values()
                    .flat_map(|(document, _)| &document.chunks)
            };
            Ok(ids
                .iter()
                .filter_map(|id| chunks().find(|chunk| chunk.chunk_id == *id).cloned())
                .collect())
        })
    }

    async fn index_changes(
        &self,
        key: &CollectionRef,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<IndexChange>> {
        self.with(key, |stored| {
            let changes = stored
                .log
                .iter()
                .enumerate()
                .skip(after.0 as usize)
                .take(limit as usize);
            Ok(changes
                .map(|(at, kind)| IndexChange {
                    seq: Seq(at as u64 + 1),
                    kind: kind.clone(),
                })
                .collect())
        })
    }
}

/// Dense and keyword in one: a keyword score counts the query's words that a chunk has.
#[derive(Default)]
pub(crate) struct MemoryIndex {
    collections: Mutex<HashMap<CollectionRef, Indexed>>,
    /// Pretends that removals were applied.
    keeps_the_dead: bool,
}

#[derive(Default)]
struct Indexed {
    upto: Seq,
    chunks: BTreeMap<ChunkId, (Vec<f32>, String)>,
}

impl MemoryIndex {
    pub(crate) fn forgetful() -> Self {
        Self {
            keeps_the_dead: true,
            ..Self::default()
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.collections
            .lock()
            .unwrap()
            .values()
            .map(|indexed| indexed.chunks.len())
            .sum()
    }
}

#[async_trait]
impl ChunkIndex for MemoryIndex {
    async fn upto(&self, collection: &CollectionRef) -> Result<Seq> {
        Ok(self
            .collections
            .lock()
            .unwrap()
            .get(collection)
            .map(|indexed| indexed.upto)
            .unwrap_or_default())
    }

    async fn apply(&self, collection: &CollectionRef, changes: Vec<IndexChange>) -> Result<Seq> {
        let mut collections = self.collections.lock().unwrap();
        let indexed = collections.entry(collection.clone()).or_default();
        for change in changes {
            assert_eq!(
                change.seq.0,
                indexed.upto.0 + 1,
                "changes come in order, each once"
            );
            indexed.upto = change.seq;
            match change.kind {
                IndexChangeKind::Add {
                    chunk_id,
                    embedding,
                    text,
                } => {
                    indexed.chunks.insert(chunk_id, (embedding, text));
                }
                IndexChangeKind::Remove { chunk_id } if !self.keeps_the_dead => {
                    indexed.chunks.remove(&chunk_id);
                }
                IndexChangeKind::Remove { .. } => {}
            }
        }
        Ok(indexed.upto)
    }

    async fn search(
        &self,
        collection: &CollectionRef,
        query: IndexQuery,
        k: usize,
    ) -> Result<Vec<Hit>> {
        let collections = self.collections.lock().unwrap();
        let score = |vector: &[f32], text: &str| match &query {
            IndexQuery::Dense(query) => Some(query.iter().zip(vector).map(|(a, b)| a * b).sum()),
            IndexQuery::Keyword(query) => {
                let count = query
                    .split_whitespace()
                    .filter(|word| text.contains(word))
                    .count();
                (count > 0).then_some(count as f32)
            }
        };
        let chunks = collections
            .get(collection)
            .into_iter()
            .flat_map(|indexed| &indexed.chunks);
        let hit = |(id, (vector, text)): (&ChunkId, &(Vec<f32>, String))| {
            score(vector, text).map(|score| Hit {
                chunk_id: id.clone(),
                score,
            })
        };
        let mut hits: Vec<Hit> = chunks.filter_map(hit).collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        hits.truncate(k);
        Ok(hits)
    }

    async fn drop_collection(&self, collection: &CollectionRef) -> Result<()> {
        self.collections.lock().unwrap().remove(collection);
        Ok(())
    }
}
