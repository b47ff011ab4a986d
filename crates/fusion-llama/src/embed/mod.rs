//! Texts to vectors, and pairs of texts to scores, with models that make one of each sequence: BERT and its like, and language
//! models whose last token stands for the text.
//!
//! `engine` is the way in. `input` makes token sequences, `pooled` is the thread that computes them, `queue` its pure decision of
//! what goes into a batch, `shape` how large its context is.

mod engine;
mod input;
mod pooled;
mod queue;
mod shape;

pub use engine::Embedder;
pub(crate) use {
    input::{Frame, Limit, plain_tokens},
    pooled::{Pooled, Readout},
    shape::{PooledShape, Pooling},
};
