//! `POST /v1/embeddings`.

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_types::{Error, Result, embedding::EmbedRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Answer, App, Caller, JsonBody};

#[derive(Deserialize)]
pub(crate) struct Body {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: Option<Encoding>,
    #[serde(default)]
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, or token ids"
)]
enum Input {
    One(String),
    Many(Vec<String>),
    #[expect(dead_code, reason = "told apart from texts, then refused")]
    Tokens(Vec<u32>),
    #[expect(dead_code, reason = "told apart from texts, then refused")]
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Float,
    /// Little-endian f32.
    Base64,
}

const MOST_INPUTS: usize = 2048;

pub(crate) async fn create(
    State(App { inference, .. }): State<App>,
    Caller(call): Caller,
    JsonBody(body): JsonBody<Body>,
) -> Answer<Json<Value>> {
    let input = texts(body.input)?;
    let request = EmbedRequest {
        model: body.model,
        input,
        truncate: false,
    };
    let embedded = inference.embed(&call, request).await?;
    let rows = embedded.vectors.rows().enumerate().map(|(index, row)| {
        let row = shorten(row, body.dimensions)?;
        Ok(json!({ "object": "embedding", "index": index, "embedding": encode(&row, body.encoding_format) }))
    });
    let data = rows.collect::<Result<Vec<_>>>()?;
    let tokens = embedded.vectors.tokens;
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(
        json!({ "object": "list", "data": data, "model": embedded.model, "usage": usage }),
    ))
}

fn texts(input: Input) -> Result<Vec<String>> {
    let texts = match input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
        Input::Tokens(_) | Input::ManyTokens(_) => {
            return Err(Error::not_implemented("embedding token ids").with_param("input"));
        }
    };
    match texts.len() {
        0 => Err(Error::invalid(
            "input",
            "input: at least one text is needed",
        )),
        1..=MOST_INPUTS => Ok(texts),
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
