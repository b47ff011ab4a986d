//! One GGUF model, loaded.

use std::sync::Arc;

use async_trait::async_trait;
use fusion_engine::{
    ChatStream, Engine, Launch,
    types::{
        Class, Error, ErrorCode, Result,
        chat::{ChatEvent, ChatRequest, Delta, MediaKind},
        completion::CompletionRequest,
        engine::{EngineCard, EngineStats, Estimate},
        model::{Capability, ModelType},
    },
};
use futures::{StreamExt, stream};
use llama_cpp_4::{common_sampler::CommonSampler, model::LlamaModel};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};

use crate::{
    adapters::{Adapters, Mix},
    decode::{DecodeThread, Job, OUTPUTS},
    device::Device,
    generation::{Answer, Generation},
    gguf::Gguf,
    matmul,
    media::{self, Projector, ProjectorFile},
    model_file,
    prompt::{Prompt, Template},
    raw_prompt,
    repack::{self, Source},
    sampler::sampler,
    shape::Shape,
    spans::spans,
    speculation::{draft_bytes, draft_path, load_draft},
    warmup,
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
        let as_it_is = launch.option("repack").is_none();
        let ahead = as_it_is.then(|| matmul::touch_ahead(&gguf)).flatten();
        let shape = Shape::of(launch, &gguf)?;
        let adapters = Adapters::of(launch, &gguf)?;
        let source = Source::of(launch, &gguf)?;
        let mut fingerprint = adapters.fingerprint(source.fingerprint.clone());
        let model = Arc::new(model_file::load(
            &source.path,
            &source.model_params(shape.device, &gguf),
        )?);
        drop(ahead);
        if !gguf.is_causal() || model.has_encoder() || !model.has_decoder() {
            let why = "it is not a model that continues text; a model that makes vectors is loaded as embeddings";
            return Err(model_file::unusable(&launch.model, why));
        }
        let projector = projector_file(launch)?;
        let template = Arc::new(Template::of(&model, launch.option("chat_template")));
        let draft = draft_path(launch)
            .map(|path| load_draft(&path, &shape.device.draft_params(), &model))
            .transpose()?;
        let decode = DecodeThread::start(model.clone(), shape, adapters.clone(), draft)?;
        if let Some(text) = launch.option("warmup") {
            let cold = warmup::Cold {
                model: &model,
                template: &template,
                decode: &decode,
                mix: adapters.mix(None)?,
            };
            cold.warm_up(text);
        }
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
        if template.calls_tools() {
            capabilities.push(Capability::ToolCalling);
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
        let (model, context) = (
            shape.device.model_params(gguf.gains_by_repacking),
            shape.context_params(),
        );
        let mut estimate = model_file::estimate(&launch.model, tensors, &model, &context)?;
        estimate.weights_bytes += adapters.bytes;
        // Prefixes outside the KV cache and the projector are the processor's, wherever the layers are.
        let is_on_gpu = model_file::is_on_gpu(&model)?;
        if !is_on_gpu {
            estimate.compute_bytes += shape.stowed_bytes(estimate.context_bytes);
        }
        if let Some(draft) = draft_path(launch) {
            let (model, context) = (shape.device.draft_params(), shape.draft_params());
            let own = model_file::estimate(&draft, draft_bytes(&draft)?, &model, &context)?;
            estimate.weights_bytes += own.weights_bytes;
            estimate.compute_bytes += own.context_bytes + own.compute_bytes;
        }
        if let Some(projector) = projector_file(launch)?
            && !is_on_gpu
        {
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

    async fn chat(&self, request: ChatRequest, class: Class) -> Result<ChatStream> {
        let template = self.template.clone();
        let mix = self.adapters.mix(request.sampling.adapters.as_deref())?;
        let (projector, batch) = (self.projector.clone(), self.batch);
        self.generate(class, mix, move |model| {
            let seen = media::look(projector.as_ref(), &request, batch)?;
            let prompt = template.prompt(model, &request, seen.as_ref())?;
            Ok(Wish {
                sampler: sampler(model, &request.sampling, &request.logit_bias, &prompt)?,
                is_seeded: request.sampling.seed.is_some(),
                prompt,
                stop: request.stop.clone(),
                max_tokens: request.max_tokens,
                top_logprobs: request.logprobs.then(|| request.top_logprobs.unwrap_or(0)),
                tools: callable(&request),
                param: "messages",
            })
        })
        .await
    }

    async fn complete(&self, request: CompletionRequest, class: Class) -> Result<ChatStream> {
        let model = self.model.clone();
        let echo = match request.echo {
            true => Some(raw_prompt::text(&model, &request.prompt)?),
            false => None,
        };
        let mix = self.adapters.mix(request.sampling.adapters.as_deref())?;
        let answer = self
            .generate(class, mix, move |model| {
                let prompt = Prompt::plain(raw_prompt::tokens(model, &request)?);
                Ok(Wish {
                    sampler: sampler(model, &request.sampling, &request.logit_bias, &prompt)?,
                    is_seeded: request.sampling.seed.is_some(),
                    prompt,
                    stop: request.stop.clone(),
                    max_tokens: request.max_tokens,
                    top_logprobs: request.logprobs,
                    tools: Vec::new(),
                    param: "prompt",
                })
            })
            .await?;
        let echo = echo.map(|text| Ok(ChatEvent::Delta(Delta::text(text))));
        Ok(stream::iter(echo).chain(answer).boxed())
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

/// A generation as it is wanted.
struct Wish {
    prompt: Prompt,
    sampler: CommonSampler,
    is_seeded: bool,
    /// Strings of the client's own that end the answer.
    stop: Vec<String>,
    max_tokens: Option<u32>,
    top_logprobs: Option<u32>,
    tools: Vec<String>,
    /// The request's field that the prompt is made of.
    param: &'static str,
}

impl Llama {
    /// Starts what `wish` makes of a request, on a thread where that may take its time.
    async fn generate(
        &self,
        class: Class,
        mix: Mix,
        wish: impl FnOnce(&LlamaModel) -> Result<Wish> + Send + 'static,
    ) -> Result<ChatStream> {
        let permit = self.slots.clone().try_acquire_owned().map_err(|_| {
            let message = format!("all {} slots are busy", self.card.slots);
            Error::new(ErrorCode::EngineUnavailable, message)
        })?;
        let (model, context_length) = (self.model.clone(), self.card.context_length as usize);
        let (outputs, received) = mpsc::channel(OUTPUTS);
        let prepared = spawn_blocking(move || {
            let wish = wish(&model)?;
            let length = wish.prompt.tokens.len();
            let max_tokens = allowed(length, wish.max_tokens, context_length, wish.param)?;
            let answer = Answer {
                stops: [wish.prompt.stops, wish.stop].concat(),
                parser: wish.prompt.parser,
                tools: wish.tools,
                prompt_tokens: length,
            };
            let job = Job {
                class,
                prompt: wish.prompt.tokens,
                pieces: wish.prompt.pieces,
                max_tokens,
                sampler: wish.sampler,
                is_seeded: wish.is_seeded,
                mix,
                top_logprobs: wish.top_logprobs.map(|top| top as usize),
                outputs,
            };
            Ok((job, answer))
        });
        let (job, answer) = prepared
            .await
            .map_err(|error| Error::internal(error.to_string()))??;
        self.decode.submit(job)?;
        let (model, waker) = (self.model.clone(), self.decode.waker());
        Ok(Generation::new(model, received, permit, waker, answer).into_stream())
    }
}

/// The names of the tools that an answer may call.
fn callable(request: &ChatRequest) -> Vec<String> {
    if !request.may_call_tools() {
        return Vec::new();
    }
    let names = request.tools.iter().map(|tool| tool.function.name.clone());
    names
        .filter(|name| request.named_tool().is_none_or(|named| named == name))
        .collect()
}

/// Tokens that may be generated: what is asked for, within what the prompt leaves of the context.
fn allowed(
    prompt: usize,
    max_tokens: Option<u32>,
    context_length: usize,
    param: &str,
) -> Result<usize> {
    if prompt >= context_length {
        let message = format!(
            "the prompt has {prompt} tokens, and with the answer it must fit the context of {context_length} tokens"
        );
        return Err(Error::new(ErrorCode::ContextLengthExceeded, message).with_param(param));
    }
    if max_tokens == Some(0) {
        return Err(Error::invalid(
            "max_tokens",
            "max_tokens must be at least 1",
        ));
    }
    let room = context_length - prompt;
    Ok(max_tokens.map_or(room, |most| room.min(most as usize)))
}
