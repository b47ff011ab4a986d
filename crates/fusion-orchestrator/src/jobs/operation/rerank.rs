//! `rerank`: a query and documents in, the documents' places out, best first.

use fusion_types::{
    Call, Error, Result,
    chat::Usage,
    inference::{Inference, WorkSize},
    rerank::RerankRequest,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Work, rough_tokens, typed};

pub(super) struct Rerank {
    request: RerankRequest,
    top_n: usize,
    return_documents: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    #[serde(default)]
    return_documents: bool,
    #[serde(default)]
    truncate: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or {text}")]
enum Document {
    Plain(String),
    Object { text: String },
}

pub(super) fn parse(work: &Work) -> Result<Rerank> {
    let (model, input) = typed(work)?;
    let Input {
        query,
        documents,
        top_n,
        return_documents,
        truncate,
    } = input;
    if documents.is_empty() {
        return Err(Error::invalid(
            "input.documents",
            "there must be at least one document",
        ));
    }
    if top_n == Some(0) {
        return Err(Error::invalid("input.top_n", "top_n must be at least 1"));
    }
    let documents = documents
        .into_iter()
        .map(|document| match document {
            Document::Plain(text) | Document::Object { text } => text,
        })
        .collect();
    Ok(Rerank {
        request: RerankRequest {
            model,
            query,
            documents,
            truncate,
        },
        top_n: top_n.unwrap_or(usize::MAX),
        return_documents,
    })
}

impl Rerank {
    pub(super) fn size(&self) -> WorkSize {
        let documents: usize = self.request.documents.iter().map(String::len).sum();
        let queries = self.request.query.len() * self.request.documents.len();
        WorkSize {
            prompt_tokens: rough_tokens(documents + queries),
            max_tokens: 0,
        }
    }

    pub(super) async fn run(self, call: &Call, inference: &dyn Inference) -> Result<Value> {
        let texts = self
            .return_documents
            .then(|| self.request.documents.clone());
        let mut scores = inference.rerank(call, self.request).await?.scores;
        scores
            .results
            .sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
        scores.results.truncate(self.top_n);
        let results: Vec<Value> = scores
            .results
            .iter()
            .map(|score| {
                let mut row =
                    json!({ "index": score.index, "relevance_score": score.relevance_score });
                if let Some(text) = texts.as_ref().and_then(|texts| texts.get(score.index)) {
                    row["document"] = json!({ "text": text });
                }
                row
            })
            .collect();
        Ok(json!({ "results": results, "usage": Usage::new(scores.tokens, 0) }))
    }
}
