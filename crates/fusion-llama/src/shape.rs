//! How large a model's context is made, the same for loading it and for estimating it.

use std::num::NonZeroU32;

use fusion_engine::{
    Launch,
    types::{Error, Result, model::ModelType},
};
use llama_cpp_4::{
    context::params::LlamaContextParams, max_parallel_sequences, model::params::LlamaModelParams,
};

use crate::gguf::Gguf;

/// What a slot holds when nobody says otherwise and the model was trained on more: enough for long documents, while a few
/// slots of a small model still fit a small machine. KV memory is reserved for all slots at once and counts in the estimate.
const DEFAULT_LENGTH: u32 = 8192;
/// Assumed of a file that doesn't say what it was trained on.
const UNKNOWN_LENGTH: u32 = 2048;
/// Tokens computed at once, at most: more makes prefill no faster on a CPU, but cancelling slower and the scratch larger.
const BATCH: u32 = 512;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) slots: u32,
    pub(crate) threads: u32,
    /// For all slots.
    context_total: NonZeroU32,
}

impl Shape {
    /// # Errors
    /// `invalid_value` for what can't be, `not_implemented` for other types than text generation.
    pub(crate) fn of(launch: &Launch, gguf: &Gguf) -> Result<Self> {
        if launch.model_type != ModelType::Lm {
            let name = launch.model_type.as_str();
            return Err(Error::not_implemented(format!(
                "a GGUF model of type {name}"
            )));
        }
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
        let context_total = context_length
            .checked_mul(launch.slots)
            .and_then(NonZeroU32::new)
            .ok_or_else(|| {
                Error::invalid(
                    "context_length",
                    "the context length is zero, or too large for the slots",
                )
            })?;
        Ok(Self {
            slots: launch.slots,
            threads: launch.threads.max(1),
            context_total,
        })
    }

    pub(crate) fn model_params() -> LlamaModelParams {
        LlamaModelParams::default()
    }

    /// Every slot has its own part of the KV cache: attention then covers one slot's tokens, not everybody's.
    pub(crate) fn context_params(self) -> LlamaContextParams {
        let threads = i32::try_from(self.threads).unwrap_or(i32::MAX);
        LlamaContextParams::default()
            .with_n_ctx(Some(self.context_total))
            .with_n_seq_max(self.slots)
            .with_kv_unified(false)
            .with_n_batch(BATCH.max(self.slots))
            .with_n_ubatch(BATCH.max(self.slots))
            .with_n_outputs_max(self.slots)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true)
    }
}
