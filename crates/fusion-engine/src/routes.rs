//! What a child answers: the OpenAI routes that its model allows, and the private ones.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_types::{
    Class, Error, ErrorCode,
    chat::ChatRequest,
    completion::CompletionRequest,
    embedding::{EmbedInput, EmbedRequest, Vectors},
    engine::{
        CLASS_HEADER, EngineCard, EngineLimits, EngineStats, TokenizeRequest, TokenizeResponse,
    },
    error::ErrorBody,
    rerank::RerankRequest,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{Engine, sse};

/// The server checks sizes at its own door; this only bounds a mistake.
const BODY_LIMIT: usize = 256 << 20;

pub(crate) fn router<E: Engine>(engine: Arc<E>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::<E>))
        .route("/v1/completions", post(completions::<E>))
        .route("/v1/embeddings", post(embeddings::<E>))
        .route("/v1/rerank", post(rerank::<E>))
        .route("/health", get(ready::<E>))
        .route("/engine/ready", get(ready::<E>))
        .route("/engine/stats", get(stats::<E>))
        .route("/engine/tokenize", post(tokenize::<E>))
        .route("/engine/limits", post(limits::<E>))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(engine)
}

async fn chat<E: Engine>(
    State(engine): State<Arc<E>>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let request: ChatRequest = parse(&body)?;
    let (model, streamed) = (request.model.clone(), request.stream);
    let events = engine.chat(request, class(&headers)).await?;
    if streamed {
        Ok(sse::stream(events, sse::chat_choice))
    } else {
        Ok(sse::gather_chat(&model, events).await?)
    }
}

async fn completions<E: Engine>(
    State(engine): State<Arc<E>>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let request: CompletionRequest = parse(&body)?;
    let streamed = request.stream;
    let events = engine.complete(request, class(&headers)).await?;
    if streamed {
        Ok(sse::stream(events, sse::text_choice))
    } else {
        Ok(sse::gather_text(events).await?)
    }
}

/// Whose request it is. Who doesn't say is taken for a person.
fn class(headers: &HeaderMap) -> Class {
    let named = headers
        .get(CLASS_HEADER)
        .and_then(|value| value.to_str().ok());
    named.and_then(Class::parse).unwrap_or(Class::Interactive)
}

#[derive(Deserialize)]
struct EmbeddingsBody {
    #[serde(default)]
    model: String,
    input: EmbedInput,
    #[serde(default)]
    encoding_format: Encoding,
    #[serde(default)]
    truncate: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Float,
    /// Little-endian f32.
    Base64,
}

async fn embeddings<E: Engine>(State(engine): State<Arc<E>>, body: Bytes) -> Answer<Json<Value>> {
    let EmbeddingsBody {
        model,
        input,
        encoding_format,
        truncate,
    } = parse(&body)?;
    let vectors = engine
        .embed(EmbedRequest {
            model: model.clone(),
            input,
            truncate,
        })
        .await?;
    Ok(Json(embeddings_answer(&model, &vectors, encoding_format)))
}

fn embeddings_answer(model: &str, vectors: &Vectors, encoding: Encoding) -> Value {
    let rows = vectors.rows().enumerate().map(|(index, row)| {
        let embedding = match encoding {
            Encoding::Float => json!(row),
            Encoding::Base64 => {
                let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
                Value::String(STANDARD.encode(bytes))
            }
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    json!({
        "object": "list",
        "data": rows.collect::<Vec<_>>(),
        "model": model,
        "usage": { "prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens },
    })
}

async fn rerank<E: Engine>(State(engine): State<Arc<E>>, body: Bytes) -> Answer<Json<Value>> {
    let request: RerankRequest = parse(&body)?;
    let scores = engine.rerank(request).await?;
    Ok(Json(
        json!({ "results": scores.results, "usage": { "total_tokens": scores.tokens } }),
    ))
}

async fn ready<E: Engine>(State(engine): State<Arc<E>>) -> Json<EngineCard> {
    Json(engine.card())
}

async fn stats<E: Engine>(State(engine): State<Arc<E>>) -> Json<EngineStats> {
    Json(engine.stats())
}

async fn tokenize<E: Engine>(
    State(engine): State<Arc<E>>,
    body: Bytes,
) -> Answer<Json<TokenizeResponse>> {
    let request: TokenizeRequest = parse(&body)?;
    let spans = engine.tokenize(request.texts).await?;
    Ok(Json(TokenizeResponse { spans }))
}

async fn limits<E: Engine>(State(engine): State<Arc<E>>, body: Bytes) -> Answer<StatusCode> {
    let limits: EngineLimits = parse(&body)?;
    engine.set_threads(limits.threads.max(1));
    Ok(StatusCode::NO_CONTENT)
}

async fn not_found() -> Failure {
    Failure(Error::new(
        ErrorCode::NotFound,
        "this engine has no such route",
    ))
}

type Answer<T> = Result<T, Failure>;

struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody::from(&self.0))).into_response()
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() {
            ErrorCode::InvalidValue
        } else {
            ErrorCode::InvalidJson
        };
        Error::new(code, error.to_string())
    })
}
