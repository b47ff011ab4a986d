//! One GGUF model, loaded.

use std::sync::Arc;

use async_trait::async_trait;
use fusion_engine::{
    ChatStream, Engine, Launch,
    types::{
        Error, ErrorCode, Result,
        chat::{ChatRequest, MediaKind},
        engine::{EngineCard, EngineStats, Estimate},
        model::{Capability, ModelType},
    },
};
use llama_cpp_4::model::{LlamaModel, params::LlamaModelParams};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};

use crate::{
    adapters::Adapters,
    decode::{DecodeThread, Job, OUTPUTS},
    device::Device,
    generation::{Answer, Generation},
    gguf::Gguf,
    media::{self, Projector, ProjectorFile},
    model_file,
    prompt::{Prompt, Template},
    repack::{self, Source},
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
    device: Device,
    /// For images and sounds, where the model has one.
    projector: Option<Arc<Projector>>,
    /// Cells that are computed at once at most.
    batch: usize,
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
        let source = Source::of(launch, &gguf)?;
        let mut fingerprint = adapters.fingerprint(source.fingerprint.clone());
        let model = Arc::new(model_file::load(
            &source.path,
            &source.model_params(shape.device),
        )?);
        if !gguf.is_causal() || model.has_encoder() || !model.has_decoder() {
            let why = "it is not a model that continues text; a model that makes vectors is loaded as embeddings";
            return Err(model_file::unusable(&launch.model, why));
        }
        let projector = projector_file(launch)?;
        let template = Arc::new(Template::of(&model));
        let draft = draft_path(launch)
            .map(|path| load_draft(&path, &model))
            .transpose()?;
        let decode = DecodeThread::start(model.clone(), shape, adapters.clone(), draft)?;
        let context_length = decode.memory().context_length;
        let projector = match projector {
            Some(file) => {
                fingerprint = format!("{fingerprint}-{}", file.fingerprint()?);
                let (model, waker) = (model.clone(), decode.waker());
                Some(Arc::new(Projector::load(
                    &file,
                    model,
                    shape.device.threads,
                    waker,
                )?))
            }
            None => None,
        };
        let mut capabilities = Vec::new();
        if template.is_usable() {
            capabilities.extend([Capability::Chat, Capability::StructuredOutput]);
        }
        if template.is_usable() {
            let kinds = [MediaKind::Image, MediaKind::Audio].into_iter();
            let taken = kinds.filter(|kind| projector.as_ref().is_some_and(|it| it.takes(*kind)));
            capabilities.extend(taken.map(MediaKind::capability));
        }
        if context_length >= LONG_CONTEXT {
            capabilities.push(Capability::LongContext);
        }
        let card = EngineCard {
            model_type: launch.model_type,
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
            device: shape.device,
            projector,
            batch: shape.batch(),
            slots: Arc::new(Semaphore::new(shape.slots as usize)),
            card,
        })
    }

    fn estimate(launch: &Launch) -> Result<Estimate> {
        let gguf = Gguf::read(&launch.model)?;
        let shape = Shape::of(launch, &gguf)?;
        let adapters = Adapters::of(launch, &gguf)?;
        let tensors = repack::tensor_bytes(launch, &gguf)?;
        let (model, context) = (shape.device.model_params(), shape.context_params());
        let mut estimate = model_file::estimate(&launch.model, tensors, &model, &context)?;
        estimate.weights_bytes += adapters.bytes;
        estimate.compute_bytes += shape.stowed_bytes(estimate.context_bytes);
        if let Some(draft) = draft_path(launch) {
            let (model, context) = (LlamaModelParams::default(), shape.draft_params());
            let own = model_file::estimate(&draft, draft_bytes(&draft)?, &model, &context)?;
            estimate.weights_bytes += own.weights_bytes;
            estimate.compute_bytes += own.context_bytes + own.compute_bytes;
        }
        if let Some(projector) = projector_file(launch)? {
            estimate.weights_bytes += projector.weights_bytes();
            estimate.compute_bytes += projector.scratch_bytes();
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
        let (projector, batch) = (self.projector.clone(), self.batch);
        let (outputs, received) = mpsc::channel(OUTPUTS);
        let prepared = spawn_blocking(move || {
            let seen = media::look(projector.as_ref(), &request, batch)?;
            let prompt = template.prompt(&model, &request, seen.as_ref())?;
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
                    pieces: prompt.pieces,
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
        self.decode.set_threads(self.device.allowed(threads));
    }
}

fn projector_file(launch: &Launch) -> Result<Option<ProjectorFile>> {
    let wanted = launch.model_type == ModelType::Multimodal;
    wanted.then(|| ProjectorFile::find(launch)).transpose()
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
