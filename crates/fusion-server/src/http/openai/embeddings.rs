//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_types::{
    Error, Result,
    embedding::{EmbedInput, EmbedRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::{Answer, App, Caller, JsonBody};

#[derive(Deserialize)]
pub(crate) struct Body {
    pub(super) model: String,
    pub(super) input: EmbedInput,
    #[serde(default)]
    encoding_format: Option<Encoding>,
    #[serde(default)]
    dimensions: Option<usize>,
    /// Cut what is too long, instead of refusing it.
    #[serde(default)]
    pub(super) truncate: bool,
}

impl Body {
    pub(super) fn form(&self) -> Form {
        Form {
            encoding_format: self.encoding_format,
            dimensions: self.dimensions,
        }
    }
}

/// How vectors are to be written.
#[derive(Deserialize, Serialize)]
pub(super) struct Form {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding_format: Option<Encoding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Float,
    /// Little-endian f32.
    Base64,
}

const MOST_INPUTS: usize = 2048;

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Caller(call): Caller,
    JsonBody(body): JsonBody<Body>,
) -> Answer<Json<Value>> {
    check(&body.input)?;
    let form = body.form();
    let request = EmbedRequest {
        model: body.model,
        input: body.input,
        truncate: body.truncate,
    };
    let embedded = app.inference.embed(&call, request).await?;
    let vectors = &embedded.vectors;
    let (model, tokens) = (embedded.model.as_str(), vectors.tokens);
    Ok(Json(whole(model, vectors.rows(), tokens, &form)?))
}

/// The answer, of one vector an input.
pub(super) fn whole<'a>(
    model: &str,
    vectors: impl Iterator<Item = &'a [f32]>,
    tokens: u32,
    form: &Form,
) -> Result<Value> {
    let rows = vectors.enumerate().map(|(index, row)| {
        let row = shorten(row, form.dimensions)?;
        Ok(json!({ "object": "embedding", "index": index, "embedding": encode(&row, form.encoding_format) }))
    });
    let data = rows.collect::<Result<Vec<_>>>()?;
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(json!({ "object": "list", "data": data, "model": model, "usage": usage }))
}

pub(super) fn check(input: &EmbedInput) -> Result<()> {
    match input.len() {
        0 => Err(Error::invalid(
            "input",
            "input: at least one text is needed",
        )),
        1..=MOST_INPUTS => Ok(()),
        _ => Err(Error::invalid(
            "input",
            format!("input: at most {MOST_INPUTS} texts"),
        )),
    }
}

/// The first values of a vector, made unit length again (Matryoshka embeddings; for other models a mere approximation).
fn shorten(row: &[f32], dimensions: Option<usize>) -> Result<Vec<f32>> {
    let Some(wanted) = dimensions else {
        return Ok(row.to_vec());
    };
    if wanted == 0 || wanted > row.len() {
        let most = row.len();
        return Err(Error::invalid(
            "dimensions",
            format!("dimensions: must be from 1 to {most}"),
        ));
    }
    let head = &row[..wanted];
    let length = head
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    Ok(head.iter().map(|value| value / length).collect())
}

fn encode(row: &[f32], encoding: Option<Encoding>) -> Value {
    match encoding.unwrap_or_default() {
        Encoding::Float => json!(row),
        Encoding::Base64 => {
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            STANDARD.encode(bytes).into()
        }
    }
}
