//! The crate by its public face, on fakes that keep the promises of their traits.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod batch;
mod batch_setup;
mod files;
mod jobs;
mod jobs_follow;
mod jobs_operations;
mod jobs_setup;
mod jobs_store;
mod jobs_together;
mod rag_ingest;
mod rag_query;
mod support;
mod webhook;
mod webhook_care;
mod webhook_retries;
mod webhook_setup;
mod workflow;
