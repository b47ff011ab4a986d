//! Retrieval among documents that come with the question, without storing them.

use fusion_types::{
    Call, Error, Result,
    document::{Chunk, CollectionRef},
    id::{ChunkId, DocumentId},
};
use serde_json::Map;

use super::{
    Inner,
    chunker::{self, Cutting},
    collections::{document_not_found, key},
    embedder::Embedder,
    response::{Source, SourceScores},
    retriever::{Retrieved, best_first, source},
};

/// Chunks that a question may bring along.
const MOST_CHUNKS: usize = 2000;
/// Tokens of a chunk of a given text, and of its overlap.
const GIVEN: Cutting = Cutting {
    size: 256,
    overlap: 32,
};

/// A question over given documents: each a text, or the id of a document in `collection`.
#[derive(Clone, Debug)]
pub(crate) struct GivenSearch<'a> {
    pub(crate) query: &'a str,
    pub(crate) documents: &'a [String],
    pub(crate) collection: &'a str,
    pub(crate) embedding_model: Option<&'a str>,
}

/// A chunk, with its vector where the store had one of this kind.
struct Candidate {
    chunk: Chunk,
    vector: Option<Vec<f32>>,
}

impl Inner {
    /// The `keep` closest chunks by cosine.
    pub(super) async fn retrieve_given(
        &self,
        call: &Call,
        search: &GivenSearch<'_>,
        keep: usize,
    ) -> Result<Retrieved> {
        let key = key(call, search.collection);
        let stored = self.documents.collection(&key).await?;
        let own = stored
            .as_ref()
            .map(|collection| collection.embedding_model.as_str());
        let reference = search
            .embedding_model
            .or(own)
            .unwrap_or(&self.config.embedding_model);
        let embedder = self.embedder(call, reference).await?;
        let same_kind = stored
            .as_ref()
            .is_some_and(|collection| embedder.check_collection(collection).is_ok());

        let mut candidates = Vec::new();
        for (index, document) in search.documents.iter().enumerate() {
            match self
                .stored_candidates(&key, stored.is_some(), same_kind, document)
                .await?
            {
                Some(found) => candidates.extend(found),
                None => candidates.extend(self.cut_given(call, &embedder, index, document).await?),
            }
            if candidates.len() > MOST_CHUNKS {
                return Err(Error::invalid(
                    "documents",
                    format!("they make more than {MOST_CHUNKS} chunks"),
                ));
            }
        }
        let mut texts = vec![search.query.to_owned()];
        texts.extend(
            candidates
                .iter()
                .filter(|c| c.vector.is_none())
                .map(|c| c.chunk.text.clone()),
        );
        let (vectors, tokens) = self.embed_all(call, &embedder, texts).await?;
        let mut sources = scored(candidates, vectors);
        sources.truncate(keep);
        Ok(Retrieved {
            sources,
            dropped_below_threshold: 0,
            model: Some(embedder.model),
            tokens,
        })
    }

    /// The chunks of a stored document; `None` where `document` is a text.
    async fn stored_candidates(
        &self,
        key: &CollectionRef,
        exists: bool,
        same_kind: bool,
        document: &str,
    ) -> Result<Option<Vec<Candidate>>> {
        let may_be_id = document.len() <= 256 && !document.contains(char::is_whitespace);
        let id = DocumentId::from_text(document);
        let stored = if exists && may_be_id {
            self.documents.document(key, &id).await?
        } else {
            None
        };
        let Some(stored) = stored else {
            let is_meant_as_id = may_be_id && document.starts_with(DocumentId::PREFIX);
            return if is_meant_as_id {
                Err(document_not_found(&id))
            } else {
                Ok(None)
            };
        };
        let mut vectors = Vec::new();
        if same_kind {
            let texts: Vec<&str> = stored
                .chunks
                .iter()
                .map(|chunk| chunk.text.as_str())
                .collect();
            vectors = self.documents.known_vectors(key, &id, &texts).await?;
        }
        vectors.resize(stored.chunks.len(), None);
        let candidate = |(chunk, vector)| Candidate { chunk, vector };
        Ok(Some(
            stored
                .chunks
                .into_iter()
                .zip(vectors)
                .map(candidate)
                .collect(),
        ))
    }

    async fn cut_given(
        &self,
        call: &Call,
        embedder: &Embedder,
        index: usize,
        text: &str,
    ) -> Result<Vec<Candidate>> {
        let tokens = self.tokenize(call, &embedder.model, text).await?;
        let size = embedder
            .limit
            .map_or(GIVEN.size, |limit| limit.min(GIVEN.size));
        let cutting = Cutting {
            size,
            overlap: GIVEN.overlap.min(size / 2),
        };
        let document_id = DocumentId::from_text(&format!("input-{}", index + 1));
        let candidate = |(at, piece): (usize, chunker::Piece)| Candidate {
            chunk: Chunk {
                chunk_id: ChunkId::from_text(&format!("{document_id}-{}", at + 1)),
                document_id: document_id.clone(),
                text: text[piece.bytes].to_owned(),
                char_start: piece.chars.start,
                char_end: piece.chars.end,
                page: None,
                filename: None,
                metadata: Map::new(),
            },
            vector: None,
        };
        Ok(chunker::chunk(text, &tokens, cutting)
            .into_iter()
            .enumerate()
            .map(candidate)
            .collect())
    }

    async fn embed_all(
        &self,
        call: &Call,
        embedder: &Embedder,
        texts: Vec<String>,
    ) -> Result<(Vec<Vec<f32>>, u32)> {
        let (mut rows, mut tokens) = (Vec::with_capacity(texts.len()), 0);
        for batch in texts.chunks(self.config.embed_batch.max(1)) {
            let vectors = self.embed(call, &embedder.model, batch.to_vec()).await?;
            rows.extend(vectors.rows().map(<[f32]>::to_vec));
            tokens += vectors.tokens;
        }
        Ok((rows, tokens))
    }
}

/// `vectors` holds the query's first, then those that candidates lack, in order.
fn scored(candidates: Vec<Candidate>, vectors: Vec<Vec<f32>>) -> Vec<Source> {
    let mut vectors = vectors.into_iter();
    let query = vectors.next().unwrap_or_default();
    let mut score = |candidate: Candidate| {
        let vector = candidate
            .vector
            .or_else(|| vectors.next())
            .unwrap_or_default();
        let cosine: f32 = query.iter().zip(&vector).map(|(a, b)| a * b).sum();
        let scores = SourceScores {
            dense: Some(cosine),
            ..SourceScores::default()
        };
        source(candidate.chunk, cosine, scores)
    };
    let mut sources: Vec<Source> = candidates.into_iter().map(&mut score).collect();
    best_first(&mut sources);
    sources
}
