//! What goes to the decode thread, and what comes back.

use fusion_engine::types::{Class, Error, chat::FinishReason};
use llama_cpp_4::{common_sampler::CommonSampler, token::LlamaToken};
use tokio::sync::mpsc;

use super::{likely::Likely, piece::Pieces};
use crate::adapters::Mix;

/// Outputs that may wait for the client's task; room for a token and the end of the generation is the least that works.
pub(crate) const OUTPUTS: usize = 32;

/// One generation.
pub(crate) struct Job {
    pub(crate) class: Class,
    /// At least one token, and fewer than the context holds.
    pub(crate) prompt: Vec<LlamaToken>,
    /// Its images and sounds; their cells have numbers below zero in the prompt.
    pub(crate) pieces: Pieces,
    /// At least 1; prompt and answer together fit the context.
    pub(crate) max_tokens: usize,
    pub(crate) sampler: CommonSampler,
    /// The same request is to have the same answer again.
    pub(crate) is_seeded: bool,
    /// How many of the likeliest tokens are told with each token; `None` where no likelihood is.
    pub(crate) top_logprobs: Option<usize>,
    pub(crate) mix: Mix,
    pub(crate) outputs: mpsc::Sender<Output>,
}

#[derive(Debug)]
pub(crate) enum Output {
    /// The request has a slot, which held this many of the prompt's tokens already.
    Started {
        cached: usize,
    },
    Token(LlamaToken, Option<Likely>),
    Finished(FinishReason),
    Failed(Error),
}
