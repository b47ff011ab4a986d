//! A reranker, loaded.

use std::{num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use fusion_engine::{
    Engine, Launch,
    types::{
        Error, Result,
        engine::{EngineCard, EngineStats, Estimate},
        model::{Capability, ModelType},
        rerank::{RerankRequest, Score, Scores},
    },
};
use llama_cpp_4::{context::params::LlamaContextParams, model::LlamaModel, token::LlamaToken};

use super::{
    judge::{Judge, MOST_DOCUMENTS},
    pairs::{self, Format},
    question::{INSTRUCTION, Question},
};
use crate::{
    device::Device,
    embed::{Pooled, PooledShape, Pooling, Readout},
    gguf::Gguf,
    model_file,
    off_thread::off_thread,
    options,
    slots::Slots,
    spans::spans,
};

/// The launch option of a language model as a reranker, beside the device's: what the query asks for.
const OPTIONS: [&str; 1] = ["instruction"];
/// Tokens of instruction, query and document that a language model reads when nobody says otherwise.
const DEFAULT_LENGTH: u32 = 4096;
/// Tokens computed at once.
const BATCH: u32 = 512;

pub struct Reranker {
    model: Arc<LlamaModel>,
    scorer: Scorer,
    device: Device,
    slots: Slots,
    card: EngineCard,
}

enum Scorer {
    Head {
        pooled: Pooled,
        format: Arc<Format>,
    },
    Words {
        judge: Judge,
        question: Arc<Question>,
    },
}

/// What is known before the model is loaded.
enum Plan {
    Head(PooledShape),
    Words(Device, NonZeroU32),
}

#[async_trait]
impl Engine for Reranker {
    fn load(launch: &Launch) -> Result<Self> {
        let (gguf, plan) = plan(launch)?;
        let device = plan.device();
        let instruction = launch.option("instruction").unwrap_or(INSTRUCTION);
        let setting = match &plan {
            Plan::Head(_) => "rank=head".to_owned(),
            Plan::Words(..) => format!("rank=words instruction={instruction}"),
        };
        let fingerprint = gguf.fingerprint_with(&setting)?;
        let model = Arc::new(model_file::load(
            &launch.model,
            &device.model_params(gguf.gains_by_repacking),
        )?);
        let slots = Slots::of(launch);
        let card = EngineCard {
            model_type: ModelType::Rerank,
            family: Some(gguf.architecture),
            capabilities: vec![Capability::Rerank],
            context_length: plan.context_length().get(),
            slots: slots.count(),
            dimension: None,
            fingerprint,
            quantization: model.ftype().map(|kind| kind.name().to_ascii_lowercase()),
        };
        let scorer = plan.scorer(&model, slots.count() as usize, instruction)?;
        Ok(Self {
            model,
            scorer,
            device,
            slots,
            card,
        })
    }

    fn estimate(launch: &Launch) -> Result<Estimate> {
        let (gguf, plan) = plan(launch)?;
        let model = plan.device().model_params(gguf.gains_by_repacking);
        let context = plan.context_params();
        model_file::estimate(&launch.model, gguf.tensor_bytes, &model, &context)
    }

    fn card(&self) -> EngineCard {
        self.card.clone()
    }

    fn stats(&self) -> EngineStats {
        let stats = match &self.scorer {
            Scorer::Head { pooled, .. } => pooled.stats(),
            Scorer::Words { judge, .. } => judge.stats(),
        };
        EngineStats {
            slots_busy: self.slots.busy(),
            ..stats
        }
    }

    async fn rerank(&self, request: RerankRequest) -> Result<Scores> {
        let _slot = self.slots.take()?;
        let sequences = self.sequences(request).await?;
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let scores = match &self.scorer {
            Scorer::Head { pooled, .. } => {
                let outputs = pooled.run(sequences).await?;
                // A head with several labels has the one that is asked for first.
                let first = |output: Vec<f32>| output.first().copied().unwrap_or(f32::NEG_INFINITY);
                outputs.into_iter().map(first).collect()
            }
            Scorer::Words { judge, .. } => judge.run(sequences).await?,
        };
        let results = scores
            .into_iter()
            .enumerate()
            .map(|(index, relevance_score)| Score {
                index,
                relevance_score,
            });
        Ok(Scores {
            results: results.collect(),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }

    async fn tokenize(&self, texts: Vec<String>) -> Result<Vec<Vec<(u32, u32)>>> {
        let model = Arc::clone(&self.model);
        off_thread(move || texts.iter().map(|text| spans(&model, text)).collect()).await
    }

    fn set_threads(&self, threads: u32) {
        let threads = self.device.allowed(threads);
        match &self.scorer {
            Scorer::Head { pooled, .. } => pooled.set_threads(threads),
            Scorer::Words { judge, .. } => judge.set_threads(threads),
        }
    }
}

impl Reranker {
    async fn sequences(&self, request: RerankRequest) -> Result<Vec<Vec<LlamaToken>>> {
        let model = Arc::clone(&self.model);
        let most = self.card.context_length as usize;
        match &self.scorer {
            Scorer::Head { format, .. } => {
                let format = Arc::clone(format);
                off_thread(move || format.sequences(&model, &request, most)).await
            }
            Scorer::Words { question, .. } => {
                let question = Arc::clone(question);
                off_thread(move || question.prompts(&model, &request, most)).await
            }
        }
    }
}

fn plan(launch: &Launch) -> Result<(Gguf, Plan)> {
    let gguf = Gguf::read(&launch.model)?;
    if gguf.has_head {
        options::check_names(launch, &Device::OPTIONS)?;
        let shape = PooledShape::of(launch, &gguf, Pooling::Rank)?;
        return Ok((gguf, Plan::Head(shape)));
    }
    options::check_names(launch, &[&OPTIONS[..], &Device::OPTIONS].concat())?;
    let default = gguf
        .trained_length
        .unwrap_or(DEFAULT_LENGTH)
        .min(DEFAULT_LENGTH);
    let length = NonZeroU32::new(launch.context_length.unwrap_or(default))
        .ok_or_else(|| Error::invalid("context_length", "the context length is zero"))?;
    Ok((gguf, Plan::Words(Device::of(launch)?, length)))
}

impl Plan {
    fn device(&self) -> Device {
        match self {
            Self::Head(shape) => shape.device,
            Self::Words(device, _) => *device,
        }
    }

    fn context_length(&self) -> NonZeroU32 {
        match self {
            Self::Head(shape) => shape.context_length,
            Self::Words(_, length) => *length,
        }
    }

    fn context_params(&self) -> LlamaContextParams {
        match self {
            Self::Head(shape) => shape.context_params(),
            Self::Words(device, length) => words_params(*device, *length),
        }
    }

    fn scorer(&self, model: &Arc<LlamaModel>, slots: usize, instruction: &str) -> Result<Scorer> {
        match *self {
            Self::Head(shape) => {
                let format = Format::of(model);
                pairs::check(&format)?;
                let pooled = Pooled::start(Arc::clone(model), shape, Readout::Head, slots)?;
                let format = Arc::new(format);
                Ok(Scorer::Head { pooled, format })
            }
            Self::Words(device, length) => {
                let question = Arc::new(Question::of(model, instruction)?);
                let words = (question.yes, question.no);
                let params = move || words_params(device, length);
                let judge = Judge::start(Arc::clone(model), device.threads, slots, params, words)?;
                Ok(Scorer::Words { judge, question })
            }
        }
    }
}

fn words_params(device: Device, length: NonZeroU32) -> LlamaContextParams {
    let threads = i32::try_from(device.threads).unwrap_or(i32::MAX);
    LlamaContextParams::default()
        .with_n_ctx(Some(length))
        .with_n_seq_max(1 + MOST_DOCUMENTS)
        .with_kv_unified(true)
        .with_n_batch(BATCH)
        .with_n_ubatch(BATCH)
        .with_n_outputs_max(1 + MOST_DOCUMENTS)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_no_perf(true)
}
