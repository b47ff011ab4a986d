//! How large a model's context is made, the same for loading it and for estimating it.

use std::num::NonZeroU32;

use fusion_engine::{
    Launch,
    types::{Error, Result, model::ModelType},
};
use llama_cpp_4::{
    context::params::LlamaContextParams, max_parallel_sequences, quantize::GgmlType,
};

use crate::{decode::MOST_STREAMS, device::Device, gguf::Gguf, options, speculation::Speculation};

/// The launch options of a model that generates.
const OPTIONS: [&str; 12] = [
    "mmproj",
    "kv",
    "kv_type",
    "repack",
    "prefix_cache_mb",
    "speculate",
    "draft_max",
    "draft_p_min",
    "draft_model",
    "adapters",
    "chat_template",
    "warmup",
];

/// What a slot can hold when nobody says otherwise and the model was trained on more: enough for long documents. KV memory is
/// reserved at once and counts in the estimate.
const DEFAULT_LENGTH: u32 = 8192;
/// Assumed of a file that doesn't say what it was trained on.
const UNKNOWN_LENGTH: u32 = 2048;
/// Tokens for all slots, at most: more than any model was trained on, and few enough that no size overflows in llama.cpp.
const MOST_TOKENS: u32 = 1 << 25;
/// Tokens computed at once, at most: more makes prefill no faster on a CPU, but cancelling slower and the scratch larger.
const BATCH: u32 = 512;

/// Whose the KV cache is: the launch option `kv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kv {
    /// `shared`: the slots share one of the context's length; a beginning that they have in common is read and kept once. When
    /// it is full, the request taken last waits.
    Shared,
    /// `split`: every slot has one of the context's length. That takes as many times the memory, and nobody ever waits.
    Split,
}

impl Kv {
    fn of(launch: &Launch) -> Result<Self> {
        let values = [("shared", Self::Shared), ("split", Self::Split)];
        Ok(options::one_of(launch, "kv", &values)?.unwrap_or(Self::Shared))
    }
}

/// Bytes of a KV cache up to which idle prefixes leave it unless told otherwise.
const SMALL_CACHE: u64 = 256 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) kv: Kv,
    /// What keys and values are stored as: less than half precision takes less memory, and answers differ a little.
    kv_type: GgmlType,
    pub(crate) slots: u32,
    pub(crate) device: Device,
    /// For all slots.
    context_total: NonZeroU32,
    pub(crate) speculation: Speculation,
    /// The option `prefix_cache_mb`.
    stowed_bytes: Option<u64>,
}

impl Shape {
    /// # Errors
    /// `invalid_value` for what can't be, `not_implemented` for other types than text generation.
    pub(crate) fn of(launch: &Launch, gguf: &Gguf) -> Result<Self> {
        if !matches!(launch.model_type, ModelType::Lm | ModelType::Multimodal) {
            let name = launch.model_type.as_str();
            return Err(Error::not_implemented(format!(
                "a GGUF model of type {name}"
            )));
        }
        options::check_names(launch, &[&OPTIONS[..], &Device::OPTIONS].concat())?;
        let most = u32::try_from(max_parallel_sequences()).unwrap_or(u32::MAX);
        if !(1..=most).contains(&launch.slots) {
            return Err(Error::invalid(
                "slots",
                format!("slots must be from 1 to {most}"),
            ));
        }
        let trained = gguf.trained_length;
        let context_length = launch
            .context_length
            .unwrap_or_else(|| trained.unwrap_or(UNKNOWN_LENGTH).min(DEFAULT_LENGTH));
        if trained.is_some_and(|trained| context_length > trained) {
            tracing::warn!(
                context_length,
                trained,
                "the context is longer than what the model was trained on"
            );
        }
        let kv = Kv::of(launch)?;
        let times = if kv == Kv::Split { launch.slots } else { 1 };
        let context_total = context_length
            .checked_mul(times)
            .filter(|&total| total <= MOST_TOKENS)
            .and_then(NonZeroU32::new)
            .ok_or_else(|| {
                Error::invalid("context_length", "the context length is zero, or too large")
            })?;
        Ok(Self {
            kv,
            kv_type: kv_type(launch)?,
            slots: launch.slots,
            device: Device::of(launch)?,
            context_total,
            speculation: Speculation::of(launch)?,
            stowed_bytes: megabytes(launch, "prefix_cache_mb")?,
        })
    }

    /// What idle slots held may take outside the KV cache, which has `cache_bytes`. A small model spends much of its time on the cells
    /// of idle slots, so all of them may leave; beside a large one's weights they cost little, and much memory to keep twice.
    pub(crate) fn stowed_bytes(self, cache_bytes: u64) -> u64 {
        let gains = self.kv == Kv::Shared && self.slots > 1 && cache_bytes <= SMALL_CACHE;
        self.stowed_bytes
            .unwrap_or(if gains { cache_bytes } else { 0 })
    }

    /// Tokens, or cells of images, that are computed at once at most.
    pub(crate) fn batch(self) -> usize {
        BATCH.max(self.slots) as usize
    }

    pub(crate) fn context_params(self) -> LlamaContextParams {
        let threads = i32::try_from(self.device.threads).unwrap_or(i32::MAX);
        let most_guesses = u32::try_from(self.speculation.most * MOST_STREAMS).unwrap_or(u32::MAX);
        LlamaContextParams::default()
            .with_n_ctx(Some(self.context_total))
            .with_n_seq_max(self.slots)
            .with_kv_unified(self.kv == Kv::Shared)
            // llama.cpp turns flash attention on by itself where a quantized V needs it.
            .with_cache_type_k(self.kv_type)
            .with_cache_type_v(self.kv_type)
            .with_n_batch(BATCH.max(self.slots))
            .with_n_ubatch(BATCH.max(self.slots))
            .with_n_outputs_max(self.slots + most_guesses)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true)
    }

    /// Of a draft model, which reads what the model reads.
    pub(crate) fn draft_params(self) -> LlamaContextParams {
        self.context_params().with_n_outputs_max(self.slots)
    }
}

fn megabytes(launch: &Launch, option: &str) -> Result<Option<u64>> {
    let parse = |text: &str| {
        text.parse::<u32>()
            .map(|megabytes| u64::from(megabytes) * 1_000_000)
    };
    let given = launch.option(option).map(parse).transpose();
    given.map_err(|_| {
        let message = format!("{option} must be a whole number of megabytes");
        Error::invalid(format!("options.{option}"), message)
    })
}

/// The types that llama.cpp stores keys and values as: the launch option `kv_type`.
fn kv_type(launch: &Launch) -> Result<GgmlType> {
    let values = [
        ("f32", GgmlType::F32),
        ("f16", GgmlType::F16),
        ("bf16", GgmlType::BF16),
        ("q8_0", GgmlType::Q8_0),
        ("q5_1", GgmlType::Q5_1),
        ("q5_0", GgmlType::Q5_0),
        ("q4_1", GgmlType::Q4_1),
        ("q4_0", GgmlType::Q4_0),
        ("iq4_nl", GgmlType::IQ4NL),
    ];
    Ok(options::one_of(launch, "kv_type", &values)?.unwrap_or(GgmlType::F16))
}
