//! The OpenAI dialect.

mod about;
pub(crate) mod adapters;
pub(crate) mod batches;
pub(crate) mod chat;
pub(crate) mod completions;
mod dialect;
pub(crate) mod embeddings;
pub(crate) mod files;
pub(crate) mod models;
pub(crate) mod rerank;
pub(crate) mod stream;

pub(crate) use dialect::OpenAi;
