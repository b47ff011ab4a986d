//! The engine: one folder loaded, its requests answered.

use std::sync::Arc;

use async_trait::async_trait;
use fusion_engine::{
    Engine, Launch,
    types::{
        Error, ErrorCode, Result,
        embedding::{EmbedInput, EmbedRequest, Vectors},
        engine::{EngineCard, EngineStats, Estimate},
        model::{Capability, ModelType},
        rerank::{RerankRequest, Score, Scores},
    },
};
use serde_json::json;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
};

use crate::{
    backend::{self, SafetensorsFile},
    batch::Batch,
    compute::{self, Compute, Model},
    fingerprint::fingerprint,
    folder::{Folder, Weights, Wish},
    footprint,
    readout::{Reader, Readout},
    tokenizer::{TextTokenizer, Tokens},
};

/// Jobs that may wait for the compute thread, for each slot: its caller's own, and those that callers gave up on.
const QUEUE_PER_SLOT: usize = 4;

/// Requests beyond these would only wait; the server has the queue for that.
const MOST_SLOTS: u32 = 256;

/// An embedding model of the BERT family.
///
/// Options: `backend=auto|safetensors|onnx` chooses the weights (auto: an int8 ONNX file where there is one).
pub struct Tensor {
    tokenizer: Arc<TextTokenizer>,
    compute: Compute,
    card: EngineCard,
    fingerprint: Arc<str>,
    estimate: Estimate,
    dimension: usize,
    max_tokens: usize,
    slots: Semaphore,
    /// Token spans of long documents are found one request at a time, so that they take one core at most.
    span_turn: Semaphore,
}

#[async_trait]
impl Engine for Tensor {
    fn load(launch: &Launch) -> Result<Self> {
        let (folder, weights) = find(launch)?;
        let tokenizer = TextTokenizer::load(&folder)?;
        let estimate = footprint::estimate(&folder, &weights)?;
        let probe = tokenizer.tokens("")?;
        let backend = backend::open(
            &weights,
            &folder.bert,
            &Batch::new(&[&probe.ids], folder.bert.pad_token_id),
            &compute::pool(launch.threads),
        )?;
        let card = card(launch, &folder, &weights)?;
        let model = Model {
            backend,
            reader: Reader {
                pooling: folder.pooling,
                normalize: folder.normalize,
                dimension: folder.bert.hidden_size,
            },
            pad: folder.bert.pad_token_id,
        };
        let slots = card.slots as usize;
        tracing::info!(weights = %weights.file().display(), max_tokens = folder.max_tokens, "model loaded");
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            compute: Compute::start(model, launch.threads, slots * QUEUE_PER_SLOT)?,
            fingerprint: card.fingerprint.as_str().into(),
            card,
            estimate,
            dimension: folder.bert.hidden_size,
            max_tokens: folder.max_tokens,
            slots: Semaphore::new(slots),
            span_turn: Semaphore::new(1),
        })
    }

    fn estimate(launch: &Launch) -> Result<Estimate> {
        let (folder, weights) = find(launch)?;
        footprint::estimate(&folder, &weights)
    }

    fn card(&self) -> EngineCard {
        self.card.clone()
    }

    fn stats(&self) -> EngineStats {
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX);
        EngineStats {
            weights_bytes: self.estimate.weights_bytes,
            scratch_bytes: self.estimate.compute_bytes,
            slots_busy: self.card.slots.saturating_sub(free),
            tokens_in: self.compute.tokens(),
            ..EngineStats::default()
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Vectors> {
        let _slot = self.slot()?;
        let mut sequences = match request.input {
            EmbedInput::Texts(texts) => self.tokens(texts).await?,
            EmbedInput::Tokens(rows) => self.given_tokens(rows)?,
        };
        if !request.truncate {
            for (index, tokens) in sequences.iter().enumerate() {
                self.check_length(tokens, "input", Some(index))?;
            }
        }
        let tokens = self.truncate(&mut sequences);
        let outputs = self.compute.run(sequences, Readout::Pooled).await?;
        Ok(Vectors {
            dimension: self.dimension,
            data: outputs.concat(),
            fingerprint: Arc::clone(&self.fingerprint),
            tokens,
        })
    }

    /// MaxSim over token vectors: see [`crate::readout`]. A query that is too long is refused, since half a question asks
    /// something else.
    async fn rerank(&self, request: RerankRequest) -> Result<Scores> {
        let _slot = self.slot()?;
        let mut texts = request.documents;
        texts.push(request.query);
        let mut documents = self.tokens(texts).await?;
        let query = documents
            .pop()
            .ok_or_else(|| Error::internal("the query got lost"))?;
        self.check_length(&query, "query", None)?;
        if !request.truncate {
            for (index, tokens) in documents.iter().enumerate() {
                self.check_length(tokens, "documents", Some(index))?;
            }
        }
        let tokens = self.truncate(&mut documents).saturating_add(count(&query));

        let query = self
            .compute
            .run(vec![query], Readout::Tokens)
            .await?
            .concat();
        let scores = self
            .compute
            .run(documents, Readout::MaxSim(query.into()))
            .await?;
        let results = scores.into_iter().flatten().enumerate();
        Ok(Scores {
            results: results
                .map(|(index, relevance_score)| Score {
                    index,
                    relevance_score,
                })
                .collect(),
            tokens,
        })
    }

    async fn tokenize(&self, texts: Vec<String>) -> Result<Vec<Vec<(u32, u32)>>> {
        let _turn = self.span_turn.acquire().await;
        let tokenizer = Arc::clone(&self.tokenizer);
        off_thread(move || texts.iter().map(|text| tokenizer.spans(text)).collect()).await
    }

    fn set_threads(&self, threads: u32) {
        self.compute.set_threads(threads);
    }
}

impl Tensor {
    fn slot(&self) -> Result<SemaphorePermit<'_>> {
        self.slots.try_acquire().map_err(|_| {
            let what = format!("all {} slots are busy", self.card.slots);
            Error::new(ErrorCode::EngineUnavailable, what)
        })
    }

    async fn tokens(&self, texts: Vec<String>) -> Result<Vec<Tokens>> {
        let tokenizer = Arc::clone(&self.tokenizer);
        off_thread(move || texts.iter().map(|text| tokenizer.tokens(text)).collect()).await
    }

    /// Ids that a client made are computed as they are.
    fn given_tokens(&self, rows: Vec<Vec<u32>>) -> Result<Vec<Tokens>> {
        for (index, ids) in rows.iter().enumerate() {
            if ids.is_empty() {
                return Err(Error::invalid(
                    "input",
                    format!("input[{index}] has no tokens"),
                ));
            }
            if let Some(unknown) = ids.iter().find(|id| !self.tokenizer.knows(**id)) {
                let what = format!("input[{index}]: the model has no token {unknown}");
                return Err(Error::invalid("input", what));
            }
        }
        Ok(rows.into_iter().map(Tokens::given).collect())
    }

    fn check_length(&self, tokens: &Tokens, param: &str, index: Option<usize>) -> Result<()> {
        let (length, limit) = (tokens.len(), self.max_tokens);
        if length <= limit {
            return Ok(());
        }
        let place = index.map_or_else(|| param.to_owned(), |index| format!("{param}[{index}]"));
        let what = format!("{place} has {length} tokens, the model reads at most {limit}");
        Err(Error::new(ErrorCode::ContextLengthExceeded, what)
            .with_param(param)
            .with_details(json!({ "index": index, "tokens": length, "limit": limit })))
    }

    /// Cuts what is too long; the tokens that are left, in all.
    fn truncate(&self, sequences: &mut [Tokens]) -> u32 {
        sequences.iter_mut().fold(0, |sum: u32, tokens| {
            tokens.truncate(self.max_tokens);
            sum.saturating_add(count(tokens))
        })
    }
}

fn count(tokens: &Tokens) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

/// Long texts take a while to tokenize; the thread that carries the sockets must not wait for it.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let outcome = spawn_blocking(work).await;
    outcome.map_err(|error| Error::internal(format!("the tokenizer failed: {error}")))?
}

fn find(launch: &Launch) -> Result<(Folder, Weights)> {
    refuse_other_types(launch.model_type)?;
    if let Some((name, _)) = launch.options.iter().find(|(name, _)| name != "backend") {
        let message = format!("the tensor engine has no option {name}; it has backend");
        return Err(Error::invalid(format!("options.{name}"), message));
    }
    let wish: Wish = launch
        .option("backend")
        .map_or(Ok(Wish::Auto), str::parse)?;
    let folder = Folder::read(&launch.model, launch.context_length)?;
    let weights = Weights::find(&folder.transformer, wish)?;
    Ok((folder, weights))
}

fn refuse_other_types(model_type: ModelType) -> Result<()> {
    match model_type {
        ModelType::Embeddings => Ok(()),
        ModelType::Lm | ModelType::Multimodal => Err(Error::new(
            ErrorCode::UnsupportedOperation,
            format!("the tensor engine runs no {} models", model_type.as_str()),
        )),
        ModelType::Rerank
        | ModelType::Whisper
        | ModelType::ImageGeneration
        | ModelType::ImageEdit => {
            let what = format!(
                "the model type {} in the tensor engine",
                model_type.as_str()
            );
            Err(Error::not_implemented(what))
        }
    }
}

fn card(launch: &Launch, folder: &Folder, weights: &Weights) -> Result<EngineCard> {
    let stored_as = match weights {
        Weights::Safetensors(file) => SafetensorsFile::open(file)?.stored_as(),
        Weights::Onnx { int8: true, .. } => "int8",
        Weights::Onnx { int8: false, .. } => "f32",
    };
    let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(EngineCard {
        model_type: ModelType::Embeddings,
        family: Some("bert".to_owned()),
        capabilities: vec![Capability::Embeddings, Capability::Rerank],
        context_length: narrow(folder.max_tokens),
        slots: launch.slots.clamp(1, MOST_SLOTS),
        dimension: Some(narrow(folder.bert.hidden_size)),
        fingerprint: fingerprint(folder, weights)?,
        quantization: Some(stored_as.to_owned()),
    })
}
