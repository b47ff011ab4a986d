//! `embed`: texts or token ids in, vectors out.

use fusion_types::{
    Call, Error, Result,
    chat::Usage,
    embedding::{EmbedInput, EmbedRequest},
    inference::{Inference, WorkSize},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Work, rough_tokens, typed};

pub(super) struct Embed(EmbedRequest);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    input: EmbedInput,
    #[serde(default)]
    truncate: bool,
}

pub(super) fn parse(work: &Work) -> Result<Embed> {
    let (model, Input { input, truncate }) = typed(work)?;
    if input.is_empty() {
        return Err(Error::invalid(
            "input.input",
            "there must be at least one text",
        ));
    }
    Ok(Embed(EmbedRequest {
        model,
        input,
        truncate,
    }))
}

impl Embed {
    pub(super) fn size(&self) -> WorkSize {
        let prompt_tokens = match &self.0.input {
            EmbedInput::Texts(texts) => rough_tokens(texts.iter().map(String::len).sum()),
            EmbedInput::Tokens(rows) => {
                u32::try_from(rows.iter().map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX)
            }
        };
        WorkSize {
            prompt_tokens,
            max_tokens: 0,
        }
    }

    pub(super) async fn run(self, call: &Call, inference: &dyn Inference) -> Result<Value> {
        let embedded = inference.embed(call, self.0).await?;
        let vectors = embedded.vectors;
        let embeddings: Vec<Value> = vectors
            .rows()
            .map(|row| row.iter().copied().map(shortest).collect())
            .collect();
        let model = embedded.model;
        Ok(
            json!({ "model": model, "embeddings": embeddings, "usage": Usage::new(vectors.tokens, 0) }),
        )
    }
}

/// The number with the fewest digits that reads back as the same `f32`; widened as it is, it would have twice as many.
fn shortest(value: f32) -> Value {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_digits_of_f32() {
        assert_eq!(shortest(0.1).to_string(), "0.1");
        assert_eq!(shortest(-1.5e-8).to_string(), "-1.5e-8");
    }
}
