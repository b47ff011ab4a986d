//! The dialect's client side: one child, over its socket, or a foreign engine over its port.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fusion_types::{
    Class, Error, ErrorCode, Result,
    chat::{ChatRequest, ChunkChoice},
    completion::{CompletionRequest, TextChoice},
    embedding::{EmbedRequest, Vectors},
    engine::{EngineLimits, TokenizeRequest, TokenizeResponse},
    error::ErrorBody,
    rerank::{RerankRequest, Score, Scores},
};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::timeout;

use super::{
    chat::{self, ChatEvents},
    foreign, inline,
    supervisor::{Life, Stop},
    translate,
    wire::{Response, Wire, WireError},
};

/// How long an engine may take for a question about itself.
const SHORT: Duration = Duration::from_secs(5);
/// The connection breaks a moment before the child's end is known.
const END_KNOWN: Duration = Duration::from_secs(2);
/// A slot is given back here a moment before the child notices; it then says that it is full.
const FULL_RETRIES: u32 = 8;

/// How many times the hang timeout a prompt may take to read.
const PROMPT_PATIENCE: u32 = 5;

/// What differs where the child is somebody else's server: it has none of our private routes.
#[derive(Debug)]
pub(super) struct Peculiar {
    /// Answered with success while the server is well.
    pub(super) health: String,
    /// The name that the server has for its model.
    pub(super) model: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    wire: Wire,
    hang_timeout: Duration,
    life: Life,
    peculiar: Option<Arc<Peculiar>>,
}

impl Client {
    pub(super) fn new(
        wire: Wire,
        hang_timeout: Duration,
        life: Life,
        peculiar: Option<Peculiar>,
    ) -> Self {
        Self {
            wire,
            hang_timeout,
            life,
            peculiar: peculiar.map(Arc::new),
        }
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.peculiar.is_some()
    }

    /// Starts a generation. Dropping the events closes the connection, which frees the slot.
    pub(crate) async fn chat(&self, request: &ChatRequest, class: Class) -> Result<ChatEvents> {
        const PATH: &str = "/v1/chat/completions";
        let response = match &self.peculiar {
            None => self.post_as(Some(class), PATH, request).await?,
            Some(peculiar) => {
                // Boxed, as it would take room in every request to engines of our own.
                let request = Box::pin(inline::with_data(request)).await?;
                let body = translate::body(&request, &request.sampling, &peculiar.model)?;
                Box::pin(self.post(PATH, &body)).await?
            }
        };
        Ok(chat::events::<ChunkChoice>(self.clone(), response))
    }

    /// The same for a text without a template.
    pub(crate) async fn complete(
        &self,
        request: &CompletionRequest,
        class: Class,
    ) -> Result<ChatEvents> {
        const PATH: &str = "/v1/completions";
        let response = match &self.peculiar {
            None => self.post_as(Some(class), PATH, request).await?,
            Some(peculiar) => {
                let body = translate::body(request, &request.sampling, &peculiar.model)?;
                Box::pin(self.post(PATH, &body)).await?
            }
        };
        Ok(chat::events::<TextChoice>(self.clone(), response))
    }

    pub(crate) async fn embed(&self, request: &EmbedRequest, fingerprint: &str) -> Result<Vectors> {
        const PATH: &str = "/v1/embeddings";
        let mut body = json!({ "input": request.input, "encoding_format": "base64" });
        let answer: Embeddings = match &self.peculiar {
            None => {
                body["model"] = request.model.as_str().into();
                body["truncate"] = request.truncate.into();
                self.ask(PATH, &body).await?
            }
            Some(peculiar) => {
                body["model"] = peculiar.model.as_str().into();
                match self.ask(PATH, &body).await {
                    // It may not know base64.
                    Err(error) if error.code == ErrorCode::InvalidValue => {
                        body["encoding_format"] = "float".into();
                        self.ask(PATH, &body).await?
                    }
                    answer => answer?,
                }
            }
        };
        answer.into_vectors(request.input.len(), fingerprint)
    }

    pub(crate) async fn rerank(&self, request: &RerankRequest) -> Result<Scores> {
        let mut body =
            serde_json::to_value(request).map_err(|error| Error::internal(error.to_string()))?;
        if let Some(peculiar) = &self.peculiar {
            body["model"] = peculiar.model.as_str().into();
        }
        let answer: Reranked = self.ask("/v1/rerank", &body).await?;
        let mut results = answer.results;
        results.sort_by_key(|score| score.index);
        let complete = results
            .iter()
            .map(|score| score.index)
            .eq(0..request.documents.len());
        if !complete {
            return Err(unreadable("it didn't score every document once"));
        }
        Ok(Scores {
            results,
            tokens: answer.usage.total_tokens,
        })
    }

    pub(crate) async fn tokenize(&self, request: &TokenizeRequest) -> Result<Vec<Vec<(u32, u32)>>> {
        if self.is_foreign() {
            return Err(Error::new(
                ErrorCode::UnsupportedOperation,
                "this model's engine can't say where its tokens are; take a model on an engine of fusiond's own",
            ));
        }
        let answer: TokenizeResponse = self.ask("/engine/tokenize", request).await?;
        if answer.spans.len() == request.texts.len() {
            Ok(answer.spans)
        } else {
            Err(unreadable("it didn't tokenize every text"))
        }
    }

    /// Foreign engines keep the threads that they were started with.
    pub(crate) async fn limit(&self, limits: EngineLimits) -> Result<()> {
        if self.is_foreign() {
            return Ok(());
        }
        let body =
            serde_json::to_vec(&limits).map_err(|error| Error::internal(error.to_string()))?;
        let sent = timeout(
            SHORT,
            self.wire.send(Method::POST, "/engine/limits", body.into()),
        );
        match sent.await {
            Ok(Ok(response)) => response
                .bytes()
                .await
                .map(drop)
                .map_err(|error| unreadable(&error.to_string())),
            Ok(Err(error)) => Err(unreadable(&error.to_string())),
            Err(_) => Err(unreadable("it didn't answer in time")),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let response = self.post(path, body).await?;
        let bytes = self.patiently(pin!(response.bytes())).await?;
        serde_json::from_slice(&bytes).map_err(|error| unreadable(&error.to_string()))
    }

    /// Sends until a slot takes it. An answer other than success is the engine's error.
    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Response> {
        self.post_as(None, path, body).await
    }

    async fn post_as(
        &self,
        class: Option<Class>,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response> {
        let body = serde_json::to_vec(body).map_err(|error| Error::internal(error.to_string()))?;
        let body = Bytes::from(body);
        let mut pause = Duration::from_millis(4);
        let mut retries = FULL_RETRIES;
        loop {
            let response = self.send(class, path, body.clone()).await?;
            if response.status.is_success() {
                return Ok(response);
            }
            if response.status != StatusCode::SERVICE_UNAVAILABLE || retries == 0 {
                return Err(Box::pin(self.refusal(response)).await);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            retries -= 1;
        }
    }

    async fn send(&self, class: Option<Class>, path: &str, body: Bytes) -> Result<Response> {
        self.patiently(pin!(self.wire.send_as(class, Method::POST, path, body)))
            .await
    }

    /// What an answer other than success says.
    async fn refusal(&self, response: Response) -> Error {
        let status = response.status;
        let bytes = match self.patiently(pin!(response.bytes())).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        let fallback = if status.is_client_error() {
            ErrorCode::InvalidValue
        } else {
            ErrorCode::EngineUnavailable
        };
        if self.is_foreign()
            && let Some(error) = translate::error_of(&bytes, fallback)
        {
            return error;
        }
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => body.into_error(fallback),
            Err(_) => Error::new(fallback, format!("the engine answered {status}")),
        }
    }

    /// Waits for an answer as long as the engine shows a sign of life each time the patience is over. What is seldom needed is
    /// boxed: it would take room in every request, which is copied as it is handed on. So would the answer, twice, if it weren't pinned
    /// by the caller.
    async fn patiently<T>(
        &self,
        mut answer: Pin<&mut impl Future<Output = Result<T, WireError>>>,
    ) -> Result<T> {
        loop {
            match timeout(self.hang_timeout, &mut answer).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => return Err(Box::pin(self.lost(&*error)).await),
                Err(_) if Box::pin(self.is_alive()).await => {}
                Err(_) => return Err(Box::pin(self.end_silent()).await),
            }
        }
    }

    async fn is_alive(&self) -> bool {
        if let Some(peculiar) = &self.peculiar {
            return foreign::answers(&self.wire, &peculiar.health).await;
        }
        let asked = async {
            let response = self
                .wire
                .send(Method::GET, "/engine/ready", Bytes::new())
                .await?;
            let alive = response.status.is_success();
            response.bytes().await.map(|_| alive)
        };
        let patience = SHORT.min(self.hang_timeout);
        matches!(timeout(patience, asked).await, Ok(Ok(true)))
    }

    /// Returns once the engine has said nothing although nobody used it: then it is told to end, and the next request
    /// needn't find out. Whether a busy one is well shows in its answers.
    pub(crate) async fn watch(&self, is_idle: impl Fn() -> bool) {
        loop {
            tokio::time::sleep(self.hang_timeout).await;
            // Asked twice, as a whole machine may stand still for a while.
            let is_silent = async || !self.is_alive().await && !self.is_alive().await;
            if is_idle() && is_silent().await && is_idle() {
                return self.life.stop(Stop::Silent(self.hang_timeout));
            }
        }
    }

    /// The next piece of a streamed body; silence is taken for a hang. Before the first event the prompt is read, which may
    /// take long: then an engine that still answers has more patience.
    pub(super) async fn next_piece(
        &self,
        response: &mut Response,
        began: bool,
    ) -> Result<Option<Bytes>> {
        let rounds = if began { 1 } else { PROMPT_PATIENCE };
        let mut piece = pin!(response.chunk());
        for round in 1..=rounds {
            match timeout(self.hang_timeout, &mut piece).await {
                Ok(Ok(piece)) => return Ok(piece),
                Ok(Err(error)) => return Err(Box::pin(self.lost(&*error)).await),
                Err(_) if round < rounds && Box::pin(self.is_alive()).await => {}
                Err(_) => break,
            }
        }
        Err(Box::pin(self.end_silent()).await)
    }

    async fn end_silent(&self) -> Error {
        self.life.stop(Stop::Silent(self.hang_timeout));
        self.life.ended().await.error
    }

    /// Why the connection broke: the child's end, when that becomes known.
    pub(super) async fn lost(&self, error: &(dyn std::error::Error + Send + Sync)) -> Error {
        match timeout(END_KNOWN, self.life.ended()).await {
            Ok(end) => end.error,
            Err(_) => Error::new(
                ErrorCode::EngineCrashed,
                format!("the engine broke off its answer: {error}"),
            ),
        }
    }
}

pub(super) fn unreadable(why: &str) -> Error {
    Error::new(
        ErrorCode::EngineCrashed,
        format!("the engine's answer can't be used: {why}"),
    )
}

#[derive(Deserialize)]
struct Embeddings {
    data: Vec<Row>,
    #[serde(default)]
    usage: TotalTokens,
}

#[derive(Deserialize)]
struct Row {
    index: usize,
    embedding: Values,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    /// Little-endian f32 in base64.
    Base64(String),
    Floats(Vec<f32>),
}

#[derive(Deserialize)]
struct Reranked {
    results: Vec<Score>,
    #[serde(default)]
    usage: TotalTokens,
}

#[derive(Default, Deserialize)]
struct TotalTokens {
    #[serde(default)]
    total_tokens: u32,
}

impl Embeddings {
    fn into_vectors(mut self, expected: usize, fingerprint: &str) -> Result<Vectors> {
        self.data.sort_by_key(|row| row.index);
        if !self.data.iter().map(|row| row.index).eq(0..expected) {
            return Err(unreadable("it didn't embed every input once"));
        }
        let mut data = Vec::new();
        let mut dimension = None;
        for row in self.data {
            let begins = data.len();
            match row.embedding {
                Values::Floats(values) => data.extend(values),
                Values::Base64(text) => decode(&text, &mut data)?,
            }
            let length = data.len() - begins;
            if *dimension.get_or_insert(length) != length {
                return Err(unreadable("its vectors differ in length"));
            }
        }
        let dimension = dimension.unwrap_or(0);
        Ok(Vectors {
            dimension,
            data,
            fingerprint: fingerprint.into(),
            tokens: self.usage.total_tokens,
        })
    }
}

fn decode(text: &str, data: &mut Vec<f32>) -> Result<()> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| unreadable(&error.to_string()))?;
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(unreadable("a vector ends within a number"));
    }
    data.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &[(usize, &[f32])]) -> Embeddings {
        let encode = |values: &[f32]| {
            STANDARD.encode(
                values
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect::<Vec<_>>(),
            )
        };
        let rows: Vec<_> = rows
            .iter()
            .map(|(index, values)| json!({ "index": index, "embedding": encode(values) }))
            .collect();
        serde_json::from_value(
            json!({ "data": rows, "usage": { "prompt_tokens": 3, "total_tokens": 3 } }),
        )
        .unwrap()
    }

    #[test]
    fn rows_are_put_in_order() {
        let vectors = answer(&[(1, &[3.0, 4.0]), (0, &[1.0, 2.0])])
            .into_vectors(2, "f")
            .unwrap();
        assert_eq!(
            (vectors.dimension, vectors.data, vectors.tokens),
            (2, vec![1.0, 2.0, 3.0, 4.0], 3)
        );
    }

    #[test]
    fn floats_are_read_like_base64() {
        let rows = json!({ "data": [{ "index": 0, "embedding": [0.5, -1.0] }] });
        let answer: Embeddings = serde_json::from_value(rows).unwrap();
        assert_eq!(answer.into_vectors(1, "f").unwrap().data, [0.5, -1.0]);
    }

    #[test]
    fn missing_or_uneven_rows_are_refused() {
        for rows in [
            &[(0, &[1.0_f32][..])][..],
            &[(0, &[1.0]), (0, &[1.0])],
            &[(0, &[1.0]), (1, &[1.0, 2.0])],
        ] {
            assert_eq!(
                answer(rows).into_vectors(2, "f").unwrap_err().code,
                ErrorCode::EngineCrashed
            );
        }
    }
}
