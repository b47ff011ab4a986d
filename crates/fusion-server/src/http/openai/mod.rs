//! The OpenAI dialect.

pub(crate) mod adapters;
pub(crate) mod chat;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod rerank;
