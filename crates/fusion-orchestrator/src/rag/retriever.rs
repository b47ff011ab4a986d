//! A query in, the closest live chunks out.

use std::{collections::HashMap, sync::Arc};

use fusion_types::{
    Call, Error, ErrorCode, Result,
    document::{Chunk, Collection, CollectionRef, Hit},
    id::ChunkId,
    model::{Capability, ModelId},
};
use futures::{
    future::{OptionFuture, try_join_all},
    try_join,
};

use super::{
    Inner, embedder, fusion,
    fusion::Pair,
    request::{Mode, SearchRequest, Threshold},
    response::{Source, SourceScores},
};

/// Hits asked of each index, at least: fusion needs more than what is kept.
const LEAST_DEPTH: usize = 50;

/// Sources best first, with what finding them took.
#[derive(Debug)]
pub(crate) struct Retrieved {
    pub(crate) sources: Vec<Source>,
    pub(crate) dropped_below_threshold: u64,
    /// The model that embedded the query; none in mode keyword.
    pub(crate) model: Option<ModelId>,
    /// Tokens that it read.
    pub(crate) tokens: u32,
}

impl Inner {
    /// The `keep` best chunks, not yet reranked.
    pub(super) async fn retrieve(
        &self,
        call: &Call,
        search: &SearchRequest,
        keep: usize,
    ) -> Result<Retrieved> {
        search.check()?;
        let collections = self.named_collections(call, search).await?;
        let query = self.embed_query(call, search, &collections).await?;
        let vector = query.as_ref().map(|query| query.vector.as_slice());
        let depth = (search.top_k as usize * 4).max(LEAST_DEPTH);
        let searches = collections
            .iter()
            .map(|(key, _)| self.search_one(call, key, search, vector, depth));
        let found: Vec<Found> = try_join_all(searches)
            .await?
            .into_iter()
            .flatten()
            .collect();

        let before = found.len();
        let found = above(found, search.similarity_threshold.as_ref());
        let dropped_below_threshold = (before - found.len()) as u64;
        let mut sources = ranked(found, search.mode);
        sources.truncate(keep);
        Ok(Retrieved {
            sources,
            dropped_below_threshold,
            tokens: query.as_ref().map_or(0, |query| query.tokens),
            model: query.map(|query| query.model),
        })
    }

    async fn named_collections(
        &self,
        call: &Call,
        search: &SearchRequest,
    ) -> Result<Vec<(CollectionRef, Collection)>> {
        let mut collections = Vec::new();
        for name in search.collection_names() {
            let key = CollectionRef {
                tenant: call.tenant.clone(),
                name: name.into(),
            };
            let collection = self.known_collection(&key).await?;
            collections.push((key, collection));
        }
        Ok(collections)
    }

    /// # Errors
    /// `collection_not_found`.
    pub(super) async fn known_collection(&self, key: &CollectionRef) -> Result<Collection> {
        self.documents.collection(key).await?.ok_or_else(|| {
            Error::new(
                ErrorCode::CollectionNotFound,
                format!("there is no collection {:?}", key.name),
            )
            .with_param("collection")
        })
    }

    /// The query's vector, made once for all collections, none in mode keyword.
    async fn embed_query(
        &self,
        call: &Call,
        search: &SearchRequest,
        collections: &[(CollectionRef, Collection)],
    ) -> Result<Option<QueryVector>> {
        let Some((_, first)) = collections.first().filter(|_| search.mode != Mode::Keyword) else {
            return Ok(None);
        };
        let reference = search
            .embedding_model
            .as_deref()
            .unwrap_or(&first.embedding_model);
        let query = self.query_vector(call, reference, &search.query).await?;
        match collections
            .iter()
            .find(|(_, collection)| *collection.fingerprint != *query.fingerprint)
        {
            Some((_, other)) => Err(embedder::mismatch(other, &query.model)),
            None => Ok(Some(query)),
        }
    }

    pub(super) async fn query_vector(
        &self,
        call: &Call,
        reference: &str,
        query: &str,
    ) -> Result<QueryVector> {
        let model = self.choose(reference, Capability::Embeddings)?;
        let vectors = self.embed(call, &model, vec![query.to_owned()]).await?;
        Ok(QueryVector {
            model,
            fingerprint: vectors.fingerprint,
            vector: vectors.data,
            tokens: vectors.tokens,
        })
    }

    /// Every live hit in one collection, with what each search says of it.
    async fn search_one(
        &self,
        call: &Call,
        key: &CollectionRef,
        search: &SearchRequest,
        vector: Option<&[f32]>,
        depth: usize,
    ) -> Result<Vec<Found>> {
        self.indexes.catch_up(call, key).await?;
        let dense = vector.map(|vector| self.indexes.dense(key, vector.to_vec(), depth));
        let keyword =
            (search.mode != Mode::Dense).then(|| self.indexes.keyword(key, &search.query, depth));
        let (dense, keyword) = try_join!(
            async { OptionFuture::from(dense).await.transpose() },
            async { OptionFuture::from(keyword).await.transpose() },
        )?;
        let (ids, pairs) = paired(&dense.unwrap_or_default(), &keyword.unwrap_or_default());
        let chunks = self.documents.live_chunks(key, &ids).await?;
        let found = |chunk: Chunk| {
            pairs
                .get(&chunk.chunk_id)
                .map(|pair| Found { pair: *pair, chunk })
        };
        Ok(chunks.into_iter().filter_map(found).collect())
    }
}

pub(super) struct QueryVector {
    pub(super) model: ModelId,
    pub(super) fingerprint: Arc<str>,
    pub(super) vector: Vec<f32>,
    pub(super) tokens: u32,
}

#[derive(Debug)]
struct Found {
    chunk: Chunk,
    pair: Pair,
}

fn paired(dense: &[Hit], keyword: &[Hit]) -> (Vec<ChunkId>, HashMap<ChunkId, Pair>) {
    let mut ids = Vec::new();
    let mut pairs: HashMap<ChunkId, Pair> = HashMap::new();
    let mut pair_of = |hit: &Hit, set: fn(&mut Pair, f32)| {
        let pair = pairs.entry(hit.chunk_id.clone()).or_insert_with(|| {
            ids.push(hit.chunk_id.clone());
            Pair::default()
        });
        set(pair, hit.score);
    };
    for hit in dense {
        pair_of(hit, |pair, score| pair.dense = Some(score));
    }
    for hit in keyword {
        pair_of(hit, |pair, score| pair.keyword = Some(score));
    }
    (ids, pairs)
}

/// What has no dense score is further away than all that have one.
fn above(mut found: Vec<Found>, threshold: Option<&Threshold>) -> Vec<Found> {
    if let Some(Threshold::Cosine(least)) = threshold {
        found.retain(|found| found.pair.dense.is_some_and(|dense| dense >= *least));
    }
    found
}

fn ranked(found: Vec<Found>, mode: Mode) -> Vec<Source> {
    let pairs: Vec<Pair> = found.iter().map(|found| found.pair).collect();
    let fused = fusion::min_max_mean(&pairs);
    let source = |(found, fused): (Found, f32)| {
        let Pair { dense, keyword } = found.pair;
        let (score, fused) = match mode {
            Mode::Hybrid => (fused, Some(fused)),
            Mode::Dense => (dense.unwrap_or(f32::MIN), None),
            Mode::Keyword => (keyword.unwrap_or(0.0), None),
        };
        source(
            found.chunk,
            score,
            SourceScores {
                dense,
                keyword,
                fused,
                rerank: None,
            },
        )
    };
    let mut sources: Vec<Source> = found.into_iter().zip(fused).map(source).collect();
    best_first(&mut sources);
    sources
}

/// Equals stand in the order of their ids, so that the same question has the same answer.
pub(super) fn best_first(sources: &mut [Source]) {
    sources.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| a.chunk_id.cmp(&b.chunk_id))
    });
}

pub(super) fn source(chunk: Chunk, score: f32, scores: SourceScores) -> Source {
    let mut metadata = chunk.metadata;
    metadata.insert("file".to_owned(), chunk.filename.into());
    metadata.insert("page".to_owned(), chunk.page.into());
    metadata.insert("char_start".to_owned(), chunk.char_start.into());
    metadata.insert("char_end".to_owned(), chunk.char_end.into());
    Source {
        chunk_id: chunk.chunk_id,
        document_id: chunk.document_id,
        text: chunk.text,
        score,
        scores,
        metadata,
        char_start: chunk.char_start,
    }
}
