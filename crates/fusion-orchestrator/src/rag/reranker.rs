//! A second, closer look at the best hits.

use fusion_types::{
    Call, Result,
    model::{Capability, ModelId},
    rerank::RerankRequest,
};

use super::{
    Inner,
    request::{Rerank, RerankWith, SearchRequest},
    response::Source,
};

/// Candidates that are reranked, at least.
const LEAST_CANDIDATES: usize = 20;

/// Sources in their new order.
pub(crate) struct Reordered {
    pub(crate) sources: Vec<Source>,
    pub(crate) model: ModelId,
    pub(crate) tokens: u32,
}

impl SearchRequest {
    /// How many hits a reranker is to see for an answer of `top_k`.
    pub(crate) fn candidates(top_k: u32) -> usize {
        (top_k as usize * 4).max(LEAST_CANDIDATES)
    }

    pub(super) fn wanted_rerank(&self) -> Option<RerankWith> {
        match &self.rerank {
            Rerank::Wanted(false) => None,
            Rerank::Wanted(true) => Some(RerankWith::default()),
            Rerank::With(with) => Some(with.clone()),
        }
    }
}

impl Inner {
    /// Without `model` one is chosen by capability: a cross-encoder, or an embedding model that compares token by token.
    pub(super) async fn rerank(
        &self,
        call: &Call,
        query: &str,
        mut sources: Vec<Source>,
        model: Option<&str>,
    ) -> Result<Reordered> {
        let model = self.choose(
            model.unwrap_or(&self.config.rerank_model),
            Capability::Rerank,
        )?;
        if sources.is_empty() {
            return Ok(Reordered {
                sources,
                model,
                tokens: 0,
            });
        }
        let documents = sources.iter().map(|source| source.text.clone()).collect();
        let request = RerankRequest {
            model: model.to_string(),
            query: query.to_owned(),
            documents,
            // Only the order hangs on it: a source that the reranker can't read whole is judged by its beginning.
            truncate: true,
        };
        let scores = self.inference.rerank(call, request).await?.scores;
        for score in scores.results {
            if let Some(source) = sources.get_mut(score.index) {
                source.scores.rerank = Some(score.relevance_score);
                source.score = score.relevance_score;
            }
        }
        let order = |source: &Source| source.scores.rerank.unwrap_or(f32::NEG_INFINITY);
        sources.sort_by(|a, b| order(b).total_cmp(&order(a)));
        Ok(Reordered {
            sources,
            model,
            tokens: scores.tokens,
        })
    }
}
