//! The OpenAI dialect.

mod about;
pub(crate) mod adapters;
pub(crate) mod chat;
mod choices;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod rerank;
mod stream;
