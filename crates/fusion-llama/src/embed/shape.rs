//! How large the context of a pooled model is made, the same for loading it and for estimating it.

use std::num::NonZeroU32;

use fusion_engine::{
    Launch,
    types::{Error, Result},
};
use llama_cpp_4::context::params::{LlamaContextParams, LlamaPoolingType};

use super::queue::BATCH_TOKENS;
use crate::{device::Device, gguf::Gguf, options};

/// What a model reads when nobody says otherwise and it was trained on more.
const DEFAULT_LENGTH: u32 = 8192;
/// Assumed of a file that doesn't say what it was trained on.
const UNKNOWN_LENGTH: u32 = 512;
/// Tokens computed at once where a text may be read in parts.
const BATCH: u32 = 512;
/// Sequences in one batch, at most.
const MOST_SEQUENCES: u32 = 64;

/// How token states become one vector: what the file says, or the launch option `pooling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    Cls,
    Last,
    /// A classification head on top: a score.
    Rank,
}

impl Pooling {
    /// # Errors
    /// `invalid_value` for another name, and for a file that doesn't say where nobody else does.
    pub(crate) fn of(launch: &Launch, gguf: &Gguf) -> Result<Self> {
        let values = [
            ("mean", Self::Mean),
            ("cls", Self::Cls),
            ("last", Self::Last),
        ];
        if let Some(pooling) = options::one_of(launch, "pooling", &values)? {
            return Ok(pooling);
        }
        match gguf.pooling {
            Some(1) => Ok(Self::Mean),
            Some(2) => Ok(Self::Cls),
            Some(3) => Ok(Self::Last),
            Some(4) => Err(Error::invalid(
                "model_type",
                "the model scores texts and makes no vectors; it is loaded as rerank",
            )),
            _ => Err(Error::invalid(
                "options.pooling",
                "the file doesn't say how its vectors are pooled; say so with pooling=mean, cls or last",
            )),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Last => "last",
            Self::Rank => "rank",
        }
    }

    fn in_llama(self) -> LlamaPoolingType {
        match self {
            Self::Mean => LlamaPoolingType::Mean,
            Self::Cls => LlamaPoolingType::Cls,
            Self::Last => LlamaPoolingType::Last,
            Self::Rank => LlamaPoolingType::Rank,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PooledShape {
    pub(crate) device: Device,
    pub(crate) pooling: Pooling,
    /// Tokens of one sequence, at most.
    pub(crate) context_length: NonZeroU32,
    /// Tokens computed at once: all of a sequence, where later tokens are seen by earlier ones or all are pooled.
    batch: u32,
}

impl PooledShape {
    /// # Errors
    /// `invalid_value` for a length that the model has no positions for.
    pub(crate) fn of(launch: &Launch, gguf: &Gguf, pooling: Pooling) -> Result<Self> {
        let trained = gguf.trained_length.unwrap_or(UNKNOWN_LENGTH);
        let wanted = launch.context_length.unwrap_or(trained.min(DEFAULT_LENGTH));
        let context_length = NonZeroU32::new(wanted).filter(|length| length.get() <= trained);
        let context_length = context_length.ok_or_else(|| {
            let message = format!(
                "the context length must be from 1 to {trained}, what the model was trained on"
            );
            Error::invalid("context_length", message)
        })?;
        let in_parts = gguf.is_causal() && matches!(pooling, Pooling::Last | Pooling::Rank);
        let whole = wanted.max(u32::try_from(BATCH_TOKENS).unwrap_or(BATCH));
        Ok(Self {
            device: Device::of(launch)?,
            pooling,
            context_length,
            batch: if in_parts { whole.min(BATCH) } else { whole },
        })
    }

    pub(crate) fn context_params(self) -> LlamaContextParams {
        let threads = i32::try_from(self.device.threads).unwrap_or(i32::MAX);
        LlamaContextParams::default()
            .with_n_ctx(Some(
                self.context_length
                    .max(NonZeroU32::new(self.batch).unwrap_or(NonZeroU32::MIN)),
            ))
            .with_n_seq_max(MOST_SEQUENCES)
            .with_kv_unified(true)
            .with_n_batch(self.batch)
            .with_n_ubatch(self.batch)
            .with_embeddings(true)
            .with_pooling_type(self.pooling.in_llama())
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true)
    }

    pub(crate) fn most_sequences(self) -> usize {
        MOST_SEQUENCES as usize
    }
}
