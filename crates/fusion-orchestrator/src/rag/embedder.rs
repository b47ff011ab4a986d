//! The embedding model that a collection is bound to.

use std::{ops::Range, sync::Arc};

use fusion_types::{
    Call, Error, ErrorCode, Result,
    document::Collection,
    embedding::{EmbedRequest, Vectors},
    inference::Needs,
    model::{Capability, ModelId},
    model_ref::ModelRef,
};
use serde_json::json;

use super::{Inner, chunker::Cutting, request::IngestRequest};

/// Special tokens that an embedding model puts around a text.
const SPECIAL_TOKENS: u32 = 2;
/// Text in one request to a tokenizer, and in one of its texts.
const TOKENIZE_REQUEST_BYTES: usize = 1 << 20;
const TOKENIZE_TEXT_BYTES: usize = 64 << 10;

/// A model whose vectors are known to be of one kind.
#[derive(Clone, Debug)]
pub(super) struct Embedder {
    pub(super) model: ModelId,
    pub(super) fingerprint: Arc<str>,
    pub(super) dimension: u32,
    /// Tokens of text that it reads, where that is known.
    pub(super) limit: Option<u32>,
}

impl Embedder {
    /// Chunks as asked for, as far as the model can read them.
    pub(super) fn cutting(&self, request: &IngestRequest) -> Cutting {
        let size = self
            .limit
            .map_or(request.chunk_size, |limit| request.chunk_size.min(limit));
        Cutting {
            size,
            overlap: request.overlap_for(size),
        }
    }

    /// # Errors
    /// `embedding_model_mismatch`.
    pub(super) fn check_collection(&self, collection: &Collection) -> Result<()> {
        if *self.fingerprint == *collection.fingerprint && self.dimension == collection.dimension {
            return Ok(());
        }
        Err(mismatch(collection, &self.model))
    }
}

pub(super) fn mismatch(collection: &Collection, model: &ModelId) -> Error {
    let message = format!(
        "the collection {:?} holds vectors of {:?} as it was at the first ingest; {:?} makes others",
        collection.name,
        collection.embedding_model,
        model.as_str(),
    );
    Error::new(ErrorCode::EmbeddingModelMismatch, message)
        .with_param("embedding_model")
        .with_details(json!({"collection": collection.name, "embedding_model": collection.embedding_model, "given": model}))
}

impl Inner {
    /// # Errors
    /// As [`fusion_types::inference::ModelPlanner::choose`].
    pub(super) fn choose(&self, reference: &str, capability: Capability) -> Result<ModelId> {
        let reference: ModelRef = reference.parse()?;
        let needs = Needs {
            capability: Some(capability),
            min_context: None,
        };
        Ok(self.planner.choose(&reference, &needs)?.model)
    }

    pub(super) fn context_length(&self, model: &ModelId) -> Option<u32> {
        let reference = ModelRef::Named(model.to_string());
        let choice = self.planner.choose(&reference, &Needs::default());
        choice.ok()?.context_length
    }

    /// The model, loaded and asked for what kind of vectors it makes now, since its files may have changed.
    pub(super) async fn embedder(&self, call: &Call, reference: &str) -> Result<Embedder> {
        let model = self.choose(reference, Capability::Embeddings)?;
        let probe = self.embed(call, &model, vec!["a".to_owned()]).await?;
        let context = self.context_length(&model);
        Ok(Embedder {
            fingerprint: probe.fingerprint,
            dimension: u32::try_from(probe.dimension).unwrap_or(u32::MAX),
            limit: context.map(|tokens| tokens.saturating_sub(SPECIAL_TOKENS).max(1)),
            model,
        })
    }

    /// One vector a text, of unit length whatever the model makes, so that a dot product is a cosine; never of less than the
    /// whole text.
    pub(super) async fn embed(
        &self,
        call: &Call,
        model: &ModelId,
        input: Vec<String>,
    ) -> Result<Vectors> {
        let count = input.len();
        let request = EmbedRequest {
            model: model.to_string(),
            input: input.into(),
            truncate: false,
        };
        let mut vectors = self.inference.embed(call, request).await?.vectors;
        if vectors.rows().len() != count {
            return Err(Error::internal(format!(
                "{model} answered {} vectors for {count} texts",
                vectors.rows().len()
            )));
        }
        for row in vectors.data.chunks_exact_mut(vectors.dimension.max(1)) {
            to_unit_length(row);
        }
        Ok(vectors)
    }

    /// Byte spans of the text's tokens. A long text goes in parts, cut between words.
    pub(super) async fn tokenize(
        &self,
        call: &Call,
        model: &ModelId,
        text: &str,
    ) -> Result<Vec<Range<usize>>> {
        let parts = parts(text, TOKENIZE_TEXT_BYTES);
        let reference = ModelRef::Named(model.to_string());
        let mut spans = Vec::new();
        for parts in parts.chunks(TOKENIZE_REQUEST_BYTES / TOKENIZE_TEXT_BYTES) {
            let texts = parts
                .iter()
                .map(|part| text[part.clone()].to_owned())
                .collect();
            let tokens = self.inference.tokenize(call, &reference, texts).await?;
            for (part, tokens) in parts.iter().zip(tokens) {
                spans.extend(
                    tokens.into_iter().map(|span| {
                        part.start + span.start as usize..part.start + span.end as usize
                    }),
                );
            }
        }
        Ok(spans)
    }
}

/// Parts of at most `most` bytes, each but the last ending with white space where there is some.
fn parts(text: &str, most: usize) -> Vec<Range<usize>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    while text.len() - start > most {
        let longest = text.floor_char_boundary(start + most);
        let window = &text[start..longest];
        let after_blank = window
            .char_indices()
            .rev()
            .find(|(_, c)| c.is_whitespace())
            .map(|(at, c)| at + c.len_utf8());
        let end = after_blank.map_or(longest, |at| start + at);
        parts.push(start..end);
        start = end;
    }
    parts.push(start..text.len());
    parts
}

/// A vector of zeros stays one.
fn to_unit_length(row: &mut [f32]) {
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|value| *value /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_become_unit_length() {
        let mut row = [3.0, 4.0];
        to_unit_length(&mut row);
        assert_eq!(row, [0.6, 0.8]);
        let mut nothing = [0.0, 0.0];
        to_unit_length(&mut nothing);
        assert_eq!(nothing, [0.0, 0.0]);
    }

    #[test]
    fn parts_are_the_whole_text_cut_between_words() {
        let text = "one two three 漢字漢字漢字 four";
        let cut: Vec<_> = parts(text, 10)
            .into_iter()
            .map(|part| &text[part])
            .collect();
        assert_eq!(cut, ["one two ", "three ", "漢字漢", "字漢字 ", "four"]);
        assert_eq!(cut.concat(), text);
    }
}
