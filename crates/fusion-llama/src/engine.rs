//! One GGUF model, loaded.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use fusion_engine::{
    ChatStream, Engine, Launch,
    types::{
        Error, ErrorCode, Result,
        chat::ChatRequest,
        engine::{EngineCard, EngineStats, Estimate},
        model::{Capability, ModelType},
    },
};
use llama_cpp_4::{
    context::params::LlamaContextParams,
    fit::{DeviceMemoryEntry, get_device_memory_data},
    model::LlamaModel,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};

use crate::{
    adapters::Adapters,
    decode::{DecodeThread, Job, OUTPUTS},
    generation::{Answer, Generation},
    gguf::Gguf,
    llama,
    prompt::{Prompt, Template},
    sampler::sampler,
    shape::Shape,
    spans::spans,
    speculation::{draft_bytes, draft_path, load_draft},
};

/// From this context length on a model counts as one for long texts.
const LONG_CONTEXT: u32 = 32_768;

pub struct Llama {
    model: Arc<LlamaModel>,
    template: Arc<Template>,
    adapters: Adapters,
    decode: DecodeThread,
    /// One permit a stream; it comes back when the stream is dropped, the slot within the step after.
    slots: Arc<Semaphore>,
    card: EngineCard,
}

#[async_trait]
impl Engine for Llama {
    fn load(launch: &Launch) -> Result<Self> {
        let gguf = Gguf::read(&launch.model)?;
        let shape = Shape::of(launch, &gguf)?;
        let adapters = Adapters::of(launch, &gguf)?;
        let fingerprint = adapters.fingerprint(gguf.fingerprint()?);
        let model = Arc::new(load_model(&launch.model)?);
        let template = Arc::new(Template::of(&model));
        let draft = draft_path(launch)
            .map(|path| load_draft(&path, &model))
            .transpose()?;
        let decode = DecodeThread::start(model.clone(), shape, adapters.clone(), draft)?;
        let context_length = decode.memory().context_length;
        let mut capabilities = Vec::new();
        if template.is_usable() {
            capabilities.extend([Capability::Chat, Capability::StructuredOutput]);
        }
        if context_length >= LONG_CONTEXT {
            capabilities.push(Capability::LongContext);
        }
        let card = EngineCard {
            model_type: ModelType::Lm,
            family: Some(gguf.architecture),
            capabilities,
            context_length,
            slots: shape.slots,
            dimension: None,
            fingerprint,
            quantization: model.ftype().map(|kind| kind.name().to_ascii_lowercase()),
        };
        Ok(Self {
            model,
            template,
            adapters,
            decode,
            slots: Arc::new(Semaphore::new(shape.slots as usize)),
            card,
        })
    }

    /// The tensors as the file has them, and what llama.cpp says of the context when it plans one without memory.
    fn estimate(launch: &Launch) -> Result<Estimate> {
        let gguf = Gguf::read(&launch.model)?;
        let shape = Shape::of(launch, &gguf)?;
        let adapters = Adapters::of(launch, &gguf)?;
        llama::backend()?;
        let (context_bytes, compute) = context_bytes(&launch.model, &shape.context_params())?;
        let mut estimate = Estimate {
            weights_bytes: gguf.tensor_bytes + adapters.bytes,
            context_bytes,
            compute_bytes: compute + shape.stowed_bytes(context_bytes),
        };
        if let Some(draft) = draft_path(launch) {
            estimate.weights_bytes += draft_bytes(&draft)?;
            let (context, compute) = self::context_bytes(&draft, &shape.draft_params())?;
            estimate.compute_bytes += context + compute;
        }
        Ok(estimate)
    }

    fn card(&self) -> EngineCard {
        self.card.clone()
    }

    fn stats(&self) -> EngineStats {
        self.decode.stats()
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let permit = self.slots.clone().try_acquire_owned().map_err(|_| {
            let message = format!("all {} slots are busy", self.card.slots);
            Error::new(ErrorCode::EngineUnavailable, message)
        })?;
        let (model, template, context_length) = (
            self.model.clone(),
            self.template.clone(),
            self.card.context_length as usize,
        );
        let mix = self.adapters.mix(request.sampling.adapters.as_deref())?;
        let (outputs, received) = mpsc::channel(OUTPUTS);
        let prepared = spawn_blocking(move || {
            let prompt = template.prompt(&model, &request)?;
            let max_tokens = allowed(&prompt, &request, context_length)?;
            let sampler = sampler(&model, &request, &prompt)?;
            let answer = Answer {
                stops: [prompt.stops.as_slice(), &request.stop].concat(),
                parser: prompt.parser,
                prompt_tokens: prompt.tokens.len(),
            };
            Ok((
                Job {
                    prompt: prompt.tokens,
                    max_tokens,
                    sampler,
                    mix,
                    outputs,
                },
                answer,
            ))
        });
        let (job, answer) = prepared
            .await
            .map_err(|error| Error::internal(error.to_string()))??;
        self.decode.submit(job)?;
        let (model, waker) = (self.model.clone(), self.decode.waker());
        Ok(Generation::new(model, received, permit, waker, answer).into_stream())
    }

    async fn tokenize(&self, texts: Vec<String>) -> Result<Vec<Vec<(u32, u32)>>> {
        let model = self.model.clone();
        spawn_blocking(move || texts.iter().map(|text| spans(&model, text)).collect())
            .await
            .map_err(|error| Error::internal(error.to_string()))?
    }

    fn set_threads(&self, threads: u32) {
        self.decode.set_threads(threads);
    }
}

/// What llama.cpp says of a context's KV cache and scratch when it plans one without memory.
fn context_bytes(path: &Path, context: &LlamaContextParams) -> Result<(u64, u64)> {
    let model = Shape::model_params();
    let report = llama::attempt(|| get_device_memory_data(path, &model, context, llama::ERROR))
        .map_err(|why| unusable(path, &why))?;
    let sum = |bytes: fn(&DeviceMemoryEntry) -> usize| {
        report.entries.iter().map(|entry| bytes(entry) as u64).sum()
    };
    Ok((sum(|entry| entry.context), sum(|entry| entry.compute)))
}

fn load_model(path: &Path) -> Result<LlamaModel> {
    let backend = llama::backend()?;
    let model =
        llama::attempt(|| LlamaModel::load_from_file(backend, path, &Shape::model_params()))
            .map_err(|why| unusable(path, &why))?;
    if model.has_encoder() || !model.has_decoder() {
        return Err(unusable(path, "it is not a model that continues text"));
    }
    Ok(model)
}

/// Tokens that may be generated: what is asked for, within what the prompt leaves of the context.
fn allowed(prompt: &Prompt, request: &ChatRequest, context_length: usize) -> Result<usize> {
    let length = prompt.tokens.len();
    if length >= context_length {
        let message = format!(
            "the prompt has {length} tokens, and with the answer it must fit the context of {context_length} tokens"
        );
        return Err(Error::new(ErrorCode::ContextLengthExceeded, message).with_param("messages"));
    }
    if request.max_tokens == Some(0) {
        return Err(Error::invalid(
            "max_tokens",
            "max_tokens must be at least 1",
        ));
    }
    let room = context_length - length;
    Ok(request
        .max_tokens
        .map_or(room, |most| room.min(most as usize)))
}

fn unusable(path: &Path, why: &str) -> Error {
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    Error::invalid("model", format!("{name} can't be used: {why}"))
}
